"""Follows a job's events as they happen, for server-sent events; asyncio only, one connection a follower."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from shared.adapters.redis_client import answering, connect_async
from shared.adapters.redis_jobs_records import events_key, position, record_key, to_event
from shared.contracts.jobs import FINAL_STATES, JobEvent, JobEventKind
from shared.errors import JobNotFound

_BLOCK_S = 1.0
"""How long one read waits; well under the socket's timeout, so that a hung Redis is told from a quiet job."""


class JobEventReader:
    """Reads the streams that `RedisJobStore` writes."""

    def __init__(self, url: str) -> None:
        self._redis = connect_async(url)

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()

    async def follow(self, job_id: str, after: str | None = None) -> AsyncIterator[JobEvent]:
        """Yield events from behind `after`, as they come; end with the job.

        Raises:
            JobNotFound: there is no such job; raised before the first event.
            JobStoreUnavailable: Redis stopped answering; go on later with the id of the last event.
        """
        async for event in self.follow_with_beats(job_id, after, beat_s=None):
            if event is not None:
                yield event

    async def follow_with_beats(
        self, job_id: str, after: str | None = None, *, beat_s: float | None = 15.0
    ) -> AsyncIterator[JobEvent | None]:
        """Do the same, and yield None where nothing came for `beat_s`, to keep a connection alive with."""
        here = position(after)
        clock = asyncio.get_running_loop().time
        quiet_since = clock()
        while True:
            # The state is read before the events: a final state seen here has its event in the stream.
            over = await self._is_final(job_id)
            entries = await self._read(job_id, here, wait=not over)
            for here, fields in entries:
                event = to_event(here, fields)
                yield event
                if event.kind is JobEventKind.STATE and event.data["state"] in FINAL_STATES:
                    return
            if entries:
                quiet_since = clock()
            elif over:
                return
            elif beat_s is not None and clock() - quiet_since >= beat_s:
                quiet_since = clock()
                yield None

    async def _is_final(self, job_id: str) -> bool:
        with answering():
            state = await self._redis.hget(record_key(job_id), "state")
        if state is None:
            raise JobNotFound(job_id)
        return state in FINAL_STATES

    async def _read(self, job_id: str, after: str, *, wait: bool) -> list[tuple[str, dict[str, str]]]:
        block = round(_BLOCK_S * 1000) if wait else None
        with answering():
            streams: Any = await self._redis.xread({events_key(job_id): after}, count=500, block=block)
        return [entry for _, entries in streams for entry in entries]
