"""How this project talks to Redis: bounded waits, one immediate retry, one error where it does not answer.

The client is imported with the first connection: predictions are answered without it, and it takes a tenth of
the gateway's start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shared.errors import JobStoreUnavailable

if TYPE_CHECKING:
    import redis
    import redis.asyncio

SOCKET_TIMEOUT_S = 1.5
"""A second below the 2.5 that a caller waits at most: the rest is for the machine that is busy meanwhile."""
CONNECT_TIMEOUT_S = 1.0

_REFUSED = ("OOM", "MISCONF", "READONLY", "LOADING", "BUSY ", "MASTERDOWN")
"""What a server says that is up and cannot serve: out of memory or disk, a replica, starting, in a script."""
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM", "The user executing the script")
"""The same where it does not let this user in, or not do this; the last one within a script."""


def connect(url: str) -> "redis.Redis":
    """Return a client that connects on first use.

    A dead connection, such as one from before a restart of the server, is replaced once; a server that hangs
    is given up after `SOCKET_TIMEOUT_S`.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)), **_options())


def connect_async(url: str) -> "redis.asyncio.Redis":
    """Return the same for asyncio."""
    import redis.asyncio
    from redis.backoff import NoBackoff

    retry = redis.asyncio.retry.Retry(NoBackoff(), 1, (redis.ConnectionError,))
    return redis.asyncio.Redis.from_url(url, retry=retry, **_options())


def _options() -> dict[str, Any]:
    return {
        "decode_responses": True,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
    }


@contextmanager
def answering() -> Iterator[None]:
    """Turn a Redis that does not answer, cannot, or does not let us, into `JobStoreUnavailable`."""
    import redis

    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise _denied(error) from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise JobStoreUnavailable(str(error)) from error
    except redis.ResponseError as error:
        # The client takes the code away from words that begin with it, as those of Redis 7 about scripts do;
        # Redis 6 has it in their middle.
        said = f"{error.status_code or ''} {error}"
        if any(sign in said for sign in _REFUSED):
            raise JobStoreUnavailable(said.strip()) from error
        if any(sign in said for sign in _DENIED):
            raise _denied(error) from error
        raise


def _denied(error: Exception) -> JobStoreUnavailable:
    return JobStoreUnavailable(f"Redis refuses the user of REDIS_URL: {error}")
