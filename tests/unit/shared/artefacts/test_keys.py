from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.artefacts.files import sha256_bytes
from shared.artefacts.keys import KeyStore
from shared.contracts.keys import KeyLimits, KeyRequest, Scope
from shared.errors import Corrupt, KeyNotFound, StoreFull

ASKED = KeyRequest(name="phone", owner="anna", scopes=(Scope.PREDICT,), limits=KeyLimits(per_day=5))


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "store")


def test_a_key_carries_its_id_and_256_random_bits(store: KeyStore):
    made = [store.make(ASKED) for _ in range(20)]
    for one in made:
        prefix, key_id, secret = one.key.split("_", 2)
        assert (prefix, key_id, len(secret)) == ("imago", one.id, 43)
    assert len({one.key for one in made}) == len({one.id for one in made}) == 20


def test_only_the_digest_of_a_key_is_kept(store: KeyStore):
    made = store.make(ASKED)
    assert made.key not in store.path.read_text()
    assert made.key.removeprefix(f"imago_{made.id}_") not in store.path.read_text()
    (stored,) = store.read()
    assert stored.digest == sha256_bytes(made.key.encode())


def test_what_is_shown_of_a_key_has_neither_secret_nor_digest(store: KeyStore):
    made = store.make(ASKED)
    shown = store.show(made.id)
    assert shown == store.list()[0]
    assert shown.model_dump().keys() == made.model_dump().keys() - {"key"}
    assert (shown.owner, shown.scopes, shown.limits.per_day) == ("anna", (Scope.PREDICT,), 5)


def test_a_key_is_not_in_what_is_logged_of_it(store: KeyStore):
    made = store.make(ASKED)
    assert made.key not in repr(made)
    assert made.key not in str(made)


def test_a_key_expires_as_many_days_after_it_was_made_as_asked(tmp_path: Path):
    now = datetime(2026, 11, 22, tzinfo=UTC)
    store = KeyStore(tmp_path, now=lambda: now)
    assert store.make(ASKED).expires_at is None
    short = ASKED.model_copy(update={"expires_in_days": 1.5})
    assert store.make(short).expires_at == now + timedelta(hours=36)


def test_a_scope_that_is_asked_for_twice_is_there_once(store: KeyStore):
    twice = KeyRequest(name="a", owner="b", scopes=(Scope.JOBS, Scope.PREDICT, Scope.JOBS))
    assert store.make(twice).scopes == (Scope.JOBS, Scope.PREDICT)


def test_a_revoked_key_stays_in_the_list_with_the_time_of_its_first_revocation(tmp_path: Path):
    times = iter(datetime(2026, 11, day, tzinfo=UTC) for day in range(1, 9))
    store = KeyStore(tmp_path, now=lambda: next(times))
    first, second = store.make(ASKED), store.make(ASKED)
    revoked = store.revoke(first.id)
    assert revoked.revoked_at == datetime(2026, 11, 3, tzinfo=UTC)
    assert store.revoke(first.id) == revoked
    assert [(one.id, one.revoked_at) for one in store.list()] == [
        (first.id, revoked.revoked_at),
        (second.id, None),
    ]


def test_a_key_that_is_not_there_is_neither_shown_nor_revoked(store: KeyStore):
    store.make(ASKED)
    for asked in (store.show, store.revoke):
        with pytest.raises(KeyNotFound):
            asked("aaaaaaaaaaaa")


def test_an_unreadable_file_is_told_and_not_written_over(store: KeyStore):
    made = store.make(ASKED)
    store.path.write_text('{"keys": [{"id"')
    for asked in (store.read, store.list, lambda: store.make(ASKED), lambda: store.revoke(made.id)):
        with pytest.raises(Corrupt) as told:
            asked()
        assert told.value.__cause__ is None  # it would show the content of the file
    assert store.path.read_text() == '{"keys": [{"id"'


def test_what_a_killed_writer_left_is_cleared_away_with_the_next_key(store: KeyStore):
    store.make(ASKED)
    left = store.path.with_name(".keys.json.0123456789abcdef.tmp")
    left.write_text("half")
    store.make(ASKED)
    assert not left.exists()


def test_keys_that_are_made_and_revoked_at_once_are_all_there(tmp_path: Path):
    def work(_: int) -> str:
        store = KeyStore(tmp_path)
        made = store.make(ASKED)
        store.revoke(made.id)
        return made.id

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(work, range(24)))
    keys = KeyStore(tmp_path).list()
    assert {one.id for one in keys} == made
    assert all(one.revoked_at is not None for one in keys)


def test_a_full_disk_is_named_and_the_file_stays_as_it_was(store: KeyStore, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    made = store.make(ASKED)
    with monkeypatch.context() as disk:
        disk.setattr("shared.artefacts.keys.write_atomic", full)
        with pytest.raises(StoreFull, match=r"keys\.json"):
            store.make(ASKED)
        with pytest.raises(StoreFull, match=r"keys\.json"):
            store.revoke(made.id)
    assert [(one.id, one.revoked_at) for one in store.list()] == [(made.id, None)]
