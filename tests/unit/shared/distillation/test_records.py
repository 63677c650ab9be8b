from shared.contracts.reports import EpochPoint
from shared.distillation.records import NetRecord


def point(epoch: int, accuracy: float | None) -> EpochPoint:
    return EpochPoint(epoch=epoch, loss=1.0, validation_accuracy=accuracy, seconds=epoch)


def best_after(*epochs: tuple[float | None, float]) -> int:
    record = NetRecord()
    for number, (accuracy, nats) in enumerate(epochs, start=1):
        record, better = record.after_epoch(point(number, accuracy), nats)
        assert better == (record.best_epoch == number)
    assert [one.epoch for one in record.points] == list(range(1, len(epochs) + 1))
    return record.best_epoch


def test_the_higher_accuracy_wins():
    assert best_after((0.7, 0.1), (0.9, 0.5), (0.8, 0.0)) == 2


def test_at_equal_accuracy_the_lower_loss_wins():
    assert best_after((0.9, 0.5), (0.9, 0.4), (0.9, 0.6)) == 2


def test_of_equals_the_first_stays():
    assert best_after((0.9, 0.5), (0.9, 0.5)) == 1


def test_without_accuracies_the_last_wins():
    assert best_after((None, 0.0), (None, 0.0)) == 2
