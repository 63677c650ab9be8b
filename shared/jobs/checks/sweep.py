"""What can be refused of a job of kind `sweep`: its ranges, its size, its teacher."""

import math
from typing import Final

from shared.contracts.datasets import DatasetView
from shared.contracts.specs import FloatRange, SweepSpec
from shared.contracts.teachers import TeacherDescription
from shared.errors import (
    InvalidRange,
    InvalidRequest,
    InvalidTemperature,
    InvalidWeights,
    TeacherDoesNotTemper,
    TooManyTrials,
)
from shared.jobs.checks.common import dataset_of, need_few_children, need_fit, need_labels
from shared.jobs.checks.transfer_set import check_asking, check_transfer_set
from shared.jobs.ports import Catalogue

TRIALS_A_CHILD: Final = 5
"""A child job starts a process and reads the dataset: fewer trials would not be worth one of their own."""

MOST_CHILDREN_A_NETWORK: Final = 8

MOST_NETS: Final = 10_000
"""Nets (trials times seeds) that one network of a sweep may train: weeks of one GPU, surely a slip."""


def check(spec: SweepSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    Raises:
        InvalidRange: a range is empty, upside down, or not for its sampler.
        InvalidTemperature, InvalidWeights: a range holds a temperature or a weight that cannot be, or weights
            that may both be 0.
        TooManyTrials: there are more points than trials, or more nets than a sane number.
        InvalidRequest: a network is named twice.
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        TeacherNotFound: there is no such teacher.
        ClassMismatch, InputMismatch: the teacher does not answer for the dataset's classes or images.
        OmitAndOnly, UnknownClass, EmptyTransferSet, NoLabelsLeft: the transfer set cannot be drawn.
        AskingImpossible: the transfer set cannot be come by so.
        TeacherDoesNotTemper: several temperatures, and an arithmetic ensemble.
    """
    check_ranges(spec)
    check_sweep(spec, dataset_of(spec.dataset, catalogue), catalogue.teacher(spec.teacher))


def check_sweep(spec: SweepSpec, dataset: DatasetView, teacher: TeacherDescription) -> None:
    """Raise where the sweep cannot be run on the dataset with this teacher."""
    check_asking(spec.asking, spec.kind)
    if not teacher.tempers and one_value(spec.temperatures) is None:
        raise TeacherDoesNotTemper(spec.teacher)
    if dataset.manifest is not None:
        need_labels(spec.dataset, dataset.manifest, "a trial's accuracy")
        need_fit(spec.dataset, dataset.manifest, spec.teacher, teacher)
    check_transfer_set(spec, dataset.manifest, labels_for="the untaught twin")


def check_ranges(spec: SweepSpec) -> None:
    """Raise where the points of the sweep cannot be, or are too many."""
    ranges = {
        "temperatures": spec.temperatures,
        "soft_weights": spec.soft_weights,
        "hard_weights": spec.hard_weights,
    }
    for field, given in ranges.items():
        _check_range(field, given)
        if spec.sampler == "grid" and given.values is None:
            raise InvalidRange(field, "a grid needs `values`; bounds are for the sampler 'tpe'")
    for temperature in _ends(spec.temperatures):
        if temperature <= 0:
            raise InvalidTemperature(temperature)
    soft, hard = min(_ends(spec.soft_weights)), min(_ends(spec.hard_weights))
    if soft < 0 or hard < 0 or soft == hard == 0:
        raise InvalidWeights(soft, hard)
    if len({network.model_dump_json() for network in spec.networks}) < len(spec.networks):
        raise InvalidRequest("a network is named twice", remedy="Name each network of a sweep once.")
    need_few_children(len(spec.networks) * children_a_network(spec))
    _check_size(spec)


def one_value(given: FloatRange) -> float | None:
    """Return the only value of the range, or None where there are several."""
    return given.values[0] if given.values is not None and len(given.values) == 1 else None


def grid_points(spec: SweepSpec) -> int:
    """Return how many points the grid of listed values has."""
    ranges = (spec.temperatures, spec.soft_weights, spec.hard_weights)
    return math.prod(len(given.values or ()) for given in ranges)


def children_a_network(spec: SweepSpec) -> int:
    """Return how many child jobs share the trials of each network, so that they spread over workers."""
    trials = grid_points(spec) if spec.sampler == "grid" else spec.trials
    return max(1, min(MOST_CHILDREN_A_NETWORK, trials // TRIALS_A_CHILD))


def _check_size(spec: SweepSpec) -> None:
    trials = spec.trials
    if spec.sampler == "grid":
        trials = grid_points(spec)
        if trials > spec.trials:
            raise TooManyTrials(
                f"the grid has {trials:,} points and trials is {spec.trials:,}",
                remedy=f"List fewer values, or set trials to {trials}.",
            )
    nets = trials * len(spec.seeds)
    if nets > MOST_NETS:
        raise TooManyTrials(
            f"{trials:,} trials with {len(spec.seeds)} seeds are {nets:,} nets for each network",
            remedy=f"Ask for fewer trials or seeds: at most {MOST_NETS:,} nets a network.",
        )


def _check_range(field: str, given: FloatRange) -> None:
    low, high = given.low, given.high
    if given.values is not None:
        if low is not None or high is not None or given.log:
            raise InvalidRange(field, "either `values`, or `low` and `high`, not both")
        if not given.values:
            raise InvalidRange(field, "the range is empty: `values` lists nothing")
        if len(set(given.values)) < len(given.values):
            raise InvalidRange(field, f"a value is listed twice in {list(given.values)}")
        return
    if low is None or high is None:
        raise InvalidRange(field, "the range is empty: neither `values` nor both `low` and `high` are given")
    if low >= high:
        raise InvalidRange(field, f"the range is empty: low is {low:g} and high is {high:g}")
    if given.log and low <= 0:
        raise InvalidRange(field, f"a logarithmic range cannot begin at {low:g}")


def _ends(given: FloatRange) -> tuple[float, ...]:
    if given.values is not None:
        return given.values
    assert given.low is not None, "checked before"
    assert given.high is not None, "checked before"
    return (given.low, given.high)
