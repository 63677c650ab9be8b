"""What the key ring answers about keys by their id, and how often it looks and warns."""

import asyncio
import logging
from pathlib import Path

import pytest

from shared.adapters.web import keyring
from shared.adapters.web.access import Caller
from shared.adapters.web.keyring import KeyRing
from shared.artefacts.keys import KeyStore
from shared.contracts.keys import KeyRequest, Scope
from shared.errors import ScopeMissing


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path)


def made(store: KeyStore, *scopes: Scope) -> str:
    return store.make(KeyRequest(name="phone", owner="anna", scopes=scopes or (Scope.PREDICT,))).key


def test_for_whom_a_key_acts_is_known_by_its_id(store: KeyStore):
    key = made(store, Scope.TEACH)
    found = KeyRing(store).of(key[6:18])
    assert found is not None
    assert (found.owner, found.key_id, found.scopes) == ("anna", key[6:18], {Scope.TEACH})
    assert KeyRing(store).of("nobodyhasit0") is None


def test_for_whom_a_key_acted_is_known_when_it_lets_nobody_in_any_more(store: KeyStore):
    revoked, other = made(store, Scope.TEACH), made(store)
    ring = KeyRing(store)
    store.revoke(revoked[6:18])
    ring.refresh()
    assert ring.known(b"Bearer " + revoked.encode()) is None
    found = ring.of(revoked[6:18])
    assert found is not None
    assert (found.owner, found.key_id, found.scopes) == ("anna", revoked[6:18], {Scope.TEACH})
    assert ring.of(other[6:18]) == ring.known(b"Bearer " + other.encode())
    assert not ring.empty
    store.revoke(other[6:18])
    ring.refresh()
    assert ring.empty


def test_a_key_right_behind_the_scheme_is_none(store: KeyStore):
    """`Bearer` and one space at least; the key is not read from the sixth place."""
    key = made(store)
    assert KeyRing(store).known(b"Bearer" + key.encode()) is None
    assert KeyRing(store).known(b"Bearer " + key.encode()) is not None


def test_keys_that_cannot_be_read_are_told_once_until_they_can_again(store: KeyStore, caplog):
    made(store)
    ring = KeyRing(store)
    with caplog.at_level(logging.WARNING):
        whole = store.path.read_bytes()
        for _ in range(2):
            for _ in range(3):
                store.path.write_text("no keys")
                ring.refresh()
            store.path.write_bytes(whole)
            ring.refresh()
    assert [record.message for record in caplog.records] == [
        "the keys cannot be read; those before stay valid"
    ] * 2


def test_it_looks_as_often_as_it_is_told_and_no_more(store: KeyStore, monkeypatch):
    looks = []
    stamp_of = keyring.stamp_of
    monkeypatch.setattr(keyring, "stamp_of", lambda path: looks.append(path) or stamp_of(path))
    ring = KeyRing(store)

    async def watch_for_a_moment() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ring.watch(60.0), 0.3)

    looks.clear()
    asyncio.run(watch_for_a_moment())
    assert len(looks) == 1


# --- the caller --------------------------------------------------------------------------------------------


def test_an_administrator_sees_everything_and_anybody_else_their_own():
    admin = Caller("anna", "a" * 12, frozenset({Scope.ADMIN}))
    user = Caller("bert", "b" * 12, frozenset({Scope.JOBS, Scope.TEACH}))
    assert (admin.is_admin, admin.confined_to) == (True, None)
    assert (user.is_admin, user.confined_to) == (False, "bert")


def test_a_scope_is_needed_unless_it_is_there_or_the_key_is_an_administrators():
    admin = Caller("anna", "a" * 12, frozenset({Scope.ADMIN}))
    user = Caller("bert", "b" * 12, frozenset({Scope.JOBS}))
    for scope in Scope:
        admin.need(scope)
    user.need(Scope.JOBS)
    for scope in set(Scope) - {Scope.JOBS}:
        with pytest.raises(ScopeMissing, match=scope.value):
            user.need(scope)
