import asyncio
import hmac
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.adapters.web import keyring
from shared.adapters.web.keyring import KeyRing
from shared.artefacts.keys import KeyStore
from shared.contracts.keys import KeyFile, KeyLimits, KeyRequest, Scope
from shared.errors import Unauthenticated

ADMIN_KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path)


def made(store: KeyStore, *scopes: Scope, **more: object) -> str:
    asked = {"name": "phone", "owner": "anna", "scopes": scopes or (Scope.PREDICT,)} | more
    return store.make(KeyRequest.model_validate(asked)).key


def bearer(key: str) -> bytes:
    return b"Bearer " + key.encode()


def refused(ring: KeyRing, authorization: bytes | None) -> None:
    assert ring.known(authorization) is None
    with pytest.raises(Unauthenticated):
        ring.caller(authorization)


def test_a_key_stands_for_its_owner_scopes_and_limits(store: KeyStore):
    key = made(store, Scope.JOBS, Scope.PREDICT, limits=KeyLimits(per_second=2))
    caller = KeyRing(store).caller(bearer(key))
    assert (caller.owner, caller.key_id, caller.scopes) == ("anna", key[6:18], {Scope.JOBS, Scope.PREDICT})
    assert caller.limits.per_second == 2


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
def test_the_word_bearer_is_read_in_any_case(store: KeyStore, scheme: bytes):
    key = made(store)
    assert KeyRing(store).known(scheme + key.encode()) is not None


def test_whatever_is_no_valid_key_is_refused_in_the_same_words(store: KeyStore):
    key = made(store)
    ring = KeyRing(store, ADMIN_KEY)
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    unknown = key[:6] + "zzzzzzzzzzzz" + key[18:]
    forms = (
        None, b"", b"Bearer", b"Bearer ", bearer(wrong), bearer(unknown), bearer(key[:18]), bearer(key + "A"),
        b"Basic " + key.encode(), key.encode(), b"Bearer\t" + key.encode(), bearer(key * 40),
        bearer(ADMIN_KEY[:-1]), "Bearer ключ".encode(),
    )  # fmt: skip
    words = set()
    for form in forms:
        assert ring.known(form) is None, form
        with pytest.raises(Unauthenticated) as told:
            ring.caller(form)
        words.add(str(told.value))
    assert len(words) == 1


def test_nothing_is_a_key_where_there_is_none(store: KeyStore):
    ring = KeyRing(store)
    assert ring.empty
    for form in (None, b"", b"Bearer ", bearer("imago_")):
        refused(ring, form)


def test_an_unknown_id_is_compared_as_a_wrong_secret_is(store: KeyStore, monkeypatch: pytest.MonkeyPatch):
    """How long each takes cannot be measured here; that both do the same can."""
    key = made(store)
    ring = KeyRing(store)
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(keyring.hmac, "compare_digest", counting)
    steps = []
    for form in (bearer(key[:-1] + "-"), bearer(key[:6] + "z" * 12 + key[18:]), b"", None, bearer(key)):
        compared.clear()
        ring.known(form)
        steps.append(tuple(compared))
    assert set(steps) == {((32, 32), (32, 32))}


def test_an_expired_key_is_refused_from_that_moment_on(store: KeyStore, monkeypatch: pytest.MonkeyPatch):
    key = made(store, expires_in_days=1)
    ring = KeyRing(store)
    expires = store.show(key[6:18]).expires_at
    assert expires is not None
    monkeypatch.setattr(keyring.time, "time", lambda: expires.timestamp() - 0.001)
    assert ring.known(bearer(key)) is not None
    assert not ring.empty
    monkeypatch.setattr(keyring.time, "time", expires.timestamp)
    refused(ring, bearer(key))
    assert ring.empty


def test_a_revoked_key_is_refused_once_the_file_was_read(store: KeyStore):
    key, other = made(store), made(store)
    ring = KeyRing(store)
    store.revoke(key[6:18])
    ring.refresh()
    refused(ring, bearer(key))
    assert ring.known(bearer(other)) is not None


def test_the_key_of_the_file_is_an_administrators_and_goes_into_no_file(store: KeyStore):
    ring = KeyRing(store, ADMIN_KEY)
    caller = ring.caller(bearer(ADMIN_KEY))
    assert (caller.owner, caller.key_id, caller.is_admin) == ("admin", "adminkeyfile", True)
    assert not ring.empty
    assert not store.path.exists()


def test_a_key_of_the_store_is_valid_beside_the_key_of_the_file(store: KeyStore):
    key = made(store)
    caller = KeyRing(store, ADMIN_KEY).caller(bearer(key))
    assert (caller.owner, caller.is_admin) == ("anna", False)


def test_keys_stay_valid_while_their_file_is_unreadable(store: KeyStore, caplog: pytest.LogCaptureFixture):
    key = made(store)
    ring = KeyRing(store)
    whole = store.path.read_bytes()
    store.path.write_bytes(b"{")
    with caplog.at_level(logging.WARNING):
        ring.refresh()
        ring.refresh()
    assert ring.known(bearer(key)) is not None
    assert [record.message for record in caplog.records] == [
        "the keys cannot be read; those before stay valid"
    ]
    store.path.write_bytes(whole)
    store.revoke(key[6:18])
    ring.refresh()
    refused(ring, bearer(key))


def test_without_its_file_there_are_no_keys(store: KeyStore):
    key = made(store)
    ring = KeyRing(store)
    store.path.unlink()
    ring.refresh()
    refused(ring, bearer(key))


def test_a_ring_follows_the_keys_that_are_made_and_revoked(store: KeyStore):
    asyncio.run(_follows(store))


async def _follows(store: KeyStore) -> None:
    ring = KeyRing(store)
    watching = asyncio.create_task(ring.watch(0.005))
    try:
        async with asyncio.timeout(30):
            key = made(store)
            while ring.known(bearer(key)) is None:
                await asyncio.sleep(0.005)
            store.revoke(key[6:18])
            while ring.known(bearer(key)) is not None:
                await asyncio.sleep(0.005)
            store.path.write_bytes(b"no JSON")
            for _ in range(5):
                await asyncio.sleep(0.005)
            store.path.unlink()
            later = made(store)
            while ring.known(bearer(later)) is None:
                await asyncio.sleep(0.005)
    finally:
        watching.cancel()


def test_a_file_that_has_not_changed_is_not_read_again(store: KeyStore, monkeypatch: pytest.MonkeyPatch):
    made(store)
    ring = KeyRing(store)
    looks: list[object] = []
    stamp_of = keyring.stamp_of

    def stamped(path: Path) -> object:
        looks.append(path)
        return stamp_of(path)

    async def watch() -> None:
        watching = asyncio.create_task(ring.watch(0.001))
        async with asyncio.timeout(30):
            while len(looks) < 5:
                await asyncio.sleep(0.001)
        watching.cancel()

    monkeypatch.setattr(keyring, "stamp_of", stamped)
    monkeypatch.setattr(ring, "refresh", lambda: pytest.fail("the file was read"))
    asyncio.run(watch())


def test_what_is_too_long_for_a_key_is_not_hashed(store: KeyStore, monkeypatch: pytest.MonkeyPatch):
    ring = KeyRing(store)
    hashed: list[int] = []
    monkeypatch.setattr(keyring, "_digest", lambda key: hashed.append(len(key)) or bytes(32))
    for length in (256, 257, 60_000):
        ring.known(b"Bearer " + b"a" * length)
    assert hashed == [256, 0, 0]


def test_a_key_that_was_made_long_ago_is_read_with_its_times(store: KeyStore):
    key = made(store)
    (stored,) = store.read()
    old = stored.model_copy(update={"expires_at": datetime.now(UTC) - timedelta(days=1)})
    store.path.write_text(KeyFile(keys=(old,)).model_dump_json())
    ring = KeyRing(store)
    refused(ring, bearer(key))
    assert ring.empty
