"""A whole sweep: one transfer set, trials on a real Redis, a report, a student; in process, no worker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from services.worker.kinds import sweep_trials
from services.worker.kinds.registry import RUNNERS, run
from services.worker.stages import asking
from services.worker.stages.context import JobWaits
from shared.contracts.architectures import Mlp
from shared.contracts.jobs import JobResult
from shared.contracts.reports import SweepReport
from shared.contracts.specs import FloatRange, SweepConstraint, SweepSpec
from shared.contracts.training import Budget
from shared.errors import Diverged, InvalidRange, TeacherDoesNotTemper
from shared.jobs.checks import sweep as checks
from tests.support.kinds import Bench, SharpTeacher, one_thread
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.integration

NARROW, WIDE = Mlp(hidden_units=(2,)), Mlp(hidden_units=(24,))
SPEC = SweepSpec(
    name="small",
    teacher="big",
    dataset="quarters",
    networks=(NARROW, WIDE),
    temperatures=FloatRange(values=(1.0, 4.0, 20.0)),
    hard_weights=FloatRange(values=(0.0, 0.5)),
    budget=Budget(epochs=2, batch_size=32, learning_rate=1e-2),
    seeds=(0, 1),
)


@contextmanager
def bench_at(state_dir: Path, redis_url: str, patch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(state_dir, patch, redis_url=redis_url, checkpoint_s=0)
    bench.publish_teacher()
    patch.setattr(asking, "TeacherClient", SharpTeacher)
    with one_thread():
        yield bench


@pytest.fixture
def bench(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with bench_at(tmp_path, redis_url, monkeypatch) as bench:
        yield bench


@dataclass(frozen=True)
class Swept:
    """`SPEC`, run once as job j-1 for all tests that only look at what came of it."""

    bench: Bench
    result: JobResult
    report: SweepReport
    asked_before_the_children: int
    asked_in_all: int
    studies_left: list[bytes]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Swept]:
    redis_server.flush()
    state_dir = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch, bench_at(state_dir, redis_server.url, patch) as bench:
        with pytest.raises(JobWaits):
            run(bench.context("j-1", SPEC))
        asked = SharpTeacher.asked
        result = bench.run("j-1", SPEC)
        with redis.Redis.from_url(redis_server.url) as client:
            left = [key for key in client.scan_iter("imago:study:*") if client.type(key) == b"list"]
        yield Swept(bench, result, report_of(bench, "j-1"), asked, SharpTeacher.asked, left)


def report_of(bench: Bench, job_id: str) -> SweepReport:
    return SweepReport.model_validate_json(bench.store.job(job_id).report_json.read_bytes())


def spec(**changes: object) -> SweepSpec:
    return SPEC.model_copy(update=changes)


def test_a_grid_is_swept_for_each_network_and_the_best_becomes_a_student(swept: Swept):
    bench, result, report = swept.bench, swept.result, swept.report
    # The parent runs until it has made its children, and again when both have ended.
    assert bench.runs == ["j-1", "j-1-000", "j-1-001", "j-1"]
    for one in report.networks:
        points = {(t.temperature, t.soft_weight, t.hard_weight) for t in one.trials}
        assert points == {(t, 1.0, h) for t in (1.0, 4.0, 20.0) for h in (0.0, 0.5)}
        assert len(one.trials) == 6
        assert one.best_trial.validation_accuracy == max(t.validation_accuracy for t in one.trials)
        assert all(len(t.validation_accuracies) == len(t.test_accuracies) == 2 for t in one.trials)
        assert one.satisfies
    narrow, wide = report.networks
    assert wide.best_trial.validation_accuracy > narrow.best_trial.validation_accuracy
    assert report.chosen == 1

    assert result == JobResult(
        teacher="big",
        teacher_digest=report.teacher_digest,
        student="small-1",
        verdict=report.comparison.verdict.value,
    )
    card = bench.store.students.card("small-1")
    assert card.architecture == WIDE
    assert card.parameters == wide.parameters == 36 * 24 + 24 + 24 * 4 + 4
    best = wide.best_trial
    assert (card.objective.temperature, card.objective.hard_weight) == (best.temperature, best.hard_weight)
    assert card.comparison == report.comparison
    assert card.cascade is not None
    assert card.cascade == report.cascade
    assert card.cascade.teacher_accuracy == report.teacher.accuracy
    assert card.evaluation == report.taught
    assert {"model.onnx", "report.json", "report.md", "temperature-validation.png"} <= set(card.files)
    assert not swept.studies_left


def test_the_verdict_compares_with_the_untaught_twins_of_the_chosen_network(swept: Swept):
    report = swept.report
    chosen = report.networks[report.chosen]
    seeds = report.comparison.seeds
    assert tuple(one.untaught_accuracy for one in seeds) == pytest.approx(chosen.untaught_test_accuracies)
    assert tuple(one.taught_accuracy for one in seeds) == pytest.approx(chosen.best_trial.test_accuracies)
    assert {curve.arm for curve in report.curves} == {"taught", "untaught"}
    served = SPEC.seeds.index(chosen.seed)
    accuracies = chosen.best_trial.validation_accuracies
    assert accuracies[served] == max(accuracies)
    assert report.taught.accuracy == pytest.approx(chosen.best_trial.test_accuracies[served])


def test_the_teacher_is_asked_about_each_image_once_and_nothing_by_the_children(swept: Swept):
    assert swept.asked_before_the_children == 200 + 60 + 80
    assert swept.asked_in_all == swept.asked_before_the_children
    assert swept.report.cost.teacher_rows == swept.asked_before_the_children


def test_a_teacher_that_is_replaced_while_the_children_train_is_not_the_one_that_is_reported(bench: Bench):
    first = bench.store.teachers.current("big")
    children = sweep_trials.train_trials

    def replacing(*arguments: object) -> JobResult:
        bench.publish_teacher(created_at=bench.manifest.created_at, merge="arithmetic")
        return children(*arguments)

    bench.monkeypatch.setitem(RUNNERS, "sweep_trials", replacing)
    bench.run("j-1", SPEC)
    assert bench.store.teachers.current("big").digest != first.digest
    assert report_of(bench, "j-1").teacher_digest == first.digest


@pytest.mark.parametrize(
    ("constraint", "chosen"),
    [
        (SweepConstraint(within_points=100), 0),  # both keep to it: the smaller
        (SweepConstraint(p50_ms=1e-6), None),
        (SweepConstraint(within_points=0), None),
    ],
)
def test_with_a_constraint_the_smallest_that_keeps_to_it_is_published_or_none(
    bench: Bench, constraint: SweepConstraint, chosen: int | None
):
    order = spec(constraint=constraint, temperatures=FloatRange(values=(4.0,)), budget=Budget(epochs=1))
    result = bench.run("j-1", order)
    report = report_of(bench, "j-1")
    assert report.teacher_validation_accuracy > max(
        one.best_trial.validation_accuracy for one in report.networks
    )
    assert report.chosen == chosen
    page = bench.store.job("j-1").report_md.read_text()
    if chosen is None:
        assert (result.student, result.verdict, report.comparison) == (None, None, None)
        assert not bench.store.students.list()
        assert "keeps to the constraint**" in page
        assert not any(one.satisfies for one in report.networks)
    else:
        assert bench.store.students.card(result.student).architecture == NARROW


TEN = spec(networks=(WIDE,), temperatures=FloatRange(values=(1.0, 2.0, 4.0, 8.0, 20.0)))
"""Ten points of one network: two child jobs."""


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_the_trials_of_one_network_are_shared_by_several_jobs_and_its_twins_are_trained_once(
    bench: Bench, sampler: str
):
    trained: list[tuple[str, int]] = []
    real = sweep_trials.train_cohort

    def noting(*arguments: object, **options: object) -> object:
        trained.extend((net.arm, net.seed) for net in arguments[1])
        return real(*arguments, **options)

    bench.monkeypatch.setattr(sweep_trials, "train_cohort", noting)
    order = TEN.model_copy(update={"sampler": sampler, "trials": 10, "budget": Budget(epochs=1)})
    bench.run("j-1", order)
    assert bench.runs == ["j-1", "j-1-000", "j-1-001", "j-1"]
    network = report_of(bench, "j-1").networks[0]
    assert network.jobs == ("j-1-000", "j-1-001")
    assert network.job_id in network.jobs
    assert [trial.number for trial in network.trials] == list(range(10))
    assert sorted(arm for arm, seed in trained if seed == 0) == sorted(
        ["untaught", *(f"trial-{number}" for number in range(10))]
    )
    assert network.best_trial.validation_accuracy == max(t.validation_accuracy for t in network.trials)
    if sampler == "grid":  # in the order of its points, whichever job trained them
        points = [(trial.temperature, trial.hard_weight) for trial in network.trials]
        assert points == [(t, h) for t in (1.0, 2.0, 4.0, 8.0, 20.0) for h in (0.0, 0.5)]


def test_trials_become_the_same_in_one_job_as_in_two(bench: Bench):
    bench.run("j-1", TEN)
    bench.monkeypatch.setattr(checks, "TRIALS_A_CHILD", 10)
    bench.run("j-2", TEN)
    assert bench.runs.count("j-2-000") == 1
    assert "j-2-001" not in bench.runs
    two, one = (report_of(bench, job_id).networks[0] for job_id in ("j-1", "j-2"))
    assert two.trials == one.trials
    assert (two.best, two.seed) == (one.best, one.seed)
    assert two.untaught_test_accuracies == one.untaught_test_accuracies


FLOOD = 3e38
"""A soft weight whose product with T² is beyond 32-bit floats from T = 2 on."""


def test_a_trial_that_diverges_is_told_as_such_and_the_others_end_as_without_it(bench: Bench):
    order = spec(networks=(WIDE,), soft_weights=FloatRange(values=(1.0, FLOOD)))
    order = order.model_copy(update={"temperatures": FloatRange(values=(4.0, 20.0))})
    result = bench.run("j-1", order)
    assert result.student
    report = report_of(bench, "j-1")
    network = report.networks[0]
    assert [trial.diverged is not None for trial in network.trials] == [False, False, True, True] * 2
    gone, whole = network.trials[2], network.trials[0]
    assert (gone.diverged.epoch, gone.diverged.step) == (1, 1)
    assert gone.validation_accuracies == gone.test_accuracies == ()
    assert network.best_trial.diverged is None
    assert report.warnings == ("4 of 8 trials of mlp 24 diverged and were left out",)
    page = bench.store.job("j-1").report_md.read_text()
    assert page.count("| diverged at step 1 of epoch 1 |  |") == 4

    bench.run("j-2", order.model_copy(update={"soft_weights": FloatRange(values=(1.0,))}))
    alone = report_of(bench, "j-2").networks[0]
    assert alone.trials[0].validation_accuracies == whole.validation_accuracies
    assert alone.untaught_validation_accuracies == network.untaught_validation_accuracies


def test_where_every_trial_diverges_the_sweep_does(bench: Bench):
    order = spec(networks=(WIDE,), temperatures=FloatRange(values=(4.0, 20.0)))
    order = order.model_copy(update={"soft_weights": FloatRange(values=(FLOOD,))})
    with pytest.raises(Diverged, match="all 4 trials of mlp 24 is nan in step 1 of epoch 1"):
        bench.run("j-1", order)


def test_a_budget_that_suits_not_even_the_twins_fails_the_sweep(bench: Bench):
    hot = Budget(epochs=2, batch_size=32, optimizer="sgd", learning_rate=100.0, weight_decay=1.0)
    with pytest.raises(Diverged):
        bench.run("j-1", spec(networks=(WIDE,), budget=hot))


def interrupted_after(bench: Bench, nets: int) -> Callable[..., object]:
    """Return `train_cohort` that dies once so many of a round's cohorts were trained."""
    real, calls = sweep_trials.train_cohort, []

    def dying(*arguments: object, **options: object) -> object:
        if len(calls) == nets:
            raise MemoryError("the process dies")
        calls.append(nets)
        return real(*arguments, **options)

    bench.monkeypatch.setattr(sweep_trials, "train_cohort", dying)
    return real


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_child_that_dies_goes_on_with_the_trials_that_were_told(bench: Bench, sampler: str):
    order = spec(sampler=sampler, networks=(WIDE,), trials=13)
    bench.monkeypatch.setattr(checks, "TRIALS_A_CHILD", 13)
    bench.monkeypatch.setattr(sweep_trials, "_MOST_TOGETHER", 8)  # 4 trials a round
    whole = bench.run("j-1", order)
    assert whole.student

    real = interrupted_after(bench, 1)
    with pytest.raises(MemoryError):
        bench.run("j-2", order)
    trained: list[int] = []

    def counting(*arguments: object, **options: object) -> object:
        trained.append(len(arguments[1]))
        return real(*arguments, **options)

    bench.monkeypatch.setattr(sweep_trials, "train_cohort", counting)
    bench.run("j-2", order)
    first, second = (report_of(bench, job_id).networks[0] for job_id in ("j-1", "j-2"))
    assert second.trials == first.trials
    assert len(second.trials) == (6 if sampler == "grid" else 13)
    # The first round, 4 trials and the untaught twins, was not trained again.
    assert sum(trained) == 2 * (len(second.trials) - 4)


def test_a_round_that_was_on_disk_and_not_told_is_told_and_not_trained_again(bench: Bench):
    order = spec(networks=(WIDE,))
    bench.monkeypatch.setattr(sweep_trials, "_MOST_TOGETHER", 8)
    tell = sweep_trials.tell

    def dying(_study: object, number: int, _accuracies: object) -> None:
        if number == 2:
            raise MemoryError("the process dies")
        tell(_study, number, _accuracies)

    bench.monkeypatch.setattr(sweep_trials, "tell", dying)
    with pytest.raises(MemoryError):
        bench.run("j-1", order)
    bench.monkeypatch.setattr(sweep_trials, "tell", tell)
    bench.run("j-1", order)
    network = report_of(bench, "j-1").networks[0]
    assert [trial.number for trial in network.trials] == list(range(6))
    rounds = list(bench.store.job("j-1-000").directory.glob("train-*"))
    assert len(rounds) == 2


def test_the_test_labels_decide_nothing(swept: Swept, monkeypatch: pytest.MonkeyPatch):
    bench = swept.bench
    images = bench.store.datasets.load("quarters", "test")
    wrong = (images.labels + 1) % 4
    real = bench.store.datasets.load

    def other_labels(name: str, split: str):
        found = real(name, split)
        return type(found)(found.images, wrong) if split == "test" else found

    monkeypatch.setattr(bench.store.datasets, "load", other_labels)
    bench.run("j-2", SPEC)
    first, second = swept.report, report_of(bench, "j-2")
    assert first.teacher.accuracy != second.teacher.accuracy
    assert [(n.best, n.seed) for n in first.networks] == [(n.best, n.seed) for n in second.networks]
    assert first.chosen == second.chosen


def test_the_report_draws_accuracy_against_temperature_and_lists_every_trial(swept: Swept):
    bench = swept.bench
    page = bench.store.job("j-1").report_md.read_text()
    assert page.startswith("# Sweep small\n\n**mlp 24** at T = ")
    assert "![Validation accuracy against temperature](temperature-validation.png)" in page
    assert page.count("\n| 20 | 1 | 0.5 | ") == 2
    for name in ("temperature-validation", "temperature-test", "curves"):
        assert (bench.store.job("j-1").directory / f"{name}.svg").stat().st_size > 1000


def test_the_worker_refuses_what_the_gateway_refuses(bench: Bench):
    with pytest.raises(InvalidRange):
        bench.run("j-1", spec(temperatures=FloatRange(values=())))
    bench.publish_teacher(members=2, merge="arithmetic")
    with pytest.raises(TeacherDoesNotTemper):
        bench.run("j-2", SPEC)
