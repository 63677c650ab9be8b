"""A sweep over temperature and weights: the points tried, what a trial is worth, which student is taken.

Optuna proposes the points and remembers them in a study, one for each network. Several processes may share a
study: each has its part of the trials, asks for a round of them, trains all their nets together, and tells
their values. A trial that was asked for and not told, because its process died, is taken up again by the next
process of its part.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from shared.contracts.specs import FloatRange, SweepConstraint, SweepSpec
from shared.contracts.training import Objective
from shared.models.seeds import mixed_seed

STARTUP_TRIALS: Final = 10
"""TPE draws its first trials at random, Optuna's own default; they make its first round."""

ROUND_TRIALS: Final = 5
"""Trials of each later round of TPE: what was learnt so far steers them, none of them steers another."""

_PART: Final = "part"
"""The attribute of a trial that says whose it is; without it, its process died while it asked."""


@dataclass(frozen=True)
class Trial:
    """One point of a sweep: a number within its network's study, and what its nets are taught by."""

    number: int
    objective: Objective


def log_by_our_handlers() -> None:
    """Let Optuna's messages, warnings and worse, go where all others go."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(name: str, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """Return the study of this name, new or as it was left."""
    return optuna.create_study(
        study_name=name,
        storage=storage,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS),
        load_if_exists=True,
    )


def next_round(
    study: optuna.Study, order: SweepSpec, most: int, *, part: int = 0, parts: int = 1
) -> tuple[Trial, ...]:
    """Return the trials of a part to train next, none where all are done; at most so many.

    A grid goes through its points in the order in which they are listed; with three parts, the first one
    takes the first, fourth, seventh point. TPE's proposals follow from the first seed, the part and what was
    told, so a sweep can be repeated where its parts run one after another.
    """
    if not (begun := _trials_of(study, part, TrialState.RUNNING)):
        done = len(_trials_of(study, part, TrialState.COMPLETE, TrialState.FAIL))
        if order.sampler == "grid":
            _take_points(study, order, _points(order)[part::parts][done:][:most], part)
        else:
            left = trials_wanted(order, part=part, parts=parts) - done
            startup = -(-STARTUP_TRIALS // parts) - done
            _ask_tpe(study, order, min(most, left, startup if startup > 0 else ROUND_TRIALS), part, done)
        begun = _trials_of(study, part, TrialState.RUNNING)
    return tuple(Trial(trial.number, Objective(**trial.params)) for trial in begun[:most])


def tell(study: optuna.Study, number: int, validation_accuracies: Sequence[float]) -> None:
    """Write down what a trial is worth: its mean validation accuracy over seeds. Telling it twice is once.

    Args:
        study: of the trial.
        number: of the trial.
        validation_accuracies: one a seed; none where it diverged, and then it has failed.
    """
    if validation_accuracies:
        study.tell(number, mean(validation_accuracies), skip_if_finished=True)
    else:
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


def tell_known(study: optuna.Study, known: Mapping[int, Sequence[float]]) -> None:
    """Tell what was found out about trials by number, where they were asked for and not told."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number in known:
            tell(study, trial.number, known[trial.number])


def trials_wanted(order: SweepSpec, *, part: int = 0, parts: int = 1) -> int:
    """Return how many trials a part of each network's gets; without parts, all of them."""
    trials = len(_points(order)) if order.sampler == "grid" else order.trials
    return len(range(part, trials, parts))


def mean(values: Sequence[float]) -> float:
    """Return the mean of some figures."""
    return sum(values) / len(values)


# --- which student is taken --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A network at its best trial.

    Attributes:
        parameters: numbers in the net.
        validation_accuracy: mean over seeds, 0 to 1.
        p50_ms: median time of one image, in milliseconds.
    """

    parameters: int
    validation_accuracy: float
    p50_ms: float


def satisfies(candidate: Candidate, constraint: SweepConstraint, teacher_accuracy: float) -> bool:
    """Tell whether a network is within so many points of the teacher, and of so many milliseconds."""
    # Rounded, so that a student exactly at the bound is not lost to the last bit of a difference.
    below = round(100 * (teacher_accuracy - candidate.validation_accuracy), 9)
    if constraint.within_points is not None and below > constraint.within_points:
        return False
    return constraint.p50_ms is None or candidate.p50_ms <= constraint.p50_ms


def choose(
    candidates: Sequence[Candidate], constraint: SweepConstraint, teacher_accuracy: float
) -> Candidate | None:
    """Return the smallest network that satisfies the constraint; without one, the best network.

    Among networks of one size the better is taken, among equally good ones the smaller. None where no network
    satisfies the constraint. All accuracies are of the validation split.
    """
    if constraint.within_points is None and constraint.p50_ms is None:
        return max(candidates, key=lambda one: (one.validation_accuracy, -one.parameters))
    fitting = [one for one in candidates if satisfies(one, constraint, teacher_accuracy)]
    return min(fitting, key=lambda one: (one.parameters, -one.validation_accuracy), default=None)


# --- points ------------------------------------------------------------------------------------------------


def _space(order: SweepSpec) -> dict[str, BaseDistribution]:
    return {
        "temperature": _distribution(order.temperatures),
        "soft_weight": _distribution(order.soft_weights),
        "hard_weight": _distribution(order.hard_weights),
    }


def _distribution(given: FloatRange) -> BaseDistribution:
    if given.values is not None:
        return CategoricalDistribution(given.values)
    assert given.low is not None, "checked at submission"
    assert given.high is not None, "checked at submission"
    return FloatDistribution(given.low, given.high, log=given.log)


def _points(order: SweepSpec) -> list[dict[str, float]]:
    ranges = (order.temperatures.values, order.soft_weights.values, order.hard_weights.values)
    assert all(ranges), "checked at submission"
    return [
        {"temperature": temperature, "soft_weight": soft, "hard_weight": hard}
        for temperature, soft, hard in itertools.product(*(values or () for values in ranges))
    ]


def _trials_of(study: optuna.Study, part: int, *states: TrialState) -> list[FrozenTrial]:
    found = study.get_trials(deepcopy=False, states=states)
    return [trial for trial in found if trial.user_attrs.get(_PART) == part]


def _take_points(
    study: optuna.Study, order: SweepSpec, points: Sequence[Mapping[str, float]], part: int
) -> None:
    """Write the points down as trials of this part that have begun, each in one entry."""
    for point in points:
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(point),
                distributions=_space(order),
                user_attrs={_PART: part},
            )
        )


def _ask_tpe(study: optuna.Study, order: SweepSpec, trials: int, part: int, done: int) -> None:
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, seed=mixed_seed("sweep", order.seeds[0], part, done) % 2**32
    )
    for _ in range(trials):
        study.ask(_space(order)).set_user_attr(_PART, part)
