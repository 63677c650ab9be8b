"""`keys.json` in the root of the artefact store: who has keys, and what each allows.

A key is `imago_<id>_<secret>`. Only its digest is kept: the secret has 256 random bits, so there is nothing
to guess that a slow hash would have to slow down. A revoked key stays in the file, with its id and its name.
"""

import secrets
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from shared.artefacts.files import exclusive_lock, sha256_bytes, sweep_temporaries, write_atomic
from shared.artefacts.room import room
from shared.contracts.keys import KeyFile, KeyMade, KeyRequest, KeyView, StoredKey
from shared.errors import Corrupt, KeyNotFound

KEYS: Final = "keys.json"
PREFIX: Final = "imago_"

_LOCK: Final = ".keys.lock"
_ID_LENGTH: Final = 12
_ID_LETTERS: Final = string.ascii_lowercase + string.digits
_SECRET_BYTES: Final = 32


class KeyStore:
    """The keys of an artefact store. Several processes may use it at once; what they write lasts.

    Args:
        root: of the artefact store. It is made with the first key.
        now: returns the time, in UTC.
    """

    def __init__(self, root: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = root / KEYS
        self._lock = root / _LOCK
        self._now = now

    def read(self) -> tuple[StoredKey, ...]:
        """Return all keys, revoked and expired ones too, the oldest first.

        Raises:
            Corrupt: the file is unreadable.
        """
        try:
            return KeyFile.model_validate_json(self.path.read_bytes()).keys
        except FileNotFoundError:
            return ()
        except ValidationError:
            # Without its cause, in which the content of the file would reach a log.
            raise Corrupt(str(self.path)) from None

    def list(self) -> tuple[KeyView, ...]:
        """Return what may be shown of all keys, the oldest first; raises `Corrupt`."""
        return tuple(map(_view, self.read()))

    def show(self, key_id: str) -> KeyView:
        """Return what may be shown of a key.

        Raises:
            KeyNotFound: there is none with this id.
            Corrupt: the file is unreadable.
        """
        return _view(_found(self.read(), key_id))

    def make(self, wanted: KeyRequest) -> KeyMade:
        """Make a key; nothing shows it a second time.

        Raises:
            Corrupt: the file is unreadable; it stays as it is.
            StoreFull: the disk is; the file stays as it is.
        """
        with room(self.path), exclusive_lock(self._lock):
            keys = self.read()
            key_id = _new_id({one.id for one in keys})
            key = f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
            now, days = self._now(), wanted.expires_in_days
            stored = StoredKey(
                id=key_id,
                name=wanted.name,
                owner=wanted.owner,
                scopes=tuple(dict.fromkeys(wanted.scopes)),
                created_at=now,
                expires_at=None if days is None else now + timedelta(days),
                limits=wanted.limits,
                digest=digest_of_key(key),
            )
            self._write((*keys, stored))
        return KeyMade(**dict(_view(stored)), key=key)

    def revoke(self, key_id: str) -> KeyView:
        """Let a key allow nothing from now on; one that is revoked already stays so since then.

        Raises:
            KeyNotFound: there is none with this id.
            Corrupt: the file is unreadable; it stays as it is.
            StoreFull: the disk is; the file stays as it is.
        """
        with room(self.path), exclusive_lock(self._lock):
            keys = self.read()
            found = _found(keys, key_id)
            if found.revoked_at is None:
                revoked = found.model_copy(update={"revoked_at": self._now()})
                self._write(tuple(revoked if one is found else one for one in keys))
                found = revoked
        return _view(found)

    def _write(self, keys: tuple[StoredKey, ...]) -> None:
        sweep_temporaries(self.path.parent)
        write_atomic(self.path, KeyFile(keys=keys).model_dump_json(indent=2).encode())


def digest_of_key(key: str) -> str:
    """Return what is kept of a key: the SHA-256 of the whole of it."""
    return sha256_bytes(key.encode())


def _found(keys: tuple[StoredKey, ...], key_id: str) -> StoredKey:
    found = next((one for one in keys if one.id == key_id), None)
    if found is None:
        raise KeyNotFound(key_id[:64])
    return found


def _view(key: StoredKey) -> KeyView:
    return KeyView(**{name: getattr(key, name) for name in KeyView.model_fields})


def _new_id(taken: set[str]) -> str:
    while True:
        key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
        if key_id not in taken:
            return key_id
