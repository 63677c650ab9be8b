"""Jobs that ask for transfer sets, alone, by children and live; the teacher is a stand-in."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import InferenceSession

from services.worker.kinds import distillation
from services.worker.kinds.registry import run
from services.worker.stages import asking
from services.worker.stages.transfer_sets import summaries
from shared.artefacts.datasets import Split
from shared.contracts.architectures import Mlp
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import DistillationReport, TransferSetReport
from shared.contracts.specs import DistillationSpec, TransferSetJobSpec, TransferSetShardsSpec
from shared.contracts.training import Asking, Budget, Objective, StudentSpec, TransferSetSpec
from shared.distillation.reports import transfer_set as report
from shared.errors import ClassMismatch, StudentNotFound
from shared.transfer_set.choice import choose_rows
from tests.support.asking import PLOT
from tests.support.kinds import NAMES, Bench, SharpTeacher, one_thread
from tests.support.student_bundles import mlp_onnx, write_bundle

ASKED = TransferSetJobSpec(name="asked", teacher="big", dataset="quarters")
DISTILLED = DistillationSpec(
    name="small",
    teacher="big",
    dataset="quarters",
    student=StudentSpec(network=Mlp(hidden_units=(6,))),
    objective=Objective(temperature=2.0, soft_weight=1.0, hard_weight=0.1),
    transfer_set=TransferSetSpec(views=3, jitter_px=1, flip=True),
    budget=Budget(epochs=5, batch_size=32, learning_rate=1e-2),
    seeds=(0, 1),
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """With shards of 70 rows."""
    monkeypatch.setattr(asking, "TeacherClient", SharpTeacher)
    for drawing in (summaries, report):
        monkeypatch.setattr(drawing, "plot_entropy", lambda *_, **__: PLOT)
    monkeypatch.setattr("shared.transfer_set.writer.default_shard_rows", lambda _: 70)
    bench = Bench(tmp_path, monkeypatch)
    bench.publish_teacher()
    with one_thread():
        yield bench


def report_of(bench: Bench, job_id: str) -> TransferSetReport:
    return TransferSetReport.model_validate_json(bench.store.job(job_id).report_json.read_bytes())


def children_of(bench: Bench) -> list[TransferSetShardsSpec]:
    return [sent.child for sent in bench.sent if isinstance(sent.child, TransferSetShardsSpec)]


def test_a_transfer_set_is_all_that_the_job_makes_and_its_report_says_what_it_took(bench: Bench):
    result = bench.run("j-1", ASKED)
    context = bench.context("j-2", ASKED)
    stored = context.transfer_sets.open(result.transfer_set)
    assert result == JobResult(
        teacher="big",
        teacher_digest=stored.manifest.inputs.teacher_digest,
        transfer_set=stored.manifest.digest,
    )
    report = report_of(bench, "j-1")
    assert (report.images, report.summary.rows, report.summary.rows_labelled) == (200, 200, 200)
    assert (report.asked.cost.rows_asked, report.asked.cost.rows_from_cache) == (200, 0)
    assert report.asked.cost.seconds > 0
    page = bench.store.job("j-1").directory.joinpath("report.md").read_text()
    assert "200 rows were asked for, 0 were stored" in page
    assert "![Entropy" in page
    again = bench.run("j-2", ASKED)
    assert again.transfer_set == result.transfer_set
    cost = report_of(bench, "j-2").asked.cost
    assert (cost.rows_asked, cost.rows_from_cache, cost.rows_rescored) == (0, 200, 64)


def test_images_without_labels_are_asked_about_like_any_other(bench: Bench):
    train = bench.store.datasets.load("quarters", "train")
    bench.store.datasets.put("wild", {"train": Split(train.images, None)}, classes=(), source="a test")
    with pytest.raises(ClassMismatch):
        bench.run("j-0", ASKED.model_copy(update={"dataset": "wild"}))
    splits = {name: bench.store.datasets.load("quarters", name) for name in ("validation", "test")}
    splits["train"] = Split(train.images, None)
    bench.store.datasets.put("unlabelled", splits, classes=NAMES, source="a test")
    choose = TransferSetSpec.model_validate({"share": 0.5, "choose": {"by": "entropy", "share": 0.2}})
    bench.run("j-1", ASKED.model_copy(update={"dataset": "unlabelled", "transfer_set": choose}))
    report = report_of(bench, "j-1")
    assert (report.images, report.summary.rows_labelled) == (20, 0)
    assert sum(one.predicted for one in report.summary.classes) == 20
    assert report.asked.cost.rows_asked == 100


@pytest.mark.parametrize("tasks", [2, 3, 100])
def test_shards_are_divided_among_children_and_what_they_asked_is_summed(bench: Bench, tasks: int):
    spec = ASKED.model_copy(update={"transfer_set": TransferSetSpec(views=2, flip=True)})
    bench.run("j-1", spec.model_copy(update={"asking": Asking(tasks=tasks)}))
    children = children_of(bench)
    assert len(children) == min(tasks, 6)  # 400 rows are six shards
    assert sorted(shard for child in children for shard in child.shards) == list(range(6))
    assert bench.runs == ["j-1", *(f"j-1-{number:03d}" for number in range(len(children))), "j-1"]
    cost = report_of(bench, "j-1").asked.cost
    assert (cost.rows_asked, cost.rows_from_cache) == (400, 0)
    assert SharpTeacher.asked == 400


def test_a_child_that_runs_twice_asks_for_nothing_again(bench: Bench):
    bench.run("j-1", ASKED.model_copy(update={"asking": Asking(tasks=2)}))
    first, _ = children_of(bench)
    run(bench.context("j-9", first))
    assert SharpTeacher.asked == 200


def test_a_child_whose_shards_are_known_to_another_set_needs_no_teacher_and_few_children_are_made(
    bench: Bench,
):
    bench.run("j-1", ASKED)
    spec = ASKED.model_copy(
        update={
            "transfer_set": TransferSetSpec(views=2, crop_scale=0.1, contrast=0.9),
            "asking": Asking(tasks=9),
        }
    )
    bench.run("j-2", spec)
    # View 0 is known: of 400 rows the first two shards of 70 are not asked for, and the third in part.
    assert sorted(shard for child in children_of(bench) for shard in child.shards) == [2, 3, 4, 5]
    assert report_of(bench, "j-2").asked.cost.rows_from_cache == 200


def test_a_job_whose_teacher_is_replaced_meanwhile_goes_on_with_the_one_it_began_with(bench: Bench):
    began = bench.store.teachers.current("big").digest
    spec = ASKED.model_copy(update={"asking": Asking(tasks=2)})
    jobs = Interrupted(bench)
    result = jobs.run_replacing("j-1", spec)
    assert bench.store.teachers.current("big").digest != began
    assert result.teacher_digest == began


class Interrupted:
    """Runs a job whose teacher's name stands for another one by the time its children have ended."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def run_replacing(self, job_id: str, spec: TransferSetJobSpec) -> JobResult:
        inner = self._bench.run

        def replacing(child_id: str, child: TransferSetShardsSpec) -> JobResult:
            weights = {"layers.0.weight": np.ones((1, 4, 36), np.float32)}
            self._bench.publish_teacher(tensors=weights)
            return inner(child_id, child)

        self._bench.monkeypatch.setattr(self._bench, "run", replacing)
        return inner(job_id, spec)


def test_a_student_learns_while_its_teacher_is_asked_and_the_report_gives_the_wait(bench: Bench):
    bench.run("j-live", DISTILLED.model_copy(update={"asking": Asking(live=True)}))
    report = DistillationReport.model_validate_json(bench.store.job("j-live").report_json.read_bytes())
    assert report.asked is not None
    assert report.asked.waited_share is not None
    assert 0 <= report.asked.waited_share < 1
    assert report.asked.cost.rows_asked + report.asked.cost.rows_from_cache == 600
    page = bench.store.job("j-live").directory.joinpath("report.md").read_text()
    assert "training waited for the teacher in" in page
    told = [
        sent.progress for sent in bench.sent if sent.progress and sent.progress.stage is Stage.TRANSFER_SET
    ]
    assert (told[0].done, told[-1].done) == (0, 600)


def test_a_student_learns_of_images_that_nobody_labelled_and_children_asked_about(bench: Bench):
    """Beside a twin that learns what its teacher names; one job for both promises, as each takes seconds."""
    splits = {name: bench.store.datasets.load("quarters", name) for name in ("train", "validation", "test")}
    splits["train"] = Split(splits["train"].images, None)
    bench.store.datasets.put("unlabelled", splits, classes=NAMES, source="a test")
    changes = {"dataset": "unlabelled", "objective": Objective(temperature=2.0), "asking": Asking(tasks=2)}
    bench.run("j-1", DISTILLED.model_copy(update=changes))
    learned = DistillationReport.model_validate_json(bench.store.job("j-1").report_json.read_bytes())
    # The stand-in teacher is right about the brightest quarter, so both learn it.
    assert learned.taught.accuracy > 0.6
    assert learned.untaught.accuracy > 0.6
    assert distillation.TWIN_OF_UNLABELLED in learned.warnings
    assert learned.pair is not None
    assert learned.pair.untaught_accuracy is None
    assert len(children_of(bench)) == 2
    assert learned.asked is not None
    assert learned.asked.cost.rows_asked + learned.asked.cost.rows_from_cache == 600
    assert learned.cost.teacher_rows == SharpTeacher.asked - 20  # latency is measured with one image


def test_images_are_chosen_on_which_a_stored_student_says_something_else(bench: Bench):
    size = bench.manifest.input
    model = mlp_onnx(size, classes=4)
    bench.store.students.publish(
        "wren-1", lambda aside: write_bundle(aside, "wren-1", model, classes=NAMES, image=size)
    )
    choose = {"by": "disagreement", "share": 0.25, "student": "wren-1"}
    spec = ASKED.model_copy(update={"transfer_set": TransferSetSpec.model_validate({"choose": choose})})
    result = bench.run("j-2", spec)
    stored = bench.context("j-3", spec).transfer_sets.open(result.transfer_set)
    images = bench.store.datasets.load("quarters", "train").images
    (said,) = InferenceSession(model, providers=["CPUExecutionProvider"]).run(["logits"], {"images": images})
    quarters = images.astype(np.float32).reshape(200, 2, 3, 2, 3).mean((2, 4)).reshape(200, 4) / 10
    expected = choose_rows(np.arange(200), 0.25, lambda block: quarters[block], lambda block: said[block])
    assert len(np.intersect1d(stored.rows, expected)) >= 49  # rounding to 16 bits may exchange the last two


def test_a_student_that_is_not_there_is_told_before_anything_is_asked(bench: Bench):
    choose = {"by": "disagreement", "share": 0.25, "student": "nobody-1"}
    spec = ASKED.model_copy(update={"transfer_set": TransferSetSpec.model_validate({"choose": choose})})
    with pytest.raises(StudentNotFound):
        bench.run("j-1", spec)
    assert SharpTeacher.asked == 0
