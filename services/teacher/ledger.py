"""What keys have taken from their budgets of rows, on disk: the one thing the teacher service remembers.

A file for each key with a budget. Rows are noted as taken before they are granted, in blocks, so that a
process that dies never gives a row away; what it held of a block is lost, to the strict side. Processes that
share the folder, on one machine or on a file system with locks, share the budgets; with folders of their own
each grants the whole of them.
"""

import re
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from shared.artefacts.files import exclusive_lock, write_atomic
from shared.artefacts.room import room
from shared.contracts.base import Contract
from shared.errors import Corrupt

BLOCK_ROWS: Final = 1024
"""Most rows that are taken ahead of what was asked for."""

_LOCK: Final = ".lock"
_ENDING: Final = ".json"
_KEY_ID: Final = re.compile(r"[a-z0-9]{12}")
_SHARE_AHEAD: Final = 8
"""Of the rows that are left one in so many is taken ahead at most: others who share the ledger want some."""


class Taken(Contract):
    """What the file of a key holds."""

    rows: int = Field(ge=0)
    """Granted to processes, whether they have used them or not."""


class Ledger:
    """Rows that keys have taken. Its calls block; they may come from several threads and processes.

    Args:
        directory: of the ledger; it is made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = directory / _LOCK
        with exclusive_lock(self._lock):  # told at the start, not by the first request
            pass

    def take(self, key_id: str, least: int, budget: int) -> int:
        """Note rows as taken and return how many: `least` and some ahead, or 0 where so many are not left.

        Args:
            key_id: whose they are.
            least: rows that are needed now, 1 or more.
            budget: rows in the key's life.

        Raises:
            Corrupt: the key's file is unreadable; nothing is granted.
            StoreFull: the disk is; nothing is granted.
            OSError: it cannot be written.
        """
        with room(self._path(key_id)), exclusive_lock(self._lock):
            taken = self.taken(key_id)
            left = budget - taken
            if left < least:
                return 0
            granted = least + min(BLOCK_ROWS, (left - least) // _SHARE_AHEAD)
            self._write(key_id, taken + granted)
        return granted

    def put_back(self, key_id: str, rows: int) -> None:
        """Note rows that were granted as not taken; raises what `take` does."""
        with room(self._path(key_id)), exclusive_lock(self._lock):
            self._write(key_id, max(0, self.taken(key_id) - rows))

    def taken(self, key_id: str) -> int:
        """Return the rows that a key has taken; raises `Corrupt`."""
        path = self._path(key_id)
        try:
            return Taken.model_validate_json(path.read_bytes()).rows
        except FileNotFoundError:
            return 0
        except ValidationError as error:
            raise Corrupt(str(path)) from error

    def _write(self, key_id: str, rows: int) -> None:
        write_atomic(self._path(key_id), Taken(rows=rows).model_dump_json().encode())

    def _path(self, key_id: str) -> Path:
        assert _KEY_ID.fullmatch(key_id), "an id of the key ring"
        return self._directory / f"{key_id}{_ENDING}"
