"""What is said of a pair of teacher and student before and after training."""

from typing import Literal

import pytest

from services.worker.stages.pair import (
    CheckedPair,
    best_untaught,
    no_better,
    untaught_accuracy,
    warnings_after,
    warnings_of,
)
from shared.contracts.architectures import Mlp
from shared.contracts.findings import Finding
from shared.contracts.reports import DistillationReport, EpochPoint, PairCheck, TrainingCurve
from shared.contracts.training import StudentSpec, TransferSetSpec
from tests.support.jobs import dataset_manifest, distillation_spec


def found(outcome: Literal["ok", "warning", "failed"], advice: str = "") -> Finding:
    return Finding(check="something", outcome=outcome, detail=f"it was {outcome}", advice=advice)


def pair(teacher: float, untaught: float | None = None) -> PairCheck:
    return PairCheck(images=1000, teacher_accuracy=teacher, untaught_accuracy=untaught)


def curve(arm: str, kept: float, last: float = 0.0) -> TrainingCurve:
    points = tuple(
        EpochPoint(epoch=epoch, loss=1.0, validation_accuracy=accuracy, seconds=1.0)
        for epoch, accuracy in ((1, kept), (2, last))
    )
    return TrainingCurve(arm=arm, seed=0, best_epoch=1, points=points)


def report(job_id: str, accuracy: float, **changes: object) -> DistillationReport:
    return DistillationReport.model_construct(
        job_id=job_id,
        dataset_digest="1" * 64,
        spec=distillation_spec(**changes),
        curves=(curve("untaught", accuracy), curve("taught", 0.99)),
    )


def test_a_teacher_no_better_than_an_untaught_student_is_warned_of_in_these_words():
    assert warnings_of(pair(0.901, 0.904), [found("ok")]) == (
        "the teacher is no better than an untaught student: 90.1 % against 90.4 % of the validation images; "
        "it is not expected to help",
    )
    assert warnings_of(pair(0.901, 0.901), [])


def test_a_better_teacher_and_an_unknown_student_give_no_warning():
    assert warnings_of(pair(0.95, 0.904), [found("ok")]) == ()
    assert warnings_of(pair(0.95), []) == ()


def test_what_the_checks_found_against_the_teacher_is_warned_of_with_its_advice():
    findings = [found("ok"), found("warning", "Do better."), found("failed")]
    assert warnings_of(pair(0.95), findings) == ("it was warning. Do better.", "it was failed")


def test_the_best_known_untaught_net_is_of_the_same_network_images_and_labels():
    manifest = dataset_manifest()
    reports = [
        report("j-low", 0.90),
        report("j-best", 0.93),
        report("j-bigger", 0.99, student=StudentSpec(network=Mlp(hidden_units=(2000,)))),
        report("j-fewer", 0.99, transfer_set=TransferSetSpec(label_share=0.5)),
        report("j-elsewhere", 0.99).model_copy(update={"dataset_digest": "2" * 64}),
    ]
    assert best_untaught(distillation_spec(), manifest, reports) == (0.93, "j-best")
    # Other views are other pictures of the same images: still a student like this one.
    views = distillation_spec(transfer_set=TransferSetSpec(views=4, jitter_px=2))
    assert best_untaught(views, manifest, reports) == (0.93, "j-best")
    assert best_untaught(distillation_spec(), manifest, []) is None


def test_what_an_untaught_net_reached_is_read_from_the_epoch_that_was_kept():
    curves = [curve("untaught", 0.8, last=0.95), curve("untaught", 0.85), curve("taught", 0.99)]
    assert untaught_accuracy(curves) == 0.85
    assert untaught_accuracy([curve("taught", 0.99)]) is None


@pytest.mark.parametrize(
    ("known", "reached", "more"), [(None, 0.92, True), (None, 0.88, False), (0.8, 0.92, False)]
)
def test_the_jobs_own_twin_warns_afterwards_where_nothing_was_known_before(known, reached, more):
    checked = CheckedPair(pair(0.9, known), (), ("before",), seconds=1.0, teacher_rows=1000)
    expected = ("before", no_better(0.9, reached)) if more else ("before",)
    assert warnings_after(checked, [curve("untaught", reached)]) == expected
