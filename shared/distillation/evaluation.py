"""How good a model is on labelled images, at T = 1: errors, likelihood, calibration, confusion."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from shared.contracts.evaluation import Evaluation, NetFigures, ReliabilityBin
from shared.distillation.intervals import wilson_interval

BINS = 15


def evaluate(
    logits: Float[Tensor, "rows classes"], labels: Int64[Tensor, " rows"], classes: Sequence[str]
) -> Evaluation:
    """Return the figures of a model on labelled images.

    Args:
        logits: its scores at T = 1.
        labels: the true classes.
        classes: their names, in the order of the logits.

    Raises:
        ValueError: there are no images, or a logit is not finite.
    """
    if not len(labels):
        raise ValueError("an evaluation needs at least one image")
    if not bool(logits.isfinite().all()):
        raise ValueError("a logit is not finite")
    # float64: a mean over 10,000 images should not depend on how they were added up.
    log_probabilities = F.log_softmax(logits.double().cpu(), dim=-1)
    labels = labels.cpu()
    probabilities = log_probabilities.exp()
    confidence, predicted = probabilities.max(-1)
    right = predicted == labels
    count, errors = len(labels), int((~right).sum())
    one_hot = F.one_hot(labels, len(classes)).double()
    bins = reliability(confidence, right)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    confusion.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
    wrong = confusion.sum(1) - confusion.diagonal()
    return Evaluation(
        examples=count,
        errors=errors,
        accuracy=1 - errors / count,
        accuracy_interval=wilson_interval(count - errors, count),
        nll=float(-log_probabilities.gather(1, labels.unsqueeze(1)).mean()),
        brier=float((probabilities - one_hot).square().sum(-1).mean()),
        ece=expected_calibration_error(bins),
        reliability=bins,
        errors_by_class=dict(zip(classes, wrong.tolist(), strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def in_short(
    evaluation: Evaluation,
    arm: str,
    seed: int,
    *,
    agreement: float | None = None,
    validation_accuracy: float | None = None,
) -> NetFigures:
    """Return the figures of one of several nets, without the tables that only the served one needs."""
    return NetFigures(
        arm=arm,
        seed=seed,
        agreement=agreement,
        validation_accuracy=validation_accuracy,
        **evaluation.model_dump(include={"errors", "accuracy", "nll", "brier", "ece", "errors_by_class"}),
    )


def reliability(
    confidence: Float[Tensor, " rows"], right: Bool[Tensor, " rows"]
) -> tuple[ReliabilityBin, ...]:
    """Return the bins of the reliability plot: equal widths, each with its lower edge left out."""
    index = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    found = []
    for number in range(BINS):
        inside = index == number
        count = int(inside.sum())
        found.append(
            ReliabilityBin(
                lower=number / BINS,
                upper=(number + 1) / BINS,
                count=count,
                mean_confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(right[inside].double().mean()) if count else None,
            )
        )
    return tuple(found)


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the mean gap between confidence and accuracy over examples (Guo et al. 2017)."""
    total = sum(one.count for one in bins)
    return sum(
        one.count / total * abs(one.accuracy - one.mean_confidence)
        for one in bins
        if one.accuracy is not None and one.mean_confidence is not None
    )
