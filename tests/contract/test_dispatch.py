"""What the reconciler sees of the queue that Celery keeps in Redis."""

import pytest
from redis import Redis

from shared.adapters.dispatch import CeleryDispatcher
from shared.contracts.task_names import JOBS_QUEUE

pytestmark = pytest.mark.integration


def test_the_jobs_of_waiting_messages_are_known_and_what_is_no_message_of_ours_is_passed_over(
    redis_url: str,
) -> None:
    dispatcher = CeleryDispatcher(redis_url)
    for number in range(3):
        dispatcher.send(f"j-{number}")
    with Redis.from_url(redis_url) as client:
        for odd in (
            b"junk",
            b"[]",
            b'{"body": 1}',
            b'{"body": "e30="}',
            b'{"body": "W1tdXQ=="}',
            b"[" * 9999,
        ):
            client.rpush(JOBS_QUEUE, odd)
    assert dispatcher.waiting(50) == {"j-0", "j-1", "j-2"}
    assert len(dispatcher.waiting(1)) <= 1
    dispatcher.close()
