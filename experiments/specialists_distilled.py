"""Generalist and specialists distilled back into one student, which the paper left open (its section 8).

The student has the generalist's shape and starts from first weights of its own. Beside it a student is
taught by the generalist alone under the same budget: what it gains, no specialist taught.
On Tiny ImageNet, and in the full form on Omniglot, too. Estimated: 9 + 9 minutes beside the jobs of
`specialists`.
"""

from experiments import specialists
from experiments.experiment import Experiment, Form, JobStep, Outcomes, Step, accuracies
from experiments.paired import paired_interval
from experiments.result import Figure, Finding, Table
from shared.contracts.specs import DistillationSpec
from shared.contracts.training import Budget, Objective, StudentSpec, TransferSetSpec

BAR = 80.0
"""Per cent of the gain."""


def sets_of(form: Form) -> tuple[str, ...]:
    """Return the sets of a form: the reduced one has that on which specialists gain."""
    return ("tiny-imagenet",) if form.reduced else specialists.SETS


def student(form: Form, of: str, step: str, teacher: JobStep) -> JobStep:
    """Return the distillation of one net of the generalist's shape from a teacher."""
    rule = specialists.regularisation(form, of)
    budgets = {
        "tiny-imagenet": specialists.tiny_budget(form, 100, 10),
        "omniglot": Budget(epochs=form(200, 60), batch_size=128, precision="bfloat16", keep="last"),
    }
    spec = DistillationSpec(
        name=form.named("specialists-distilled", step),
        teacher=teacher.spec.name,
        dataset=specialists.DATASETS[of],
        student=StudentSpec(
            network=specialists.network(form, of),
            regularisation=rule.model_copy(update={"jitter_px": 0, "flip": False}),
        ),
        objective=Objective(temperature=2.0, soft_weight=0.9, hard_weight=0.1),
        transfer_set=TransferSetSpec(views=form(40, 10), jitter_px=rule.jitter_px, flip=rule.flip),
        budget=budgets[of],
        seeds=form.seeds,
    )
    return JobStep(step, spec, after=(teacher.name,))


def steps(form: Form) -> list[Step]:
    """Return generalist, specialists, and the two students on each set."""
    made: list[Step] = []
    for of in sets_of(form):
        generalist, ensemble = specialists.generalist(form, of), specialists.ensemble(form, of)
        made += [
            generalist,
            ensemble,
            student(form, of, f"{of}-student", ensemble),
            student(form, of, f"{of}-of-generalist", generalist),
        ]
    return made


def summarise(outcomes: Outcomes) -> Finding:
    """Say which share of the specialists' gain the student keeps, and whether it takes specialists.

    A new net of the generalist's shape may beat the generalist whoever teaches it: the control is the student
    that the generalist alone taught, compared seed by seed.
    """
    figures: list[Figure] = []
    headlines: list[str] = []
    said: list[str] = []
    rows: list[tuple[str, ...]] = []
    reached = []
    for of in sets_of(outcomes.form):
        alone, together, report = specialists.gain(outcomes, of)
        words = specialists.WORDS[of]
        # What teaches is the published seed's ensemble, not the mean of all.
        teacher = Figure(
            label=f"{words}: generalist and specialists, as published",
            unit="%",
            values=(100 * report.combined.accuracy,),
        )
        one = accuracies(f"{words}: distilled into one student", outcomes.nets(f"{of}-student", "taught"))
        control = accuracies(
            f"{words}: taught by the generalist alone", outcomes.nets(f"{of}-of-generalist", "taught")
        )
        untaught = accuracies(f"{words}: untaught", outcomes.nets(f"{of}-student", "untaught"))
        figures += [alone, together, teacher, one, control, untaught]
        kept, kept_by_control = (share_kept(net, alone, teacher) for net in (one, control))
        reached.append(kept is not None and kept >= BAR)
        interval = paired_interval(one.values, control.values)
        headlines.append(
            f"{words}: {alone.mean:.2f} → {teacher.mean:.2f} → {one.mean:.2f} % "
            f"({_share(kept)}); taught by the generalist alone {control.mean:.2f} % "
            f"({_share(kept_by_control)})"
        )
        said.append(
            f"{words}: {_gain_words(alone, teacher, one, kept)}; "
            f"{_control_words(control, interval, kept_by_control)}"
        )
        rows += _rows(words, one, control, interval)
    bar = f"{BAR:.0f} % of the gain {'reached' if any(reached) else 'not reached'}"
    return Finding(
        figures=tuple(figures),
        headline="; ".join(headlines),
        reached=any(reached),
        verdict=f"{'. '.join(said)}. {bar}.",
        tables=(
            Table(
                title="Taught by generalist and specialists, and by the generalist alone",
                columns=("set", "seed", "by both", "by the generalist alone", "difference (points)"),
                rows=tuple(rows),
            ),
        ),
    )


def share_kept(net: Figure, alone: Figure, teacher: Figure) -> float | None:
    """Return which share of the teacher's gain over the generalist a net has, in per cent.

    None where the teacher gained nothing that could be kept.
    """
    gained = teacher.mean - alone.mean
    return 100 * (net.mean - alone.mean) / gained if gained > 0 else None


def _share(kept: float | None) -> str:
    return "no gain to keep" if kept is None else f"{kept:.0f} % of the gain"


def _gain_words(alone: Figure, teacher: Figure, one: Figure, kept: float | None) -> str:
    gained = teacher.mean - alone.mean
    if kept is None:
        return f"the specialists gained nothing that could be kept ({gained:+.2f} points)"
    return (
        f"of the specialists' {gained:+.2f} points over the generalist ({alone.mean:.2f} → "
        f"{teacher.mean:.2f} %) the student keeps {kept:.0f} % ({one.mean:.2f} %)"
    )


def _control_words(control: Figure, interval: tuple[float, float, float], kept: float | None) -> str:
    mean, low, high = interval
    if low > 0:
        judged = "it beats the student taught by the generalist alone"
        follows = ""
    elif high < 0:
        judged = "it is worse than the student taught by the generalist alone"
        follows = ": what the specialists add did not help it"
    else:
        judged = "it does not beat the student taught by the generalist alone"
        follows = ": the control does as well, so nothing here is shown to come from the specialists"
    share = "" if kept is None else f", {kept:.0f} % of that gain"
    return (
        f"{judged} ({control.mean:.2f} %{share}), paired by seed {mean:+.2f} points (95 % interval "
        f"{low:+.2f} to {high:+.2f}, {len(control.values)} seeds){follows}"
    )


def _rows(
    words: str, one: Figure, control: Figure, interval: tuple[float, float, float]
) -> list[tuple[str, ...]]:
    mean, low, high = interval
    return [
        *(
            (words, str(seed), f"{mine:.2f} %", f"{its:.2f} %", f"{mine - its:+.2f}")
            for seed, mine, its in zip(one.seeds, one.values, control.values, strict=True)
        ),
        (
            words,
            "mean",
            f"{one.mean:.2f} %",
            f"{control.mean:.2f} %",
            f"{mean:+.2f} (95 % interval {low:+.2f} to {high:+.2f})",
        ),
    ]


EXPERIMENT = Experiment(
    name="specialists-distilled",
    title="Generalist and specialists in one student",
    source="nobody: arXiv:1503.02531 left it open (section 8)",
    published=(),
    to_reach=f"one student that keeps ≥ {BAR:.0f} % of the gain",
    reduced="on Tiny ImageNet alone; the `specialists` experiment's reduced form, students 10 epochs for "
    "100, 10 views an image for 40",
    minutes=(120, 18),
    steps=steps,
    summarise=summarise,
)
