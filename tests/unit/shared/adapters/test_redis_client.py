"""What a server says that is up and does not serve, as redis-py reads it off the wire; no server needed."""

import pytest
from redis import ResponseError
from redis._parsers.base import BaseParser

from shared.adapters.redis_client import answering
from shared.errors import JobStoreUnavailable


def told(said: str) -> None:
    """Read it off the wire as an error inside `answering`."""
    with answering():
        raise BaseParser.parse_error(said)


@pytest.mark.parametrize(
    "said",
    [
        "OOM command not allowed when used memory > 'maxmemory'. script: x, on @user_script:1.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR Error running script (call to f_x): @user_script:1: @user_script: 1: -OOM command not allowed",
        "READONLY You can't write against a read only replica. script: x, on @user_script:1.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "LOADING Redis is loading the dataset in memory",
    ],
)
def test_a_server_that_cannot_serve_is_an_unavailable_store_in_the_words_of_redis_6_and_7(said: str) -> None:
    with pytest.raises(JobStoreUnavailable) as refused:
        told(said)
    assert "refuses the user" not in str(refused.value)


@pytest.mark.parametrize(
    "said",
    [
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM User gateway has no permissions to run the 'keys' command",
        "NOPERM ACL failure in script: User gateway has no permissions to run the 'keys' command script: x",
        "ERR Error running script (call to f_x): @script:1: The user executing the script can't run this",
    ],
)
def test_a_server_that_does_not_let_us_in_is_one_and_the_user_is_blamed(said: str) -> None:
    with pytest.raises(JobStoreUnavailable, match="refuses the user of REDIS_URL"):
        told(said)


@pytest.mark.parametrize("said", ["ERR unknown command 'x'", "WRONGTYPE Operation against", "BUSYGROUP x"])
def test_a_mistake_of_ours_stays_one(said: str) -> None:
    with pytest.raises(ResponseError):
        told(said)
