"""The job store in memory by a clock that is set by hand: what comes due when, to the second."""

from dataclasses import dataclass

import pytest

from shared.contracts.jobs import JobEventKind, JobState
from shared.errors import IdempotencyConflict, LeaseLost
from shared.jobs.memory_store import MemoryJobStore
from tests.support.job_store import RESULT, running, submitted
from tests.support.jobs import teacher_spec

DAY_S = 24 * 3600.0


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryJobStore:
    return MemoryJobStore(clock)


def waits(store: MemoryJobStore, clock: Clock, job_id: str, count: int) -> list[float]:
    """The seconds between one message and the next; the clock goes on in halves of a second."""
    found: list[float] = []
    since = clock.now
    while len(found) < count:
        if list(store.claim_due()) == [job_id]:
            found.append(clock.now - since)
            since = clock.now
        clock.now += 0.5
    return found


def test_a_job_is_sent_again_after_5_seconds_then_twice_that_up_to_five_minutes(
    store: MemoryJobStore, clock: Clock
) -> None:
    job_id = submitted(store)
    # 5 s for the first, which the submission sent; then 5 s doubled with each.
    assert waits(store, clock, job_id, 9) == [5, 5, 10, 20, 40, 80, 160, 300, 300]


def test_a_lapsed_lease_comes_due_at_its_end_and_its_waits_begin_anew(
    store: MemoryJobStore, clock: Clock
) -> None:
    grant = running(store, 30.0)
    assert waits(store, clock, grant.job_id, 3) == [30, 5, 10]


@pytest.mark.parametrize("died", [None, "killed"])
def test_what_is_handed_back_waits_as_if_it_were_new(
    store: MemoryJobStore, clock: Clock, died: str | None
) -> None:
    """Also where messages went out meanwhile, as for a holder that was paused beyond its lease."""
    grant = running(store, 1.0)
    waits(store, clock, grant.job_id, 3)
    store.release(grant.job_id, grant.epoch, died=died)
    assert waits(store, clock, grant.job_id, 3) == [5, 5, 10]


def test_a_job_that_is_taken_waits_as_if_it_were_new(store: MemoryJobStore, clock: Clock) -> None:
    job_id = submitted(store)
    waits(store, clock, job_id, 3)
    running(store, 7.0, job_id)
    assert waits(store, clock, job_id, 3) == [7, 5, 10]


def test_a_parent_that_wakes_waits_as_if_it_were_new(store: MemoryJobStore, clock: Clock) -> None:
    parent = running(store, 1.0)
    waits(store, clock, parent.job_id, 2)
    store.wait(parent.job_id, parent.epoch, [("j-child", teacher_spec())])
    child = running(store, 1.0, "j-child")
    store.succeed(child.job_id, child.epoch, RESULT)
    assert waits(store, clock, parent.job_id, 3) == [0, 5, 10]


def test_what_has_been_due_for_longest_is_sent_first(store: MemoryJobStore, clock: Clock) -> None:
    first = submitted(store)
    clock.now += 1
    second = submitted(store)
    clock.now += 1
    third = submitted(store)
    running(store, 3.5, first)
    clock.now += 30
    assert store.claim_due(limit=2) == [first, second]
    assert store.claim_due(limit=2) == [third]


def test_a_lease_ends_with_its_last_second_and_not_before(store: MemoryJobStore, clock: Clock) -> None:
    grant = running(store, 10.0)
    clock.now += 9.999
    assert store.acquire(grant.job_id, 10.0, 3) is None
    assert store.claim_due() == []
    clock.now += 0.001
    assert store.claim_due() == [grant.job_id]
    second = running(store, 10.0, grant.job_id)
    assert (second.epoch, second.attempts) == (2, 2)
    with pytest.raises(LeaseLost):
        store.look(grant.job_id, grant.epoch)


def test_a_renewed_lease_lasts_from_the_renewal(store: MemoryJobStore, clock: Clock) -> None:
    grant = running(store, 10.0)
    clock.now += 9
    store.renew(grant.job_id, grant.epoch, 4.0)
    clock.now += 3.999
    assert store.claim_due() == []
    clock.now += 0.001
    assert store.claim_due() == [grant.job_id]


def test_a_lease_that_is_granted_again_lasts_from_the_second_answer(
    store: MemoryJobStore, clock: Clock
) -> None:
    job_id = submitted(store)
    first = store.acquire(job_id, 10.0, 3, "one")
    clock.now += 9
    assert store.acquire(job_id, 4.0, 3, "one") == first
    clock.now += 3.999
    assert store.acquire(job_id, 4.0, 3, "two") is None
    assert store.claim_due() == []
    clock.now += 0.001
    assert store.claim_due() == [job_id]


def test_an_idempotency_key_is_known_for_a_day(store: MemoryJobStore, clock: Clock) -> None:
    first, _ = store.submit("j-one", teacher_spec(), "key", "digest")
    clock.now += DAY_S - 0.001
    again, created = store.submit("j-two", teacher_spec(), "key", "digest")
    assert (again.id, created) == (first.id, False)
    with pytest.raises(IdempotencyConflict):
        store.submit("j-two", teacher_spec(), "key", "another digest")
    clock.now += 0.001
    second, created = store.submit("j-two", teacher_spec(), "key", "another digest")
    assert (second.id, created) == ("j-two", True)


def test_a_thousand_events_are_read_at_once_where_nothing_else_is_asked(store: MemoryJobStore) -> None:
    grant = running(store)
    for number in range(1000):
        store.note(grant.job_id, grant.epoch, str(number))
    events = store.events(grant.job_id)
    assert len(events) == 1000
    rest = store.events(grant.job_id, after=events[-1].id)
    assert [event.data.get("text") for event in rest] == ["998", "999"]


def test_events_bear_the_millisecond_and_a_number_that_counts_from_nought(
    store: MemoryJobStore, clock: Clock
) -> None:
    grant = running(store)
    clock.now += 0.0015
    store.note(grant.job_id, grant.epoch, "hello")
    events = store.events(grant.job_id)
    assert [event.id for event in events] == ["1000000000-0", "1000000000-1", "1000000002-2"]
    assert [event.kind for event in events] == [JobEventKind.STATE, JobEventKind.STATE, JobEventKind.NOTE]


def test_a_cursor_names_the_last_job_of_its_page(store: MemoryJobStore) -> None:
    ids = [submitted(store) for _ in range(5)]
    first = store.list(limit=2)
    assert ([job.id for job in first.jobs], first.next_cursor) == ([ids[4], ids[3]], "4")
    last = store.list(limit=3, cursor="4")
    assert ([job.id for job in last.jobs], last.next_cursor) == ([ids[2], ids[1], ids[0]], None)


def test_the_estimate_of_a_waiting_parent_is_in_thousandths_of_a_second(
    store: MemoryJobStore, clock: Clock
) -> None:
    parent = running(store)
    names = [f"j-child-{number}" for number in range(5)]
    store.wait(parent.job_id, parent.epoch, [(name, teacher_spec()) for name in names])
    for name in names[:3]:
        clock.now += 1.0 / 3
        child = running(store, job_id=name)
        store.succeed(name, child.epoch, RESULT)
    progress = store.get(parent.job_id).progress
    assert progress is not None
    assert (progress.done, progress.total, progress.unit, progress.eta_s) == (3, 5, "jobs", 0.667)
    assert store.get(parent.job_id).state is JobState.WAITING
