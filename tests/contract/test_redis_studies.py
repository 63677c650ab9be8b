"""Optuna's studies on a real Redis: shared, durable, appended to once, and gone when deleted."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
import redis
from optuna.storages import JournalStorage

from shared.adapters.redis_studies import KEPT_S, RedisJournal
from shared.contracts.specs import FloatRange, SweepSpec
from shared.distillation.sweep import next_round, open_study, tell
from shared.errors import JobStoreUnavailable
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.integration
optuna.logging.set_verbosity(optuna.logging.WARNING)

ENTRY = {"op_code": 0, "worker_id": "w", "study_name": "n", "directions": [2]}


@pytest.fixture
def journal(redis_url: str) -> Iterator[Callable[..., RedisJournal]]:
    made: list[RedisJournal] = []

    def make(study: str = "j-1-000", **options: object) -> RedisJournal:
        made.append(RedisJournal(redis_url, study, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def study_on(journal: RedisJournal) -> optuna.Study:
    return optuna.create_study(
        study_name="n", storage=JournalStorage(journal), direction="maximize", load_if_exists=True
    )


def test_a_study_is_the_same_for_whoever_opens_it_next(journal: Callable[..., RedisJournal]) -> None:
    first = study_on(journal())
    for _ in range(3):
        trial = first.ask()
        first.tell(trial, trial.suggest_float("temperature", 1.0, 20.0))
    second = study_on(journal())
    assert [t.params for t in second.trials] == [t.params for t in first.trials]
    assert second.best_value == first.best_value
    assert not study_on(journal("j-1-001")).trials, "another study"


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_parts_that_ask_at_the_same_time_share_a_study_and_take_no_trial_twice(
    journal: Callable[..., RedisJournal], sampler: str
) -> None:
    order = SweepSpec(
        name="s",
        teacher="t",
        dataset="d",
        temperatures=FloatRange(values=tuple(range(1, 13))),
        sampler=sampler,
        trials=12,
    )

    def train(part: int) -> list[int]:
        study = open_study("n", JournalStorage(journal()))
        numbers = []
        while trials := next_round(study, order, 2, part=part, parts=3):
            for trial in trials:
                tell(study, trial.number, [trial.objective.temperature])
                numbers.append(trial.number)
        return numbers

    with ThreadPoolExecutor(3) as pool:
        trained = list(pool.map(train, range(3)))
    assert [len(numbers) for numbers in trained] == [4, 4, 4]
    assert sorted(number for numbers in trained for number in numbers) == list(range(12))
    told = study_on(journal()).trials
    assert all(trial.value == trial.params["temperature"] for trial in told)
    if sampler == "grid":
        assert len({trial.value for trial in told}) == 12


def test_nothing_is_kept_as_a_pickle(journal: Callable[..., RedisJournal], redis_url: str) -> None:
    study = study_on(journal())
    for _ in range(101):  # Optuna's own backend snapshots every hundredth trial
        study.ask()
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter("*"):
            found = client.lrange(key, 0, -1) if client.type(key) == b"list" else [client.get(key)]
            assert all(entry[:1] in (b"{", b"1") for entry in found)


def test_an_append_whose_answer_was_lost_is_repeated_and_counts_once(
    journal: Callable[..., RedisJournal], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = journal()
    script, answers = one._append, iter([False, True])

    def losing(**arguments: object) -> object:
        answer = script(**arguments)
        if next(answers):
            return answer
        raise redis.TimeoutError("the answer did not come")

    monkeypatch.setattr(one, "_append", losing)
    one.append_logs([ENTRY, ENTRY])
    assert list(one.read_logs(0)) == [ENTRY, ENTRY]


def test_a_restart_of_redis_is_waited_for_and_costs_no_entry(
    journal: Callable[..., RedisJournal], redis_server: RedisServer
) -> None:
    one = journal(while_waiting=redis_server.start)
    one.append_logs([ENTRY])
    redis_server.stop(signal.SIGKILL)
    one.append_logs([ENTRY])
    assert len(list(one.read_logs(0))) == 2
    assert list(one.read_logs(1)) == [ENTRY]


def test_a_redis_that_stays_away_is_given_up_in_the_end_and_waiting_can_be_left(
    journal: Callable[..., RedisJournal], redis_server: RedisServer
) -> None:
    class Left(Exception):
        pass

    def leave() -> None:
        raise Left

    one, leaving = journal(patience_s=0.1), journal(while_waiting=leave)
    redis_server.stop(signal.SIGKILL)
    try:
        with pytest.raises(JobStoreUnavailable):
            one.read_logs(0)
        with pytest.raises(Left):
            leaving.append_logs([ENTRY])
    finally:
        redis_server.start()


def test_a_study_is_gone_once_deleted_and_forgotten_by_itself_otherwise(
    journal: Callable[..., RedisJournal], redis_url: str
) -> None:
    one = journal()
    one.append_logs([ENTRY])
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.ttl("imago:study:j-1-000") <= KEPT_S
        one.delete()
        assert not client.exists("imago:study:j-1-000")
    assert list(one.read_logs(0)) == []
