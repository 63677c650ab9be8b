"""What a job of kind `distillation` does and says, run in this process against a real teacher service."""

from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from services.worker.protocol import ChildMessage
from services.worker.stages.context import JobContext
from services.worker.stages.pair import untaught_accuracy
from shared.contracts.architectures import Cnn, Mlp
from shared.contracts.evaluation import NetFigures
from shared.contracts.jobs import Stage
from shared.contracts.reports import DistillationReport
from shared.contracts.training import (
    BiasRepair,
    Budget,
    Hint,
    Objective,
    Regularisation,
    StudentSpec,
    TransferSetSpec,
)
from shared.errors import InvalidPrior, LayersDoNotJoin, TeacherNotLoadable, ViewsBelongToTransferSet
from shared.models.network import Network
from tests.support.distilling import SHAPES, Bench
from tests.support.teachers import publish, random_tensors, teacher_process

pytestmark = pytest.mark.integration

HINT = Hint(weight=1.0, student_layer="hidden.0", teacher_layer="hidden.0")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Shapes, a trained teacher `owl` of one net, a service that answers for all teachers of the store."""
    state_dir = tmp_path_factory.mktemp("state")
    # Nets this small are slower on two threads than on one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(state_dir)
    bench.add_shapes()
    bench.teach()
    with teacher_process(state_dir) as url:
        bench.teacher_url = url
        yield bench
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain(bench: Bench) -> DistillationReport:
    return bench.distil()


@pytest.fixture(scope="module")
def repaired(bench: Bench) -> tuple[DistillationReport, dict[Stage, set[str]]]:
    """The report of a job whose students never saw a star, and which splits had been read by each stage."""
    read: set[str] = set()
    read_by: dict[Stage, set[str]] = {}
    load = bench.store.datasets.load

    def watch(context: JobContext) -> None:
        send = context.send

        def told(message: ChildMessage) -> None:
            if message.progress is not None:
                read_by.setdefault(message.progress.stage, set(read))
            send(message)

        context.send = told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.store.datasets, "load", lambda name, split: read.add(split) or load(name, split))
        patch.setattr(bench, "watch", watch)
        report = bench.distil(transfer_set=TransferSetSpec(omit=("star",)), bias_repair=BiasRepair())
    return report, read_by


def net(report: DistillationReport, arm: str, seed: int) -> NetFigures:
    return next(one for one in report.nets if (one.arm, one.seed) == (arm, seed))


def test_the_reports_files_lie_in_the_jobs_folder_and_in_the_bundle(bench: Bench, plain: DistillationReport):
    folder = bench.store.job(plain.job_id).directory
    students = bench.store.students
    for name in plain.files:
        assert (folder / name).read_bytes() == students.file(plain.student_version, name).read_bytes()
    card = students.card(plain.student_version)
    exported = {"model.onnx", "model.safetensors", "samples.safetensors", card.graphs.file}
    assert set(plain.files) | exported == set(card.files)
    assert {"reliability.png", "confusion.svg", "curves.png"} <= set(plain.files)
    assert plain.student_bytes == card.files[card.graphs.file].size_bytes
    assert plain.graphs == card.graphs


def test_the_cascade_is_measured_by_the_graph_that_is_served(bench: Bench, plain: DistillationReport):
    card = bench.store.students.card(plain.student_version)
    curve = plain.cascade
    assert curve is not None
    assert card.cascade == curve
    assert card.graphs is not None
    bundle = bench.store.students.file(plain.student_version, "card.json").parent
    served = onnxruntime.InferenceSession(bundle / card.graphs.file)
    test = bench.store.datasets.load(plain.spec.dataset, "test")
    (found,) = served.run(["probabilities"], {"images": np.array(test.images)})
    right = found.argmax(1) == test.labels
    assert (curve.validation_images, curve.test_images) == (200, 400)
    assert curve.student_accuracy == pytest.approx(right.mean(), abs=1 / 400)
    assert curve.teacher_accuracy == plain.teacher.accuracy
    assert (curve.points[0].share, curve.points[0].accuracy) == (0.0, curve.student_accuracy)
    for point in curve.points:
        assert point.share == pytest.approx((found.max(1) < point.threshold).mean(), abs=2 / 400)
    assert "cascade.svg" in plain.files


def test_every_net_has_its_figures_and_they_are_those_of_the_comparison(plain: DistillationReport):
    assert len(plain.nets) == 4
    for one in plain.comparison.seeds:
        assert net(plain, "taught", one.seed).errors == round(400 * (1 - one.taught_accuracy))
        assert net(plain, "untaught", one.seed).errors == round(400 * (1 - one.untaught_accuracy))
    served = max(
        (one for one in plain.nets if one.arm == "taught"), key=lambda one: one.validation_accuracy or 0.0
    )
    assert (plain.taught.errors, plain.agreement) == (served.errors, served.agreement)


def test_the_check_of_the_pair_says_where_no_untaught_student_is_known_yet(bench: Bench):
    order = {"student": StudentSpec(network=Mlp(hidden_units=(7,))), "budget": Budget(epochs=1)}

    def says_so() -> bool:
        before = len(bench.notes)
        bench.distil(**order)
        return any("no untaught student of this network is known" in note for note in bench.notes[before:])

    assert says_so()
    assert not says_so()  # the first job's twin is one


def test_the_cost_counts_rows_asked_and_rows_from_the_cache(bench: Bench, plain: DistillationReport):
    assert list(plain.cost.seconds) == ["check", "transfer_set", "train", "evaluate", "export"]
    again = bench.distil(
        transfer_set=TransferSetSpec(views=2, jitter_px=1, label_share=0.02),
        objective=Objective(temperature=2.0, soft_weight=1.0, hard_weight=0.1),
    )
    # View 0 of all 400 images is known since the plain job; shifts by 0 are known, too.
    assert again.cost.cached_rows >= 400
    assert again.cost.teacher_rows + again.cost.cached_rows == 800 + 200 + 400
    # With eight labels the untaught twin has little to learn from; the teacher speaks of all images.
    assert again.comparison.gain > 0.05


def test_a_class_that_was_never_shown_is_found_again_once_biases_are_repaired(bench: Bench, repaired):
    report, _ = repaired
    repair = report.repair
    assert repair is not None
    assert (repair.source, repair.images) == ("unlabelled", 400)
    assert repair.shares == pytest.approx([0.25] * 4)
    star = SHAPES.index("star")
    for one in repair.nets:
        after = net(report, one.arm, one.seed)
        assert after.errors_by_class["star"] < one.before.errors_by_class["star"]
        if one.arm == "untaught":
            assert one.before.errors_by_class["star"] > 50
            assert one.biases[star] == max(one.biases)
            assert after.accuracy > one.before.accuracy
    assert len({one.biases for one in repair.nets}) == 4  # each net has its own
    page = (bench.store.job(report.job_id).directory / "report.md").read_text()
    assert "## Class biases repaired" in page


def test_the_exported_student_has_its_repaired_biases(bench: Bench, repaired):
    report, _ = repaired
    path = bench.store.students.file(report.student_version, "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    test = bench.store.datasets.load("shapes", "test")
    (logits,) = session.run(["logits"], {"images": test.images})
    assert int((logits.argmax(-1) != test.labels).sum()) == report.taught.errors
    # What the biases were found for: the mean softmax mass on the training images is the classes' shares.
    train = bench.store.datasets.load("shapes", "train")
    (probabilities,) = session.run(["probabilities"], {"images": train.images})
    assert probabilities.mean(0) == pytest.approx([0.25] * 4, abs=1e-4)


def test_no_test_image_or_label_is_read_before_training_and_repair_are_done(repaired):
    _, read_by = repaired
    assert read_by[Stage.EVALUATE] == {"train", "validation"}
    assert read_by[Stage.EXPORT] == {"train", "validation", "test"}


def test_biases_can_be_found_on_the_validation_labels(bench: Bench):
    report = bench.distil(
        transfer_set=TransferSetSpec(omit=("cross",)), bias_repair=BiasRepair(source="validation")
    )
    assert report.repair is not None
    assert (report.repair.source, report.repair.images) == ("validation", 200)
    for one in report.repair.nets:
        after = net(report, one.arm, one.seed)
        assert after.errors_by_class["cross"] < one.before.errors_by_class["cross"]
        # Validation decides which seed is served, so its accuracy is the one after the repair.
        assert after.validation_accuracy != one.before.validation_accuracy


def test_a_hint_is_all_that_parts_taught_from_untaught(bench: Bench, plain: DistillationReport):
    objective = Objective(soft_weight=0.0, hard_weight=1.0, temperature=1.0, hint=HINT)
    report = bench.distil(objective=objective)
    for seed in (0, 1):
        assert net(report, "untaught", seed).nll == net(plain, "untaught", seed).nll
        assert net(report, "taught", seed).nll != net(report, "untaught", seed).nll


def test_hints_of_an_ensemble_are_refused_and_its_own_report_shows_each_member(bench: Bench):
    ensemble = bench.teach(name="two-owls", seeds=(0, 1))
    assert [member.seed for member in ensemble.members] == [0, 1]
    assert all(member.agreement is not None and member.agreement > 0.5 for member in ensemble.members)
    assert (bench.store.job(ensemble.job_id).directory / "confusion.svg").exists()
    with pytest.raises(TeacherNotLoadable, match="it is an ensemble of 2 nets"):
        bench.distil(teacher="two-owls", objective=Objective(hint=HINT))


def test_layers_that_cannot_be_joined_are_refused_before_the_teacher_is_asked(bench: Bench):
    hint = HINT.model_copy(update={"student_layer": "block.0"})
    network = Cnn(channels=(4,), hidden_units=8)
    bench.messages.clear()
    with pytest.raises(LayersDoNotJoin, match=r"'block\.0'"):
        bench.distil(student=StudentSpec(network=network), objective=Objective(hint=hint))
    assert {message.progress.stage for message in bench.messages if message.progress} == {Stage.CHECK}


@pytest.mark.parametrize("rule", [Regularisation(jitter_px=1), Regularisation(flip=True)])
def test_views_that_the_teacher_never_saw_are_refused(bench: Bench, rule: Regularisation):
    with pytest.raises(ViewsBelongToTransferSet):
        bench.distil(student=StudentSpec(network=Mlp(hidden_units=(8,)), regularisation=rule))


def test_a_prior_for_other_classes_is_refused(bench: Bench):
    with pytest.raises(InvalidPrior, match="3 shares, and there are 4 classes"):
        bench.distil(bias_repair=BiasRepair(prior=(0.2, 0.3, 0.5)))


def test_a_convolutional_student_learns_from_a_perceptron_under_its_own_regularisation(bench: Bench):
    network = Cnn(channels=(4,), hidden_units=8)
    rule = Regularisation(hidden_dropout=0.1, max_norm=1.0)
    report = bench.distil(student=StudentSpec(network=network, regularisation=rule))
    known = Network(network, bench.store.datasets.get("shapes").input, 4)
    assert report.student_parameters == known.parameters
    assert report.taught.accuracy > 0.4
    weights = load_file(bench.store.students.file(report.student_version, "model.safetensors"))
    for name in known.max_norm_weights:
        norms = np.linalg.norm(weights[name].reshape(len(weights[name]), -1), axis=1)
        assert norms.max() <= 1.0 + 1e-4


def test_a_teacher_near_chance_and_no_better_than_known_students_is_warned_of(
    bench: Bench, plain: DistillationReport
):
    known = bench.store.teachers.current("owl").preprocessing
    tensors = random_tensors(seed=4, size=known.input)
    publish(bench.store.root, "guesser", tensors=tensors, classes=SHAPES, preprocessing=known)
    bench.messages.clear()
    report = bench.distil(teacher="guesser")
    assert report.warnings[0].startswith("the teacher is near chance")
    assert report.warnings[-1].startswith("the teacher is no better than an untaught student")
    assert set(report.warnings) <= set(bench.notes)
    assert report.pair is not None
    # Of the same seeds and data: the twins of the plain job.
    assert report.pair.untaught_accuracy == untaught_accuracy(plain.curves)
    assert not any("near chance" in warning for warning in plain.warnings)
