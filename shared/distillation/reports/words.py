"""Tables, numbers and names as reports write them."""

import re
from collections.abc import Iterable, Mapping, Sequence

from shared.contracts.architectures import Architecture, Mlp
from shared.contracts.reports import Plot
from shared.contracts.training import Budget, Objective, Regularisation, TransferSetSpec


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; users' own names go through `cell` first."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(*given: tuple[str, str]) -> str:
    """Return a list of named facts; those without a value are left out."""
    return "\n".join(f"- {name}: {value}" for name, value in given if value)


def cell(text: str) -> str:
    """Return text as it may stand in a table cell or a line: class names are the users' own."""
    return " ".join(re.sub(r"([\\`|*_<>&\[\]])", r"\\\1", text).split())


def pictures(plots: Iterable[Plot]) -> str:
    """Return the plots as pictures, by their names beside the page."""
    return "\n\n".join(f"![{cell(plot.title)}]({plot.name}.png)" for plot in plots)


def points(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return f"{share * 100:+.2f}"


def size(count: int) -> str:
    """Return a number of bytes in kB (1,000 bytes) or MB."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def p_value(value: float) -> str:
    """Return a p-value to three decimals."""
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def network(architecture: Architecture) -> str:
    """Return what kind of net it is, in words."""
    if isinstance(architecture, Mlp):
        return f"perceptron with hidden layers of {', '.join(map(str, architecture.hidden_units))} units"
    sizes = settings(architecture.model_dump(mode="json", exclude={"architecture"}))
    return ", ".join(part for part in (architecture.architecture, sizes) if part)


def objective(asked: Objective) -> str:
    """Return the terms of the loss with their weights."""
    terms = [f"T = {asked.temperature:g}"]
    weights = {"soft": asked.soft_weight, "hard": asked.hard_weight, "logit": asked.logit_weight}
    terms += [f"{name} weight {weight:g}" for name, weight in weights.items() if weight]
    if asked.decoupled is not None:
        one = asked.decoupled
        terms.append(f"decoupled {one.target_weight:g} (target) and {one.non_target_weight:g} (others)")
    if asked.hint is not None:
        hint = asked.hint
        terms.append(f"hint {hint.weight:g} from {hint.teacher_layer} to {hint.student_layer}")
    if asked.attention is not None:
        pairs = ", ".join(f"{teacher} to {student}" for student, teacher in asked.attention.layers)
        terms.append(f"attention transfer {asked.attention.weight:g} from {pairs}")
    if asked.standardise:
        terms.append("logits standardised")
    if asked.alternate:
        terms.append("soft and hard steps in turn")
    return cell(", ".join(terms))


def transfer_set(asked: TransferSetSpec) -> str:
    """Return which views of which images, in words."""
    told = [f"{asked.views} view(s) an image"]
    if asked.jitter_px:
        told.append(f"shifted by up to {asked.jitter_px} px")
    if asked.flip:
        told.append("mirrored")
    if asked.crop_scale is not None:
        told.append(f"crops of at least {asked.crop_scale:.0%} of the area")
    if asked.cutout_px:
        told.append(f"squares of {asked.cutout_px} px cut out")
    if asked.brightness or asked.contrast:
        told.append(f"brightness by ±{asked.brightness:.0%} and contrast by ±{asked.contrast:.0%}")
    if asked.omit:
        told.append(f"without the classes {', '.join(asked.omit)}")
    if asked.only:
        told.append(f"only the classes {', '.join(asked.only)}")
    if asked.share < 1:
        told.append(f"{asked.share:.2%} of the images")
    if asked.choose is not None:
        by = asked.choose.by if asked.choose.student is None else f"disagreement with {asked.choose.student}"
        told.append(f"of these {asked.choose.share:.2%}, chosen by {by}")
    if asked.label_share < 1:
        told.append(f"labels of {asked.label_share:.2%} of them")
    if asked.top_k is not None:
        told.append(f"the {asked.top_k} largest logits a row")
    return cell(", ".join(told))


def budget(asked: Budget) -> str:
    """Return how long and how fast, in words."""
    decay = f", weight decay {asked.weight_decay:g}" if asked.weight_decay else ""
    return (
        f"{asked.epochs} epochs, batches of {asked.batch_size}, {asked.optimizer} at {asked.learning_rate:g}"
        f"{decay}, {asked.precision}, {asked.keep} epoch kept"
    )


def regularisation(asked: Regularisation) -> str:
    """Return what is not at its default, in words; empty where nothing is."""
    return settings(asked.model_dump(exclude_defaults=True))


def settings(given: Mapping[str, object]) -> str:
    """Return names and values as one line."""
    return cell(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items()))
