"""Specialists from end to end in one process: a real teacher service, children run as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from services.teacher.app import create_app
from services.teacher.settings import TeacherSettings
from services.worker.kinds import specialist
from services.worker.kinds.registry import run
from services.worker.kinds.specialist import load_specialist
from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext, JobWaits
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.datasets import Split
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.evaluation import Verdict
from shared.contracts.jobs import ChildJob, JobResult, JobState
from shared.contracts.reports import DistillationReport, SpecialistsReport
from shared.contracts.specs import (
    DistillationSpec,
    JobSpec,
    SpecialistPlan,
    SpecialistSpec,
    SpecialistsSpec,
    SpecialistTraining,
    TeacherSpec,
)
from shared.contracts.training import Budget, Objective, Regularisation, StudentSpec, TransferSetSpec
from shared.distillation.examples import Examples
from shared.distillation.reports.files import markdown
from shared.distillation.specialists import SpecialClasses
from shared.errors import InvalidSpecialistPlan
from shared.serving.session import StudentSession
from tests.support.asgi_server import served

CLASSES = tuple(f"{group}{number}" for group in "abc" for number in range(3))
"""Three groups of three classes; those of a group look almost alike."""
QUICK = Budget(epochs=6, batch_size=32, learning_rate=3e-3)
GENERALIST = TeacherSpec(
    name="owl",
    dataset="birds",
    architecture=Mlp(hidden_units=(24,)),
    regularisation=Regularisation(),
    budget=Budget(epochs=3, batch_size=32, learning_rate=3e-3),
)
EXPERTS = SpecialistsSpec(
    name="experts",
    generalist="owl",
    dataset="birds",
    plan=SpecialistPlan(sets=3, size=4),
    training=SpecialistTraining(budget=QUICK),
    seeds=(0, 1),
)


def birds(rows: int, seed: int) -> Split:
    patterns = np.random.default_rng(0)
    groups = patterns.normal(0, 60, (3, 1, 6, 6, 1)).repeat(3, axis=1).reshape(9, 6, 6, 1)
    details = patterns.normal(0, 14, (9, 6, 6, 1))
    generator = np.random.default_rng(seed)
    labels = np.arange(rows, dtype=np.int64) % len(CLASSES)
    pixels = 128 + (groups + details)[labels] + generator.normal(0, 25, (rows, 6, 6, 1))
    return Split(pixels.clip(0, 255).astype(np.uint8), labels)


@dataclass
class Place:
    """A state directory, a teacher service on it, and jobs run in this process one after another."""

    settings: WorkerSettings

    def __post_init__(self) -> None:
        self.store = ArtefactStore(self.settings.store_dir)
        self.attempts: list[str] = []
        splits = {"train": birds(540, 1), "validation": birds(180, 2), "test": birds(360, 3)}
        self.store.datasets.put("birds", splits, classes=CLASSES, source="made up")

    def run(self, job_id: str, spec: JobSpec) -> JobResult:
        children: list[ChildJob] = []
        while True:
            sent: list[ChildMessage] = []
            order = ChildOrder(job_id=job_id, epoch=1, attempts=1, spec=spec, children=tuple(children))
            self.attempts.append(job_id)
            try:
                return run(JobContext(order, self.settings, self.store, sent.append))
            except JobWaits:
                for child in (message.child for message in sent if message.child is not None):
                    child_id = f"{job_id}-{len(children):03d}"
                    result = self.run(child_id, child)
                    children.append(
                        ChildJob(id=child_id, kind=child.kind, state=JobState.SUCCEEDED, result=result)
                    )

    def report(self, job_id: str) -> SpecialistsReport:
        return SpecialistsReport.model_validate_json(self.store.job(job_id).report_json.read_bytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The same for all tests: they only add to it. One thread, so that tests do not wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    state_dir: Path = tmp_path_factory.mktemp("state")
    with served(create_app(TeacherSettings(state_dir=state_dir, device="cpu", threads=1))) as url:
        place = Place(WorkerSettings(state_dir=state_dir, device="cpu", teacher_url=url, checkpoint_s=60))
        place.run("j-owl", GENERALIST)
        place.run("j-experts", EXPERTS)
        yield place
    torch.set_num_threads(threads)


def test_each_set_of_each_seed_is_a_job_of_its_own_and_the_parent_waits_for_all(place: Place):
    children = [f"j-experts-{number:03d}" for number in range(6)]
    assert place.attempts[1:] == ["j-experts", *children, "j-experts"]
    report = place.report("j-experts")
    assert [one.jobs for one in report.specialists] == [tuple(children[n::3]) for n in range(3)]


def test_the_classes_that_look_alike_share_a_specialist(place: Place):
    found = [set(one.classes) for one in place.report("j-experts").specialists]
    groups = [{name for name in CLASSES if name[0] == group} for group in "abc"]
    assert sum(any(group <= one for one in found) for group in groups) >= 2
    assert all(len(one) == 4 for one in found)


def test_specialists_make_the_generalist_better_and_the_report_says_where(place: Place):
    report = place.report("j-experts")
    assert report.comparison.gain > 0.01
    assert report.comparison.verdict in set(Verdict)
    assert report.combined.accuracy > report.generalist.accuracy
    assert sum(row.examples for row in report.coverage) == 360
    assert sum(row.generalist_correct for row in report.coverage) == 360 - report.generalist.errors
    gained = [sum(changes) for changes in zip(*(row.changes for row in report.coverage), strict=True)]
    right = dict(zip(report.spec.seeds, gained, strict=True))[report.seed]
    assert right == report.generalist.errors - report.combined.errors
    assert report.cost.teacher_rows == 540
    for one in report.specialists:
        assert one.share == pytest.approx(4 / 9, abs=1e-6)
        assert one.correction == pytest.approx(np.log((1 - one.share) / one.share))
    page = markdown(report)
    assert "By number of covering specialists" in page
    assert "coverage.png" in page


def test_the_ensemble_answers_as_a_teacher_and_as_a_student_alike(place: Place):
    result = place.run("j-experts", EXPERTS)  # finished: nothing is done again but the report
    images = place.store.datasets.load("birds", "test").images
    with TeacherClient(place.settings.teacher_url) as client:
        digest = place.store.teachers.current("experts").digest
        asked = client.soft_targets("experts", [images], temperature=2.0, expected_digest=digest)
        ((_, answers),) = asked
    exponentials = np.exp(2.0 * answers.astype(np.float64))
    taught = exponentials / exponentials.sum(1, keepdims=True)
    assert result.student is not None
    bundle = place.store.students.file(result.student, "card.json").parent
    student = StudentSession.load(bundle)
    np.testing.assert_allclose(student.probabilities(images), taught, atol=1e-4)
    report = place.report("j-experts")
    labels = place.store.datasets.load("birds", "test").labels
    assert (student.probabilities(images).argmax(1) != labels).sum() == report.combined.errors
    card = place.store.students.card(result.student)
    assert {"generalist.onnx", "specialist-02.onnx", "samples.safetensors"} <= set(card.files)
    assert card.specialists is not None
    assert [part.classes for part in card.specialists.specialists] == [
        one.classes for one in report.specialists
    ]
    assert {one.batch for one in card.latency} == {1, 32}


def test_generalist_and_specialists_are_distilled_back_into_one_student(place: Place):
    """What the paper left open (section 5.6) is one more job."""
    spec = DistillationSpec(
        name="wren",
        teacher="experts",
        dataset="birds",
        student=StudentSpec(network=Mlp(hidden_units=(24,))),
        objective=Objective(temperature=2.0, soft_weight=0.9, hard_weight=0.1),
        budget=QUICK,
        seeds=(0, 1),
    )
    result = place.run("j-wren", spec)
    report = DistillationReport.model_validate_json(place.store.job("j-wren").report_json.read_bytes())
    assert report.teacher.errors == place.report("j-experts").combined.errors
    assert report.agreement > 0.5
    assert report.teacher_digest == place.store.teachers.current("experts").digest
    assert result.student is not None


def test_given_sets_over_all_classes_learn_from_soft_targets_of_the_rest_on_the_views_asked_about(
    place: Place,
):
    """arXiv:1503.02531, section 6.1."""
    plan = SpecialistPlan(classes=tuple(tuple(n for n in CLASSES if n[0] == g) for g in "abc"))
    changes = {
        "name": "whole",
        "plan": plan,
        "training": SpecialistTraining(budget=QUICK, rest="soft_targets"),
        "transfer_set": TransferSetSpec(views=2, jitter_px=1),
        "top_n": 2,
    }
    place.run("j-whole", EXPERTS.model_copy(update=changes))
    report = place.report("j-whole")
    assert [one.classes for one in report.specialists] == list(plan.classes)
    assert [row.covering for row in report.coverage] == [1]
    assert report.comparison.gain > -0.02
    assert report.cost.teacher_rows + report.cost.cached_rows == 2 * 540
    assert report.cost.teacher_rows < 540  # the images as they are were known
    description = place.store.teachers.current("whole")
    combination = description.nets.specialists
    assert combination is not None
    assert not any(part.dustbin for part in combination.specialists)
    with TeacherClient(place.settings.teacher_url) as client:
        assert client.describe("whole").model == description.model


@pytest.mark.parametrize("dustbin", [True, False])
def test_targets_of_every_view_are_made_piece_by_piece_and_kept_in_16_bits(
    dustbin: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(specialist, "_ROWS", 4)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10) % 5
    given = torch.randn(3, 10, 5, generator=generator).half()
    images = torch.zeros(10, 2, 2, 1, dtype=torch.uint8)
    examples = Examples(
        images, labels, validation_images=images, validation_labels=labels, teacher_logits=given
    )
    special = SpecialClasses((3, 1), 5, share=0.4, dustbin=dustbin)
    kept = specialist.special_examples(examples, special, soft=True, seed=0).teacher_logits
    assert kept is not None
    assert kept.dtype == torch.float16
    whole = [special.soft_targets(view) if dustbin else special.full_targets(view, labels) for view in given]
    torch.testing.assert_close(kept, torch.stack(whole).half(), rtol=0, atol=1e-2)
    assert specialist.special_examples(examples, special, soft=False, seed=0).teacher_logits is None


def test_a_generalist_of_several_nets_is_refused_before_it_costs_anything(place: Place):
    with pytest.raises(InvalidSpecialistPlan, match="it is a generalist with 3 specialists"):
        place.run("j-again", EXPERTS.model_copy(update={"name": "again", "generalist": "experts"}))
    assert "j-again-000" not in place.attempts


def test_a_specialist_starts_from_the_generalist_it_was_ordered_for_even_if_replaced_since(place: Place):
    first = place.store.teachers.current("owl")
    place.run("j-owl-2", GENERALIST.model_copy(update={"seeds": (7,)}))
    assert place.store.teachers.current("owl").digest != first.digest
    spec = SpecialistSpec(
        name="experts", generalist="owl", generalist_digest=first.digest, dataset="birds",
        classes=CLASSES[:3], training=SpecialistTraining(budget=Budget(epochs=1, learning_rate=1e-9)),
    )  # fmt: skip
    result = place.run("j-one", spec)
    place.store.teachers.make_current("owl", first.digest)
    assert result.artefact is not None
    _, net = load_specialist(place.store.job("j-one").directory / result.artefact)
    before = place.store.teachers.load(first)
    np.testing.assert_allclose(net.tensors["layers.0.weight"], before["layers.0.weight"][0], atol=1e-5)
    np.testing.assert_allclose(
        net.tensors["layers.1.weight"][:3], before["layers.1.weight"][0, :3], atol=1e-5
    )
    np.testing.assert_allclose(net.tensors["layers.1.bias"][:3], before["layers.1.bias"][0, :3], atol=1e-5)
