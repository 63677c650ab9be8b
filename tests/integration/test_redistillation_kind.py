"""What a job of kind `redistillation` does, run in this process against a real teacher service."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.worker.kinds.distillation import distil
from services.worker.kinds.redistillation import redistil
from services.worker.stages import succession as succession_stage
from services.worker.stages.context import JobStopped
from services.worker.stages.succession import _Exam, settle
from shared.artefacts.kept import KeptImage, Witness
from shared.contracts.evaluation import Verdict
from shared.contracts.reports import DistillationReport
from shared.contracts.specs import DistillationSpec, RedistillationSpec
from shared.contracts.succession import Succession
from shared.errors import (
    DatasetExists,
    KeptNotFound,
    NoLiveStudent,
    NothingNewKept,
    StudentNotFound,
    StudentUnusable,
)
from shared.jobs.memory_store import MemoryJobStore
from tests.support.distilling import QUICK, SHAPES, Bench, shapes, student_of
from tests.support.student_bundles import mlp_onnx, write_bundle
from tests.support.teachers import teacher_process

pytestmark = pytest.mark.integration

FEW = 12
"""Training images of the first student: so few that more of them help."""
MANY = 400


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A teacher of shapes, trained on many, and `few` shapes that its students know."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("state"))
    bench.add_shapes()
    splits = {"train": shapes(FEW, 11), "validation": shapes(600, 12), "test": shapes(800, 13)}
    bench.store.datasets.put("few", splits, classes=SHAPES, source="made up")
    bench.teach()
    with teacher_process(bench.state_dir) as url:
        bench.teacher_url = url
        yield bench
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(bench: Bench) -> DistillationReport:
    return bench.run(distil, few(), DistillationReport)


def few(**changes) -> DistillationSpec:
    return student_of(dataset="few", **changes)


def keep(bench: Bench, collection: str, images: NDArray[np.uint8], student: str) -> None:
    card = bench.store.students.card(student)
    witness = Witness(student, card.dataset, card.preprocessing.input, card.classes)
    kept = [KeptImage(image.tobytes(), "escalated", 1.0) for image in images]
    bench.store.kept.add(collection, witness, kept, most_images=100_000)


def order(name: str, **changes) -> RedistillationSpec:
    """Return an order with a frozen dataset of its own."""
    budget = QUICK.model_copy(update={"epochs": 5})
    spec = RedistillationSpec(name=name, collection=name, dataset=f"{name}-frozen", budget=budget)
    return spec.model_copy(update=changes)


@pytest.fixture(scope="module")
def turned(bench: Bench, base: DistillationReport) -> tuple[DistillationReport, RedistillationSpec]:
    """One turn: kept images, among them some that validate, test and were learned already."""
    images = [shapes(MANY, 14).images]
    for split, taken in (("validation", 30), ("test", 50), ("train", 7)):
        images.append(bench.store.datasets.load("few", split).images[:taken])
    keep(bench, "turned", np.concatenate(images), base.student_version)
    bench.store.students.promote(base.student_version)
    spec = order("turned", seeds=(5, 6))
    return bench.run(redistil, spec, DistillationReport), spec


def test_one_turn_ends_with_a_better_student_live(bench: Bench, base, turned):
    report, _ = turned
    found = report.succession
    assert found is not None
    assert found.promoted, found.reason
    assert found.base.version == base.student_version
    assert found.base.validation.verdict is Verdict.BEATS
    assert found.base.test.gain > 0.02
    assert found.live == bench.store.students.live().version == report.student_version
    assert bench.store.students.live().previous == (base.student_version,)


def test_the_new_student_learned_what_the_old_one_did_and_kept_images_without_labels(bench: Bench, turned):
    report, spec = turned
    manifest = bench.store.datasets.get(spec.dataset)
    assert (manifest.counts.train, manifest.unlabelled, manifest.labelled) == (FEW + MANY, MANY, True)
    assert manifest.frozen == report.succession.frozen
    train, known = (bench.store.datasets.load(name, "train") for name in (spec.dataset, "few"))
    np.testing.assert_array_equal(train.images[:FEW], known.images)
    np.testing.assert_array_equal(train.labels, [*known.labels, *[-1] * MANY])
    for split in ("validation", "test"):
        digests = bench.store.datasets.get("few").split_digests
        assert manifest.split_digests[split] == digests[split]
    assert report.spec.budget == spec.budget
    assert report.spec.objective == few().objective
    assert {net.seed for net in report.nets} == {5, 6}


def test_images_that_validate_or_test_are_not_learned_and_are_counted(bench: Bench, turned):
    report, spec = turned
    frozen = report.succession.frozen
    assert (frozen.taken, frozen.known, frozen.held_out) == (MANY, 7, 80)
    learned = {image.tobytes() for image in bench.store.datasets.load(spec.dataset, "train").images}
    for split in ("validation", "test"):
        assert learned.isdisjoint(image.tobytes() for image in bench.store.datasets.load("few", split).images)


def test_the_report_tells_the_succession_and_the_bundle_is_a_distillations(bench: Bench, turned):
    report, _ = turned
    page = (bench.store.job(report.job_id).directory / "report.md").read_text()
    assert "## Succession" in page
    assert "**Promoted**: on the validation images it BEATS" in page
    assert f"{MANY:,} images kept as `turned`" in page
    assert "80 that validate or test" in page
    assert next(iter(report.cost.seconds)) == "freeze"
    assert list(report.cost.seconds)[-1] == "succession"


def test_a_second_run_of_the_same_job_changes_nothing_even_after_a_rollback(bench: Bench, base, turned):
    report, spec = turned
    students = bench.store.students
    students.rollback()
    context = bench.context(spec)
    again = type(context)(
        context.order.model_copy(update={"job_id": report.job_id}),
        context.settings,
        bench.store,
        bench.messages.append,
    )
    keep(bench, "turned", shapes(10, 15).images, base.student_version)  # more are kept meanwhile
    result = redistil(again, spec)
    assert result.student == report.student_version
    assert students.live().version == base.student_version
    assert bench.store.datasets.get(spec.dataset).frozen == report.succession.frozen
    retold = DistillationReport.model_validate_json(again.files.report_json.read_bytes())
    assert retold.succession == report.succession


@pytest.fixture(scope="module")
def poor(bench: Bench, base: DistillationReport) -> str:
    """The version of a student that calls everything a circle."""
    size = bench.store.students.card(base.student_version).preprocessing.input
    model = mlp_onnx(size, len(SHAPES), favourite=0)

    def build(directory: Path) -> None:
        write_bundle(directory, "poor-1", model, classes=SHAPES, image=size)

    bench.store.students.publish("poor-1", build)
    return "poor-1"


def settled(bench: Bench, turned, *, version: str, base: str, live: str, **changes) -> Succession:
    """Settle the succession of two students that are there, in a new job, while a third is live."""
    report, spec = turned
    bench.store.students.promote(live)
    context = bench.context(spec)
    wanted = spec.model_copy(update=changes)
    found, _ = settle(context, wanted, report.succession.frozen, base=base, version=version)
    return found


def test_a_student_that_is_live_by_now_is_the_one_to_beat(bench: Bench, base, turned, poor):
    best = turned[0].student_version
    found = settled(bench, turned, version=base.student_version, base=poor, live=best)
    assert found.base.validation.verdict is Verdict.BEATS
    assert (found.incumbent.version, found.incumbent.validation.verdict) == (best, Verdict.DOES_NOT_BEAT)
    assert (found.promoted, found.live) == (False, best)
    assert repr(best) in found.reason


def test_who_beats_the_one_that_is_live_by_now_takes_its_place(bench: Bench, base, turned, poor):
    best = turned[0].student_version
    found = settled(bench, turned, version=best, base=base.student_version, live=poor)
    assert (found.promoted, found.live, found.incumbent.version) == (True, best, poor)


def test_a_live_student_that_cannot_be_compared_stays(bench: Bench, base, turned, poor, monkeypatch):
    sit, broken = _Exam.sit, poor

    def fails(self, version):
        if version == broken:
            raise StudentUnusable(version, "its model.onnx cannot be read")
        return sit(self, version)

    monkeypatch.setattr(_Exam, "sit", fails)
    best = turned[0].student_version
    found = settled(bench, turned, version=best, base=base.student_version, live=broken)
    assert (found.promoted, found.live, found.incumbent) == (False, broken, None)
    assert "cannot be compared" in found.reason


def test_a_promotion_between_comparison_and_succession_is_not_undone(
    bench: Bench, base, turned, poor, monkeypatch
):
    decided = succession_stage._decided

    def raced(*args):
        bench.store.students.promote(poor)
        return decided(*args)

    monkeypatch.setattr(succession_stage, "_decided", raced)
    best, old = turned[0].student_version, base.student_version
    found = settled(bench, turned, version=best, base=old, live=old)
    assert found.base.validation.verdict is Verdict.BEATS
    assert (found.promoted, found.live) == (False, poor)
    assert bench.store.students.live().version == poor


def test_who_does_not_hold_the_lease_any_more_promotes_nobody(bench: Bench, base, turned, poor, monkeypatch):
    monkeypatch.setattr(bench, "watch", lambda context: setattr(context, "jobs", MemoryJobStore()))
    with pytest.raises(JobStopped):
        settled(bench, turned, version=turned[0].student_version, base=base.student_version, live=poor)
    assert bench.store.students.live().version == poor


def test_a_better_student_waits_for_its_user_where_that_was_asked(bench: Bench, base, turned):
    best, old = turned[0].student_version, base.student_version
    found = settled(bench, turned, version=best, base=old, live=old, promote="never")
    assert found.base.validation.verdict is Verdict.BEATS
    assert (found.promoted, bench.store.students.live().version) == (False, old)


def test_what_cannot_be_learned_from_is_refused_before_training(bench: Bench, base):
    def refused(error, match, **changes):
        spec = order("refused", student=base.student_version).model_copy(update=changes)
        with pytest.raises(error, match=match):
            redistil(bench.context(spec), spec)

    refused(KeptNotFound, "'refused'")
    keep(bench, "refused", bench.store.datasets.load("few", "test").images[:5], base.student_version)
    refused(NothingNewKept, "0 are training images of dataset 'few', 5 validate or test")
    keep(bench, "refused", shapes(5, 19).images, base.student_version)
    refused(DatasetExists, "'shapes'", dataset="shapes")
    refused(StudentNotFound, "'nobody'", student="nobody")
    assert "refused-frozen" not in bench.store.datasets.names()


def test_without_a_live_student_one_must_be_named(bench: Bench, base, monkeypatch):
    monkeypatch.setattr(bench.store.students, "live", lambda: None)
    with pytest.raises(NoLiveStudent):
        bench.run(redistil, order("turned", dataset="nobody"), DistillationReport)


def test_images_of_other_classes_are_no_images_to_learn_from(bench: Bench, base):
    card = bench.store.students.card(base.student_version)
    witness = Witness("other-1", "letters", card.preprocessing.input, ("a", "b"))
    kept = [KeptImage(image.tobytes(), "disagreed", 1.0) for image in shapes(40, 20).images]
    bench.store.kept.add("letters", witness, kept, most_images=100)
    with pytest.raises(NothingNewKept, match="none has the size and the classes of dataset 'few'"):
        bench.run(redistil, order("letters", student=base.student_version), DistillationReport)
