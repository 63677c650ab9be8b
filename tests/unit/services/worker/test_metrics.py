from prometheus_client import CollectorRegistry

from services.worker.metrics import StageWatch, WorkerMetrics
from shared.contracts.jobs import Progress, Stage


def progress(stage: Stage, done: int, unit: str = "epochs") -> Progress:
    return Progress(stage=stage, done=done, total=100, unit=unit)


def watched(*seen: tuple[Progress, float], end: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    watch = StageWatch(WorkerMetrics(registry))
    for message, now in seen:
        watch.see(message, now)
    watch.end(end)
    return registry


def test_a_stage_lasts_until_the_next_one_begins() -> None:
    registry = watched(
        (progress(Stage.CHECK, 1), 10.0),
        (progress(Stage.TRAIN, 1), 12.0),
        (progress(Stage.TRAIN, 2), 15.0),
        end=19.0,
    )
    name = "imago_worker_stage_seconds_sum"
    assert registry.get_sample_value(name, {"stage": "check"}) == 2.0
    assert registry.get_sample_value(name, {"stage": "train"}) == 7.0


def test_rows_that_were_there_before_are_not_counted_as_asked() -> None:
    rows = [progress(Stage.TRANSFER_SET, done, "rows") for done in (40, 60, 60, 100)]
    registry = watched(*((row, 0.0) for row in rows), (progress(Stage.TRAIN, 7, "rows"), 1.0), end=2.0)
    assert registry.get_sample_value("imago_worker_teacher_rows_total") == 60.0
