"""Who pays for the rows of a request, and from what: `KeyLimits.teacher_rows`, of the key's whole life.

Whoever asks pays, unless it is an administrator who names another key: so a worker, which asks with a key of
its own, lets jobs count where they came from.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter

from services.teacher.ledger import BLOCK_ROWS, Ledger
from shared.adapters.web.access import Caller
from shared.adapters.web.keyring import ADMIN_KEY_ID, KeyRing
from shared.artefacts.keys import KeyStore
from shared.contracts.budgets import BudgetView
from shared.errors import Corrupt, KeyNotFound, StoreFull, TeacherBudgetSpent

log = logging.getLogger(__name__)

KEY_ROWS: Final = Counter("imago_teacher_key_rows_total", "Images answered, by the key that pays", ["key"])

_MOST_HELD_ROWS: Final = 2 * BLOCK_ROWS
"""Rows that a process keeps of what was given back; the rest goes back to the ledger."""


@dataclass
class _Purse:
    """What this process holds for a key: rows that the ledger has noted as taken."""

    rows: int = 0
    filling: asyncio.Lock = field(default_factory=asyncio.Lock)


class Budgets:
    """The budgets of the keys. Lives on one event loop.

    Args:
        ring: the valid keys; None where keys are off, and nobody pays.
        store: the same keys with those that let nobody in any more, for lists.
        ledger: where rows are noted; None where keys are off.
    """

    def __init__(
        self, ring: KeyRing | None = None, store: KeyStore | None = None, ledger: Ledger | None = None
    ) -> None:
        self._ring = ring
        self._store = store
        self._ledger = ledger
        self._purses: defaultdict[str, _Purse] = defaultdict(_Purse)

    def payer(self, caller: Caller, account: str | None) -> Caller:
        """Return who pays for what a caller asks.

        Args:
            caller: who asks.
            account: id of the key that is to pay, as the request names it; None for the caller's own. Who is
                no administrator pays whoever is named. One that expired or was revoked pays for the jobs that
                were submitted with it before, within its budget.

        Raises:
            KeyNotFound: there never was such a key.
        """
        if account is None or self._ring is None or not caller.is_admin:
            return caller
        if account == ADMIN_KEY_ID:
            return caller  # in no file, and without limits
        found = self._ring.of(account)
        if found is None:
            raise KeyNotFound(account[:64])
        return found

    @asynccontextmanager
    async def paying(self, payer: Caller, rows: int) -> AsyncIterator[None]:
        """Take rows from a key's budget; where what follows raises, they were not used and come back.

        Raises:
            TeacherBudgetSpent: fewer are left.
            StoreFull: the disk of the ledger is; nothing is granted.
            Corrupt, OSError: the ledger cannot be read or written; nothing is granted.
        """
        budget = payer.limits.teacher_rows
        if budget is not None:
            await self._take(payer, rows, budget)
        try:
            yield
        except BaseException:
            if budget is not None:
                await self._give_back(payer, rows)
            raise
        if payer.key_id is not None:
            KEY_ROWS.labels(payer.key_id).inc(rows)

    def views(self) -> tuple[BudgetView, ...]:
        """Return the budgets of all keys that have one, also where it expired or was revoked; reads files.

        Raises:
            Corrupt: a file is unreadable.
        """
        if self._store is None or self._ledger is None:
            return ()
        return tuple(
            BudgetView.of(key, self._ledger.taken(key.id) - self._held(key.id), budget)
            for key in self._store.list()
            if (budget := key.limits.teacher_rows) is not None
        )

    async def close(self) -> None:
        """Give back what this process holds."""
        for key_id, purse in self._purses.items():
            if purse.rows:
                await self._return(key_id, purse, purse.rows)

    def _held(self, key_id: str) -> int:
        return self._purses[key_id].rows if key_id in self._purses else 0

    async def _take(self, payer: Caller, rows: int, budget: int) -> None:
        assert payer.key_id is not None, "who has limits has a key"
        purse = self._purses[payer.key_id]
        while purse.rows < rows:
            # As a task of its own: what the ledger has granted reaches the purse, whoever gives up meanwhile.
            await asyncio.shield(asyncio.ensure_future(self._fill(payer.key_id, purse, rows, budget)))
        purse.rows -= rows

    async def _fill(self, key_id: str, purse: _Purse, rows: int, budget: int) -> None:
        async with purse.filling:
            if purse.rows >= rows:
                return  # somebody else filled it
            assert self._ledger is not None, "there is one where there are keys"
            granted = await asyncio.to_thread(self._ledger.take, key_id, rows - purse.rows, budget)
            if not granted:
                left = budget - await asyncio.to_thread(self._ledger.taken, key_id) + purse.rows
                raise TeacherBudgetSpent(budget, max(0, left), rows)
            purse.rows += granted

    async def _give_back(self, payer: Caller, rows: int) -> None:
        assert payer.key_id is not None
        purse = self._purses[payer.key_id]
        purse.rows += rows
        if purse.rows > _MOST_HELD_ROWS:
            await asyncio.shield(
                asyncio.ensure_future(self._return(payer.key_id, purse, purse.rows - BLOCK_ROWS))
            )

    async def _return(self, key_id: str, purse: _Purse, rows: int) -> None:
        assert self._ledger is not None
        purse.rows -= rows  # first: what is on its way to the ledger is not granted here as well
        try:
            await asyncio.to_thread(self._ledger.put_back, key_id, rows)
        except (StoreFull, Corrupt, OSError) as error:
            # They stay here, where they can be granted as well: it is no fault of who is answered now.
            purse.rows += rows
            log.warning("rows are not given back", extra={"key": key_id, "rows": rows, "detail": str(error)})
