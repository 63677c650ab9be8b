"""The trials of a network of a sweep, as its child jobs left them, each a part, and joined."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from pydantic import JsonValue

from services.worker.kinds.sweep_trials import TrialsOutcome
from services.worker.stages import outcomes
from services.worker.stages.context import JobContext
from shared.contracts.architectures import Architecture
from shared.contracts.jobs import ChildJob
from shared.contracts.reports import SweepTrial
from shared.distillation.reports.sweep import network_name
from shared.errors import Diverged


@dataclass(frozen=True)
class Part:
    """What a child job left of its part of a network's trials."""

    child: ChildJob
    path: Path
    outcome: TrialsOutcome


@dataclass(frozen=True)
class Joined:
    """All trials of a network, and the part that has the nets of the best one."""

    parts: tuple[Part, ...]
    """The first has the untaught twins."""
    trials: tuple[SweepTrial, ...]
    best: SweepTrial
    best_part: Part

    @property
    def name_of_best(self) -> dict[str, JsonValue]:
        """What names the best trial's nets among all that was trained."""
        return {"child": self.best_part.child.id, "trials": self.best_part.path.name}


def part_of(context: JobContext, child: ChildJob) -> Part:
    """Return what a child job that succeeded left."""
    assert child.result is not None, "it succeeded"
    assert child.result.artefact is not None, "it names what it left"
    path = context.child_files(child).directory / child.result.artefact
    return Part(child, path, outcomes.load(path / "trials.json", TrialsOutcome))


def join(network: Architecture, parts: Sequence[Part]) -> Joined:
    """Join the parts of a network's trials, and find the best, the first of equals.

    Trials are taken from the parts in turn, which is the order of a grid's points, and are numbered so: their
    numbers in the study depend on which part was faster.

    Raises:
        Diverged: every trial did; with the place that the longest of them reached.
    """
    turns = zip_longest(*(part.outcome.trials for part in parts))
    taken = [(trial, part) for turn in turns for trial, part in zip(turn, parts, strict=True) if trial]
    numbered = [
        (trial.model_copy(update={"number": number}), part) for number, (trial, part) in enumerate(taken)
    ]
    whole = [(trial, part) for trial, part in numbered if trial.diverged is None]
    if not whole:
        epoch, step = max((one.diverged.epoch, one.diverged.step or 0) for one, _ in taken if one.diverged)
        every = f"all {len(taken)} trials of {network_name(network)}"
        raise Diverged(epoch, math.nan, step or None, of=every)
    best, best_part = max(whole, key=lambda one: one[0].validation_accuracy)
    return Joined(tuple(parts), tuple(trial for trial, _ in numbered), best, best_part)
