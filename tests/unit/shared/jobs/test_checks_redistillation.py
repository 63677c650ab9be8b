"""What is refused of a job of kind `redistillation`, and which order it repeats."""

import json
from datetime import UTC, datetime

import pytest

from shared.contracts.architectures import Mlp
from shared.contracts.kept import KeptCollection
from shared.contracts.specialists import Combination, SpecialistPart
from shared.contracts.specs import JobSpec, MutualSpec, RedistillationSpec, SweepSpec
from shared.contracts.students import StudentCard
from shared.contracts.training import Budget, Objective, TransferSetSpec
from shared.errors import (
    CannotRedistil,
    DatasetExists,
    DatasetNotFound,
    DistillationError,
    KeptNotFound,
    StudentNotFound,
    TeacherNotFound,
)
from shared.jobs.checks import check_submitted
from shared.jobs.checks.redistillation import order_of
from tests.support.jobs import KnownThings, distillation_spec
from tests.support.student_bundles import card

SPEC = RedistillationSpec(name="wren", collection="unsure", dataset="frozen")
CARD = card("wren-1", b"").model_copy(update={"teacher": "big", "dataset": "digits"})


class Things(KnownThings):
    """`KnownThings`, a student `wren-1` that is live, and images kept as `unsure`."""

    def __init__(self, card: StudentCard = CARD) -> None:
        super().__init__()
        self.card = card

    def student(self, version: str | None) -> StudentCard:
        if version not in (None, "wren-1"):
            raise StudentNotFound(version)
        return self.card

    def kept(self, collection: str) -> KeptCollection:
        if collection != "unsure":
            raise KeptNotFound(collection)
        now = datetime.now(UTC)
        return KeptCollection(
            name="unsure", images=1, size_bytes=1, since=now, until=now, escalated=1, disagreed=0, students=()
        )


@pytest.mark.parametrize("student", [None, "wren-1"])
def test_an_order_for_the_live_or_a_named_student_passes(student: str | None) -> None:
    check_submitted(SPEC.model_copy(update={"student": student}), Things())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"student": "nobody"}, StudentNotFound),
        ({"collection": "nothing"}, KeptNotFound),
        ({"dataset": "digits"}, DatasetExists),
    ],
)
def test_what_is_not_there_or_is_there_already_is_refused(
    changes: dict[str, str], error: type[DistillationError]
) -> None:
    with pytest.raises(error):
        check_submitted(SPEC.model_copy(update=changes), Things())


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"teacher": None}, CannotRedistil, "no teacher"),
        (
            {"specialists": Combination(top_n=1, specialists=(SpecialistPart(classes=("1", "7")),))},
            CannotRedistil,
            "a generalist with specialists",
        ),
        ({"teacher": "gone"}, TeacherNotFound, "'gone'"),
        ({"dataset": "gone"}, DatasetNotFound, "'gone'"),
    ],
)
def test_a_student_whose_order_cannot_be_repeated_is_refused(
    changes: dict[str, object], error: type[DistillationError], match: str
) -> None:
    with pytest.raises(error, match=match):
        check_submitted(SPEC, Things(CARD.model_copy(update=changes)))


def report(spec: JobSpec) -> bytes:
    """Return so much of a job's report as is read here."""
    return json.dumps({"job_id": "j-1", "spec": spec.model_dump(mode="json")}).encode()


def test_the_order_of_a_distillation_is_repeated_as_it_was() -> None:
    spec = distillation_spec(objective=Objective(temperature=7.0))
    assert order_of(CARD, report(spec)) == spec


def test_of_a_sweep_the_best_trial_is_repeated() -> None:
    best = CARD.model_copy(
        update={"architecture": Mlp(hidden_units=(7,)), "objective": Objective(temperature=3.0)}
    )
    sweep = SweepSpec(
        name="sweep", teacher="big", dataset="digits", budget=Budget(epochs=3), seeds=(4, 5),
        transfer_set=TransferSetSpec(views=2),
    )  # fmt: skip
    order = order_of(best, report(sweep))
    assert order.student.network == Mlp(hidden_units=(7,))
    assert order.objective == Objective(temperature=3.0)
    assert (order.teacher, order.dataset) == ("big", "digits")
    assert (order.budget, order.seeds, order.transfer_set) == (
        sweep.budget, sweep.seeds, sweep.transfer_set,
    )  # fmt: skip


@pytest.mark.parametrize("left", [{"omit": ("3",)}, {"only": ("7", "8")}])
def test_a_student_of_some_classes_alone_is_refused_as_kept_images_have_no_known_class(
    left: dict[str, tuple[str, ...]],
) -> None:
    spec = distillation_spec(transfer_set=TransferSetSpec.model_validate(left))
    with pytest.raises(CannotRedistil, match="leaves classes out"):
        order_of(CARD, report(spec))


def test_a_student_that_another_kind_of_job_made_is_refused() -> None:
    with pytest.raises(CannotRedistil, match="kind 'mutual' made it"):
        order_of(CARD, report(MutualSpec(name="cohort", dataset="digits")))
