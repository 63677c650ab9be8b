"""Optuna's studies on the project's Redis: a study is a list of journal entries under one key.

Optuna's own Redis journal keeps snapshots as pickles and gives up at the first timeout. This one keeps JSON
only and outlives a restart of Redis: an append that may have arrived is repeated, and counts once.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from optuna.storages.journal import BaseJournalBackend

from shared.adapters.redis_client import answering, connect
from shared.errors import JobStoreUnavailable

PREFIX: Final = "imago:study:"
"""Of every key of a study."""

KEPT_S: Final = 30 * 24 * 3600
"""A study that nobody deletes is forgotten this long after its last entry."""

_RETRY_S = 0.5

_APPEND = """
if redis.call('SET', KEYS[2], '1', 'NX', 'EX', '86400') then
  for i = 2, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""
"""KEYS[2] marks this append as done, so that the same one, sent again, adds nothing."""

ResultT = TypeVar("ResultT")


class RedisJournal(BaseJournalBackend):
    """The journal of one study. Entries are JSON; the place of an entry in the list is its number."""

    def __init__(
        self,
        url: str,
        study: str,
        *,
        patience_s: float = 600.0,
        while_waiting: Callable[[], None] | None = None,
    ) -> None:
        """Connect on first use.

        Args:
            url: `redis://host:port/database`.
            study: its name.
            patience_s: how long a Redis that does not answer is waited for, in seconds.
            while_waiting: called between two tries; what it raises ends the waiting.
        """
        self._redis = connect(url)
        self._append = self._redis.register_script(_APPEND)
        self._key = f"{PREFIX}{study}"
        self._patience_s = patience_s
        self._while_waiting = while_waiting

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the entries from this number on.

        Raises:
            JobStoreUnavailable: Redis did not answer in time.
        """
        entries = self._patiently(lambda: self._redis.lrange(self._key, log_number_from, -1))
        return [json.loads(entry) for entry in entries]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries to the end, all or none.

        Raises:
            JobStoreUnavailable: Redis did not answer in time.
        """
        keys = [self._key, f"{self._key}:append:{uuid.uuid4().hex}"]
        arguments = [str(KEPT_S), *[json.dumps(log) for log in logs]]
        self._patiently(lambda: self._append(keys=keys, args=arguments))

    def delete(self) -> None:
        """Forget the study. Marks of appends go by themselves within a day."""
        self._patiently(lambda: self._redis.delete(self._key))

    def close(self) -> None:
        """Close all connections."""
        self._redis.close()

    def _patiently(self, call: Callable[[], ResultT]) -> ResultT:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                with answering():
                    return call()
            except JobStoreUnavailable:
                if time.monotonic() >= deadline:
                    raise
            if self._while_waiting is not None:
                self._while_waiting()
            time.sleep(_RETRY_S)
