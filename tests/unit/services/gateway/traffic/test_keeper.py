import threading
from types import SimpleNamespace

import pytest

from services.gateway.traffic import keeper as module
from services.gateway.traffic.keeper import NOT_KEPT, Keeper
from shared.artefacts.kept import KeptStore
from shared.contracts.images import ImageInput
from shared.contracts.traffic import Keeping

SIZE = ImageInput(height=1, width=2, channels=1)
CLASSES = ("cat", "dog")
STUDENT = SimpleNamespace(
    version="wren-1", input=SIZE, classes=CLASSES, card=SimpleNamespace(dataset="pets")
)  # fmt: skip


class Policy:
    keeping: Keeping | None = Keeping(collection="c")

    def __call__(self):
        return self.keeping


def not_kept(why):
    return NOT_KEPT.labels(why)._value.get()


@pytest.fixture
def store(tmp_path):
    return KeptStore(tmp_path / "kept")


def test_without_consent_nothing_is_kept_and_no_thread_runs(store, tmp_path):
    policy = Policy()
    policy.keeping = None
    keeper = Keeper(store, policy)
    keeper.offer(STUDENT, b"ab", "escalated")
    assert keeper._writer is None
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("reason", ["escalated", "disagreed"])
def test_consent_for_one_reason_is_none_for_the_other(store, reason):
    policy = Policy()
    policy.keeping = Keeping(collection="c", escalated=reason == "escalated", disagreed=reason == "disagreed")
    keeper = Keeper(store, policy)
    keeper.offer(STUDENT, b"ab", "escalated")
    keeper.offer(STUDENT, b"cd", "disagreed")
    keeper.stop()
    (found,) = store.load("c", SIZE, CLASSES)
    assert found.tobytes() == (b"ab" if reason == "escalated" else b"cd")
    assert getattr(store.show("c"), reason) == 1


def test_stopping_writes_what_waits(store):
    keeper = Keeper(store, Policy())
    for number in range(1000):
        keeper.offer(STUDENT, number.to_bytes(2, "big"), "escalated")
    keeper.stop()
    assert store.show("c").images == 1000


class Slow:
    """A store that answers when it is told to."""

    def __init__(self, store):
        self.go, self.asked, self._store = threading.Event(), threading.Event(), store

    def add(self, *args, **options):
        self.asked.set()
        assert self.go.wait(30)
        return self._store.add(*args, **options)


def test_a_slow_store_makes_nobody_wait_and_what_is_dropped_is_counted(store, monkeypatch):
    monkeypatch.setattr(module, "_MOST_WAITING", 4)
    slow = Slow(store)
    keeper = Keeper(slow, Policy())
    keeper.offer(STUDENT, b"00", "escalated")
    assert slow.asked.wait(30)
    before = not_kept("queue_full")
    for number in range(1, 8):
        keeper.offer(STUDENT, bytes([0, number]), "escalated")
    assert not_kept("queue_full") - before == 3
    slow.go.set()
    keeper.stop()
    assert store.show("c").images == 5


@pytest.mark.parametrize("later", [None, Keeping(collection="another")])
def test_what_waits_is_forgotten_when_consent_is_withdrawn(store, later):
    policy, slow = Policy(), Slow(store)
    keeper = Keeper(slow, policy)
    keeper.offer(STUDENT, b"00", "escalated")
    assert slow.asked.wait(30)
    keeper.offer(STUDENT, b"01", "escalated")
    before = not_kept("withdrawn")
    policy.keeping = later
    slow.go.set()
    keeper.stop()
    assert not_kept("withdrawn") - before == 1
    assert [one.name for one in store.list()] == ["c"]
    assert store.show("c").images == 1


def test_known_images_and_those_without_room_are_counted(store):
    policy = Policy()
    policy.keeping = Keeping(collection="c", most_images=2)
    keeper = Keeper(store, policy)
    before = not_kept("known"), not_kept("no_room")
    for pixels in (b"00", b"00", b"01", b"02", b"00"):
        keeper.offer(STUDENT, pixels, "disagreed")
    keeper.stop()
    assert (not_kept("known") - before[0], not_kept("no_room") - before[1]) == (2, 1)


def test_a_store_that_fails_is_said_once_and_tried_again(store, tmp_path, caplog):
    (tmp_path / "kept").write_text("in the way")
    keeper = Keeper(store, Policy())
    before = not_kept("store_failed")
    keeper.offer(STUDENT, b"00", "escalated")
    keeper.stop()
    keeper.offer(STUDENT, b"01", "escalated")
    keeper.stop()
    assert not_kept("store_failed") - before == 2
    assert [one.message for one in caplog.records] == ["images cannot be kept"]
    (tmp_path / "kept").unlink()
    keeper.offer(STUDENT, b"02", "escalated")
    keeper.stop()
    assert store.show("c").images == 1
