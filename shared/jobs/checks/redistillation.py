"""What can be refused of a job of kind `redistillation`, and the order that it repeats."""

from pydantic import BaseModel

from shared.contracts.specs import DistillationSpec, JobSpec, RedistillationSpec, SweepSpec
from shared.contracts.students import StudentCard
from shared.contracts.training import StudentSpec
from shared.errors import CannotRedistil, DatasetExists, DatasetNotFound
from shared.jobs.ports import Catalogue


def check(spec: RedistillationSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    Raises:
        StudentNotFound, NoLiveStudent: there is no such student, or none is live.
        CannotRedistil: the student was not distilled from a teacher, or is a generalist with specialists.
        KeptNotFound: nothing is kept under this name.
        DatasetExists: the frozen dataset cannot get this name.
        TeacherNotFound, DatasetNotFound: what the student was made of is not there any more.
    """
    card = catalogue.student(spec.student)
    check_card(card)
    catalogue.kept(spec.collection)
    assert card.teacher is not None, "checked above"
    catalogue.teacher(card.teacher)
    catalogue.dataset(card.dataset)
    try:
        catalogue.dataset(spec.dataset)
    except DatasetNotFound:
        return
    raise DatasetExists(spec.dataset)


def check_card(card: StudentCard) -> None:
    """Raise `CannotRedistil` where no order of one student and one teacher made it."""
    if card.specialists is not None:
        raise CannotRedistil(
            card.version,
            "it is a generalist with specialists",
            remedy="Distil the generalist again, then train its specialists: a job of kind 'specialists'.",
        )
    if card.teacher is None:
        raise CannotRedistil(card.version, "it has no teacher that could name the classes of kept images")


def order_of(card: StudentCard, report: bytes) -> DistillationSpec:
    """Return the order that made a student: of a distillation its own, of a sweep its best trial's.

    Args:
        card: of the student.
        report: the `report.json` of its bundle.

    Raises:
        CannotRedistil: another kind of job made it, or classes are left out of its transfer set.
    """
    check_card(card)
    assert card.teacher is not None, "checked above"
    made = _Made.model_validate_json(report).spec
    if isinstance(made, SweepSpec):
        made = _best_trial(card, made)
    if not isinstance(made, DistillationSpec):
        raise CannotRedistil(card.version, f"a job of kind {made.kind!r} made it")
    if made.transfer_set.omit or made.transfer_set.only:
        raise CannotRedistil(
            card.version,
            "its transfer set leaves classes out, and nobody knows the classes of kept images",
            remedy="Name a student of all classes.",
        )
    return made


class _Made(BaseModel):
    """What every report says of its job; the rest of it does not matter here."""

    spec: JobSpec


def _best_trial(card: StudentCard, order: SweepSpec) -> DistillationSpec:
    return DistillationSpec(
        name=order.name,
        teacher=order.teacher,
        dataset=order.dataset,
        student=StudentSpec(network=card.architecture),
        objective=card.objective,
        transfer_set=order.transfer_set,
        asking=order.asking,
        budget=order.budget,
        seeds=order.seeds,
    )
