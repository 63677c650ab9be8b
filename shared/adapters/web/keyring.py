"""Who a key stands for: the keys of the store in memory, followed as they are made and revoked.

Every process of the gateway and of the teacher has its own ring, so that nothing about keys needs Redis.
"""

import asyncio
import hashlib
import hmac
import logging
import math
import secrets
import time
from typing import Final, NamedTuple

from shared.adapters.web.access import Caller
from shared.artefacts.files import stamp_of
from shared.artefacts.keys import PREFIX, KeyStore
from shared.contracts.keys import Scope, StoredKey
from shared.errors import Corrupt, Unauthenticated

log = logging.getLogger(__name__)

ADMIN_OWNER: Final = "admin"
ADMIN_KEY_ID: Final = "adminkeyfile"
"""Stands in logs for the key that came as a file: nothing of that one is known to be no secret."""

_SCHEME: Final = b"bearer "
_ID: Final = slice(len(PREFIX), len(PREFIX) + 12)
_MOST_BYTES: Final = 256
"""Of a key; a longer one is none, whatever it would take to look at it."""


class _Entry(NamedTuple):
    digest: bytes
    expires: float
    """Unix time in seconds; infinite for never."""
    caller: Caller


class KeyRing:
    """The valid keys. `known` and `caller` are on the way of every request, and for any thread.

    A file that cannot be read changes nothing: the keys before stay valid, and a warning says so.

    Args:
        store: of the keys; it is read now.
        admin_key: one more key, which allows everything and is in no file of the store.
    """

    def __init__(self, store: KeyStore, admin_key: str | None = None) -> None:
        self._store = store
        self._entries: dict[bytes, _Entry] = {}
        self._accounts: dict[str, Caller] = {}
        """Of all keys, by their ids: also of those that let nobody in."""
        self._seen: object = None
        self._problem: str | None = None
        # What nobody has: the digest of no key, so that an unknown id is looked at as a known one is.
        self._nobody = _Entry(secrets.token_bytes(32), -math.inf, Caller(None, None, frozenset()))
        self._admin = self._nobody
        if admin_key is not None:
            admin = Caller(ADMIN_OWNER, ADMIN_KEY_ID, frozenset({Scope.ADMIN}))
            self._admin = _Entry(_digest(admin_key.encode()), math.inf, admin)
        self.refresh()

    @property
    def empty(self) -> bool:
        """Whether no key would let anybody in, now or ever."""
        now = time.time()
        return all(now >= entry.expires for entry in (self._admin, *self._entries.values()))

    def known(self, authorization: bytes | None) -> Caller | None:
        """Return for whom a request is made; None where its key is missing, wrong, expired or revoked.

        Args:
            authorization: value of the header, such as `Bearer imago_…`; None where there is none.
        """
        key = b""
        if authorization is not None and authorization[:7].lower() == _SCHEME:
            key = authorization[7:].strip(b" ")
        if len(key) > _MOST_BYTES:
            key = b""
        digest = _digest(key)
        entry = self._entries.get(key[_ID], self._nobody)
        # Both are compared whatever comes of the first, and an unknown id with the digest of nobody's key.
        fits = hmac.compare_digest(digest, entry.digest)
        if hmac.compare_digest(digest, self._admin.digest):
            fits, entry = True, self._admin
        return entry.caller if fits and time.time() < entry.expires else None

    def caller(self, authorization: bytes | None) -> Caller:
        """Return for whom a request is made, as `known`.

        Raises:
            Unauthenticated: its key is missing, wrong, expired or revoked; which of them is not told.
        """
        found = self.known(authorization)
        if found is None:
            raise Unauthenticated
        return found

    def of(self, key_id: str) -> Caller | None:
        """Return for whom the key of this id acts or acted; None where there never was such a key.

        An expired or revoked one lets nobody in any more. What was accepted with it while it was valid goes
        on, and is counted for it: keys are revoked to be replaced, too, and no accepted job fails by that.
        """
        return self._accounts.get(key_id)

    def refresh(self) -> None:
        """Take the keys as they are in the store now; this reads a file."""
        stamp = stamp_of(self._store.path)
        try:
            keys = self._store.read()
        except (Corrupt, OSError) as error:
            if self._problem is None:
                log.warning("the keys cannot be read; those before stay valid", extra={"reason": str(error)})
            self._problem = str(error)
            return
        self._entries = {key.id.encode(): _entry(key) for key in keys if key.revoked_at is None}
        self._accounts = {key.id: _caller(key) for key in keys}
        self._seen = stamp
        self._problem = None

    async def watch(self, every_s: float) -> None:
        """Follow the store until cancelled, looking every `every_s` seconds."""
        while True:
            if await asyncio.to_thread(stamp_of, self._store.path) != self._seen:
                await asyncio.to_thread(self.refresh)
            await asyncio.sleep(every_s)


def _entry(key: StoredKey) -> _Entry:
    expires = math.inf if key.expires_at is None else key.expires_at.timestamp()
    return _Entry(bytes.fromhex(key.digest), expires, _caller(key))


def _caller(key: StoredKey) -> Caller:
    return Caller(key.owner, key.id, frozenset(key.scopes), key.limits)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
