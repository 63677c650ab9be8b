"""A sweep over temperature and weights: the points tried, what a trial is worth, which student is taken.

Optuna proposes the points and remembers them in a study, one for each network. A study belongs to one process
at a time, which asks for a round of trials, trains all their nets together, and tells their values. A trial
that was asked for and not told, because its process died, is taken up again.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from shared.contracts.specs import FloatRange, SweepConstraint, SweepSpec
from shared.contracts.training import Objective
from shared.models.seeds import mixed_seed

STARTUP_TRIALS: Final = 10
"""TPE draws its first trials at random, Optuna's own default; they make its first round."""

ROUND_TRIALS: Final = 5
"""Trials of each later round of TPE: what was learnt so far steers them, none of them steers another."""


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


def next_round(study: optuna.Study, order: SweepSpec, most: int) -> tuple[Trial, ...]:
    """Return the trials to train next, none where all are done; at most so many.

    A grid goes through its points in the order in which they are listed. TPE's proposals follow from the
    first seed and from what was told, so that a sweep can be repeated.
    """
    space = _space(order)
    begun = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if set(trial.params) == set(space):
            begun.append(trial)
        else:  # its process died between two of its parameters
            study.tell(trial.number, state=TrialState.FAIL)
    if begun:
        return tuple(_trial(trial.number, trial.params) for trial in begun[:most])
    told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    asked = (
        _queue_grid(study, order, told, most) if order.sampler == "grid" else _tpe_round(order, told, most)
    )
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, seed=mixed_seed("sweep", order.seeds[0], len(told)) % 2**32
    )
    return tuple(_trial(trial.number, trial.params) for trial in (study.ask(space) for _ in range(asked)))


def tell(study: optuna.Study, number: int, validation_accuracies: Sequence[float]) -> None:
    """Write down what a trial is worth: its mean validation accuracy over seeds. Telling it twice is once."""
    study.tell(number, mean(validation_accuracies), skip_if_finished=True)


def tell_known(study: optuna.Study, known: Mapping[int, Sequence[float]]) -> None:
    """Tell what was found out about trials by number, where they were asked for and not told."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number in known:
            tell(study, trial.number, known[trial.number])


def trials_wanted(order: SweepSpec) -> int:
    """Return how many trials each network gets."""
    return len(_points(order)) if order.sampler == "grid" else order.trials


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


def _queue_grid(study: optuna.Study, order: SweepSpec, told: Sequence[FrozenTrial], most: int) -> int:
    """Queue the next points of the grid in the study; return how many are to be asked for."""
    done = {_key(trial.params) for trial in told}
    wanted = [point for point in _points(order) if _key(point) not in done][:most]
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    queued = {_key(trial.system_attrs["fixed_params"]) for trial in waiting}
    for point in wanted:
        if _key(point) not in queued:
            study.enqueue_trial(point)
    return len(wanted)


def _tpe_round(order: SweepSpec, told: Sequence[FrozenTrial], most: int) -> int:
    startup = STARTUP_TRIALS - len(told)
    return min(most, order.trials - len(told), startup if startup > 0 else ROUND_TRIALS)


def _key(point: Mapping[str, float]) -> tuple[float, float, float]:
    return point["temperature"], point["soft_weight"], point["hard_weight"]


def _trial(number: int, params: Mapping[str, float]) -> Trial:
    return Trial(number, Objective(**params))
