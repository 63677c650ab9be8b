"""How much keys of the API have asked for, all gateway processes together; one call for many keys; asyncio.

What a process admits it has decided by itself; here it tells that afterwards, and hears how much is left.
"""

import uuid
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shared.adapters.redis_client import answering, connect_async
from shared.adapters.redis_jobs_records import PREFIX

if TYPE_CHECKING:
    import redis.asyncio

SHARES_S: Final = 2.0
"""A process that has admitted nothing for this long leaves its share to the others."""


class Spent(NamedTuple):
    """What a process has admitted for a key since it told last. Counts are of requests or their images."""

    key_id: str
    per_second: float | None
    """Tokens that come a second; None where the key has no such limit, as of `per_day`."""
    most: float
    """Tokens that the bucket of all processes holds."""
    tokens: float
    """Spent of them."""
    per_day: int | None
    day: int
    """The day of which `today` tells: days since 1970, in UTC."""
    today: float
    """Spent on it."""


class Left(NamedTuple):
    """What all processes together have left of a key's limits."""

    tokens: float
    """In the bucket; negative where more was admitted than there was."""
    sharing: int
    """Processes that admit requests of this key now, the one that asks among them."""
    used_today: float
    granted_today: float
    """Of the rest, for the process that asks; the others leave it alone for `SHARES_S`."""


class Standing(NamedTuple):
    """The answer: how it stands, for each key in the order asked, and the server's time."""

    time_s: float
    """Unix time of the Redis server."""
    left: tuple[Left, ...]


class RedisLimits:
    """The buckets on a Redis server, by its clock."""

    def __init__(self, url: str) -> None:
        """Connect on first use; `url` is `redis://host:port/database`."""
        self._url = url
        self._who = uuid.uuid4().hex

    @cached_property
    def _redis(self) -> "redis.asyncio.Redis":
        return connect_async(self._url)

    @cached_property
    def _script(self) -> Any:
        return self._redis.register_script(files("shared.adapters").joinpath("redis_limits.lua").read_text())

    async def close(self) -> None:
        """Close all connections."""
        if "_redis" in self.__dict__:
            await self._redis.aclose()

    async def settle(self, spent: Sequence[Spent]) -> Standing:
        """Tell what was admitted, and return what is left; all or nothing of it counts.

        Raises:
            JobStoreUnavailable: Redis does not answer, or refuses. What was told may count all the same.
        """
        arguments: list[str] = [self._who, str(round(SHARES_S * 1000))]
        for one in spent:
            arguments += (
                one.key_id, _written(one.per_second), repr(one.most), repr(one.tokens),
                _written(one.per_day), str(one.day), repr(one.today),
            )  # fmt: skip
        with answering():
            time_s, *found = await self._script(keys=[PREFIX], args=arguments)
        left = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
        return Standing(
            float(time_s),
            tuple(
                Left(float(tokens), int(sharing), float(used), float(granted))
                for tokens, sharing, used, granted in left
            ),
        )


def _written(limit: float | None) -> str:
    return "" if limit is None else repr(limit)
