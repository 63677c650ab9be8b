import pytest

from services.gateway.hot import heads
from services.gateway.hot.heads import Head

HEAD = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(heads, "_known", {})


def test_a_head_ends_with_the_first_empty_line():
    assert heads.head_of(HEAD + b"abc\r\n\r\n") == HEAD


@pytest.mark.parametrize("data", [b"", HEAD[:-1], b"POST / HTTP/1.1\r\nX: " + b"x" * 2000 + b"\r\n\r\n"])
def test_a_head_that_is_long_or_not_whole_is_left_to_the_parser(data):
    assert heads.head_of(data) is None


def test_a_plain_head_is_known_again():
    found = Head(b"top=3", 3, deadline="50")
    heads.keep(HEAD, found)
    assert heads.known(HEAD) == found
    assert heads.known(HEAD.replace(b"x", b"y")) is None


@pytest.mark.parametrize("found", [Head(b"", 3, identifier="mine"), Head(b"", 3, key="user-7"), Head(b"", 0)])
def test_what_differs_from_request_to_request_is_not_kept(found):
    heads.keep(HEAD, found)
    assert heads.known(HEAD) is None


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n" + HEAD,
        HEAD.replace(b"Host: x\r\n", b"Host: x\n"),
        HEAD.replace(b"Host: x\r\n", b"Host: x\r\r\n"),
        # The parser may see its end at the empty line and a body after it.
        b"POST /v1/predictions HTTP/1.1\nContent-Length: 3\n\nabc\r\n\r\n",
    ],
)
def test_a_head_with_unusual_ends_of_lines_is_not_kept(head):
    heads.keep(head, Head(b"", 3))
    assert heads.known(head) is None


def test_the_number_of_heads_that_are_kept_is_bounded():
    for length in range(1, 3000):
        heads.keep(HEAD.replace(b": 3", f": {length}".encode()), Head(b"", length))
    assert len(heads._known) <= 1024
    assert heads.known(HEAD.replace(b": 3", b": 2999")) == Head(b"", 2999)
