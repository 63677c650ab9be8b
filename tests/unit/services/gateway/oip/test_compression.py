"""Compressed bodies by themselves."""

import gzip
import tracemalloc

import pytest

from services.gateway.oip.compression import inflated
from shared.errors import BodyTooLarge


def test_no_more_is_inflated_than_may_be():
    packed = gzip.compress(bytes(50 * 2**20))
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        inflated(packed, "gzip", most_bytes=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_body_of_just_the_limit_is_read():
    body = bytes(range(256)) * 4
    assert inflated(gzip.compress(body), "gzip", most_bytes=len(body)) == body
    with pytest.raises(BodyTooLarge):
        inflated(gzip.compress(body), "gzip", most_bytes=len(body) - 1)
