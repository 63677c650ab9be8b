"""The list about a teacher that answers already, and what of it stops a distillation."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.worker.stages import asking
from services.worker.stages.pair import check_pair
from shared.contracts.architectures import Mlp
from shared.contracts.findings import Finding
from shared.contracts.reports import TeacherCheckReport
from shared.contracts.specs import DistillationSpec, TeacherCheckSpec
from shared.contracts.training import Budget, Objective, StudentSpec
from shared.errors import TeacherAnswerInvalid, TeacherUnavailable, TeacherUnfit
from tests.support.kinds import NAMES, Bench, SharpTeacher

Logits = Callable[[np.ndarray], np.ndarray]


def as_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return what the service answers for a model that gave its probabilities as logits."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    centred: np.ndarray = probabilities - probabilities.mean(-1, keepdims=True)
    return centred.astype(np.float32)


class Teacher(SharpTeacher):
    """The sharp teacher, seen through a fault."""

    fault: Logits = staticmethod(lambda logits: logits)

    def __init__(self, url: str, **_: Any) -> None:
        super().__init__(url)

    def soft_targets(
        self, name: str, batches: Iterable[np.ndarray], **given: Any
    ) -> Iterator[tuple[int, np.ndarray]]:
        for index, logits in super().soft_targets(name, batches, **given):
            yield index, type(self).fault(logits)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(asking, "TeacherClient", Teacher)
    bench = Bench(tmp_path, monkeypatch)
    bench.publish_teacher()
    return bench


def through(monkeypatch: pytest.MonkeyPatch, fault: Logits) -> None:
    monkeypatch.setattr(Teacher, "fault", staticmethod(fault))


def check(bench: Bench, **changes: Any) -> TeacherCheckReport:
    spec = TeacherCheckSpec(name="big", dataset="quarters").model_copy(update=changes)
    result = bench.run(f"j-{len(bench.runs)}", spec)
    assert result.teacher == "big"
    path = bench.store.job(bench.runs[-1]).report_json
    return TeacherCheckReport.model_validate_json(path.read_bytes())


def of(report: TeacherCheckReport, name: str) -> Finding:
    return next(one for one in report.findings if one.check == name)


def test_a_sound_teacher_is_told_with_its_figures_and_the_rows_it_was_asked(bench: Bench):
    report = check(bench, claimed_accuracy=0.9)
    assert {one.outcome for one in report.findings} <= {"ok", "warning"}
    assert report.accuracy is not None
    assert report.accuracy > 0.9
    assert report.images == SharpTeacher.asked
    assert [one.check for one in report.findings][:3] == ["class names", "input size", "normalisation"]


def test_a_claim_that_it_does_not_keep_fails_and_the_job_succeeds_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    through(monkeypatch, lambda logits: logits[:, [1, 0, 2, 3]])
    report = check(bench, claimed_accuracy=0.9)
    assert of(report, "accuracy").outcome == "failed"


def test_probabilities_are_known_behind_the_service(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    through(monkeypatch, as_probabilities)
    assert of(check(bench), "logits, not probabilities").outcome == "failed"


def test_a_teacher_that_draws_at_random_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    through(monkeypatch, lambda logits: logits + generator.normal(0, 0.5, logits.shape).astype(np.float32))
    assert "asked twice" in of(check(bench), "the same answer twice").detail


@pytest.mark.parametrize("error", [TeacherUnavailable("it is down"), TeacherAnswerInvalid("3 rows are NaN")])
def test_a_teacher_that_does_not_answer_is_a_failed_check_with_the_cause(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(_logits: np.ndarray) -> np.ndarray:
        raise error

    through(monkeypatch, fail)
    found = of(check(bench), "answers")
    assert (found.outcome, found.detail) == ("failed", str(error))


def test_a_teacher_of_other_classes_is_not_asked(bench: Bench):
    bench.publish_teacher(classes=NAMES[::-1])
    report = check(bench)
    assert of(report, "class names").outcome == "failed"
    assert report.images == SharpTeacher.asked == 0


# --- the check stage of a distillation ---------------------------------------------------------------------

ORDER = DistillationSpec(
    name="small",
    teacher="big",
    dataset="quarters",
    student=StudentSpec(network=Mlp(hidden_units=(8,))),
    objective=Objective(temperature=1.0),
    budget=Budget(epochs=1),
)


def pair_of(bench: Bench):
    teacher = bench.store.teachers.current("big")
    return check_pair(bench.context("j-9", ORDER), ORDER, bench.manifest, teacher, Teacher(""))


def test_a_distillation_is_stopped_by_probabilities_in_place_of_logits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    through(monkeypatch, as_probabilities)
    with pytest.raises(TeacherUnfit, match="every row is probabilities") as refused:
        pair_of(bench)
    assert "answers: probabilities" in refused.value.remedy


def test_a_distillation_is_warned_of_the_rest_and_judges_targets_at_its_own_temperature(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    through(monkeypatch, lambda logits: 4 * logits)
    found = pair_of(bench)
    (warning,) = found.warnings
    assert warning.startswith("at T = 1 the median target has")
    assert warning in [message.note for message in bench.sent]
    assert found.check.images == found.teacher_rows == 60
    assert {one.check for one in found.findings} > {"class names", "accuracy", "soft targets", "calibration"}
