"""The succession stage: the new student against the old one, both as they answer at a gateway.

The validation images decide, as they do about epochs and seeds; the test images report. Both students were
chosen on the same validation images in the same way, so neither has an advantage by it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext, seconds_of
from shared.artefacts.datasets import Split
from shared.artefacts.students import CARD
from shared.contracts.evaluation import Verdict
from shared.contracts.jobs import Stage
from shared.contracts.kept import Frozen
from shared.contracts.specs import RedistillationSpec
from shared.contracts.succession import PairedComparison, Rival, Succession
from shared.distillation.succession import compare_pair
from shared.errors import DistillationError
from shared.serving.session import StudentSession

_BATCH: Final = 256
_OUTCOME: Final = "succession.json"
_SPLITS: Final = ("validation", "test")

Right = Mapping[str, NDArray[np.bool_]]
"""Whether a student is right, of each image of a split."""


def settle(
    context: JobContext, spec: RedistillationSpec, frozen: Frozen, *, base: str, version: str
) -> tuple[Succession, float]:
    """Compare the new student with the old one, and promote it where that was asked for and it is better.

    What was settled once is not settled again: neither a second attempt at the job nor a second message moves
    the pointer after somebody else has moved it.

    Args:
        context: of the job.
        spec: says whether the new student may be promoted.
        frozen: what it learned from.
        base: version of the student whose order was repeated.
        version: of the new student, which is in the store.

    Returns:
        What was settled, and how long that took in seconds.

    Raises:
        StudentUnusable: the new or the old student does not load, or does not answer as its card says.
    """

    def build(directory: Path) -> None:
        outcomes.save(directory / _OUTCOME, _settled(context, spec, frozen, base, version))

    path = context.once(Stage.SUCCESSION, {"base": base, "new": version}, build)
    return outcomes.load(path / _OUTCOME, Succession), seconds_of(path)


def _settled(
    context: JobContext, spec: RedistillationSpec, frozen: Frozen, base: str, version: str
) -> Succession:
    students = context.store.students
    live = students.live()
    found = live.version if live is not None else None
    context.progress(Stage.SUCCESSION, 0, 3, "students")
    exam = _Exam(context, spec.dataset)
    new = exam.sit(version)
    context.progress(Stage.SUCCESSION, 1, 3, "students")
    old = _rival(base, new, exam.sit(base))
    context.progress(Stage.SUCCESSION, 2, 3, "students")
    other, obstacle = None, None
    if found not in (None, base, version):
        assert found is not None
        try:
            other = _rival(found, new, exam.sit(found))
        except DistillationError as error:
            obstacle = f"student {found!r} is live by now, and cannot be compared with the new one: {error}"
    promoted, reason = _decided(spec, version, found, other or old, obstacle)
    if promoted:
        context.need_lease()
    # The new one was loaded and checked above, from the files that gateways load.
    if promoted and students.succeed(version, found) is None:
        promoted, reason = False, "another student was promoted in the meantime, and was not compared"
    after = students.live()
    context.progress(Stage.SUCCESSION, 3, 3, "students", {"gain": (other or old).validation.gain})
    context.note(f"student {version!r} is {'live' if promoted else 'not promoted'}: {reason}")
    return Succession(
        frozen=frozen,
        base=old,
        incumbent=other,
        promoted=promoted,
        reason=reason,
        live=after.version if after is not None else None,
    )


def _decided(
    spec: RedistillationSpec, version: str, live: str | None, rival: Rival, obstacle: str | None
) -> tuple[bool, str]:
    """Return whether the new student takes the live one's place, and why."""
    said = f"on the validation images it {rival.validation.verdict} {rival.version!r}"
    if live == version:
        return True, f"{said}; an earlier attempt at this job promoted it"
    if spec.promote == "never":
        return False, f"{said}; the job was asked not to promote"
    if obstacle is not None:
        return False, obstacle
    return rival.validation.verdict is Verdict.BEATS, said


class _Exam:
    """The labelled images that students are compared on."""

    def __init__(self, context: JobContext, dataset: str) -> None:
        self._context = context
        self._splits = {split: context.store.datasets.load(dataset, split) for split in _SPLITS}

    def sit(self, version: str) -> Right:
        """Return what a student gets right; raises where it cannot be loaded or takes other images."""
        card = self._context.store.students.file(version, CARD)
        student = StudentSession.load(card.parent)
        return {name: _right(student, split) for name, split in self._splits.items()}


def _right(student: StudentSession, split: Split) -> NDArray[np.bool_]:
    assert split.labels is not None, "validation and test are labelled"
    named = [
        student.probabilities(np.ascontiguousarray(split.images[begin : begin + _BATCH])).argmax(axis=1)
        for begin in range(0, len(split), _BATCH)
    ]
    right: NDArray[np.bool_] = np.concatenate(named) == split.labels
    return right


def _rival(version: str, new: Right, old: Right) -> Rival:
    def compared(split: str) -> PairedComparison:
        return compare_pair(new[split], old[split])

    return Rival(version=version, validation=compared("validation"), test=compared("test"))
