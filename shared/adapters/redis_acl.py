"""What each role may do on the project's Redis: a user each, with the commands and keys that it needs.

Whoever writes the queue or a record decides what workers do, so nobody else may. The rules are for Redis 6.2
and later. They were found by running jobs of all kinds and looking into ACL LOG, which a test repeats.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

GATEWAY: Final = "gateway"
WORKER: Final = "worker"
HEALTH: Final = "health"

_CONNECTION: Final = "+@connection -@dangerous +info"
_RECORDS: Final = (
    "~imago:* +eval +evalsha +script|load +script|exists +time +get +set +del +exists +expire +pexpire +incr "
    "+hget +hmget +hset +hsetnx +hdel +hgetall +sadd +srem +scard +sismember +smembers "
    "+zadd +zrem +zcard +zrange +zrangebyscore +zrevrangebyscore +zremrangebyscore +xadd +xrange +xtrim"
)
"""The job record, its events and the limits of keys: our own scripts, and what these call."""
_SENDING: Final = "~imago-jobs* ~_kombu.* +multi +exec +discard +lpush +llen"
"""Celery's side that sends."""
_TAKING: Final = (
    "~unacked* +watch +unwatch +brpop +rpop +rpush +lrange +lrem "
    "+zrevrange +zremrangebyrank +hlen +mget +setex"
)
"""Celery's side that takes, and the studies of sweeps."""

RULES: Final[Mapping[str, str]] = {
    GATEWAY: f"{_CONNECTION} {_RECORDS} {_SENDING}",
    WORKER: f"{_CONNECTION} {_RECORDS} {_SENDING} {_TAKING}",
    HEALTH: "+ping",
}
"""Of each user, beyond nothing at all."""


def acl_file(passwords: Mapping[str, str]) -> str:
    """Return a file of users for Redis; it holds digests, and nobody without a password gets in.

    Args:
        passwords: of each role in `RULES`, long and random: SHA-256 alone keeps them.
    """
    # Nobody is this user, for it is off. But by its rights Redis reads its own file at start, and without
    # them leaves out what scripts have written: every job.
    lines = ["user default reset off ~* &* +@all"]
    for role, rules in RULES.items():
        digest = hashlib.sha256(passwords[role].encode()).hexdigest()
        lines.append(f"user {role} reset on #{digest} -@all {rules}")
    return "".join(f"{line}\n" for line in lines)
