"""Heads of requests that were parsed before: a client sends the same bytes again and again.

What the HTTP parser makes of a head depends on its bytes alone, so a head that it has seen whole is looked up
in place of being parsed once more. Only plain ones are kept, and none that says what differs from request to
request.
"""

from typing import NamedTuple

_MOST_BYTES = 1024
"""Of a head that is looked up or kept."""
_MOST = 1024
"""Heads that are kept; clients differ in their names and in the lengths of their images."""
_ENDS = b"\r\n\r\n"


class Head(NamedTuple):
    """What a plain request for a prediction says before its body."""

    query: bytes
    length: int
    """Of the body, in bytes."""
    identifier: str | None = None
    """The client's name for the request."""
    deadline: str | None = None
    key: str | None = None
    """What the client calls itself."""
    media_type: bytes | None = None
    """Where it is none of an image: of a form, with its boundary, or one that is refused."""
    traceparent: str | None = None
    """Of which trace the request is a part, to the client."""
    tracestate: str | None = None
    authorization: bytes | None = None
    """With the key, which is looked at for each request anew: it may be revoked or expire."""


_known: dict[bytes, Head] = {}


def head_of(data: bytes) -> bytes | None:
    """Return the bytes of the head with which `data` begins, or None where it is long or not whole.

    `data` must begin where the parser expects a request.
    """
    end = data.find(_ENDS, 0, _MOST_BYTES)
    return None if end < 0 else data[: end + len(_ENDS)]


def known(head: bytes) -> Head | None:
    """Return what the parser found in these bytes, or None where that is not known."""
    return _known.get(head)


def keep(head: bytes, found: Head) -> None:
    """Keep what the parser found in a head, where the same may come again."""
    # A line may end without a carriage return. The parser then saw another end of the head than `head_of`.
    plain = head.startswith(b"POST ") and head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r")
    again = found.identifier is None and found.key is None and found.media_type is None
    again = again and found.traceparent is None
    if plain and again and found.length:
        if len(_known) >= _MOST:
            _known.clear()
        _known[head] = found
