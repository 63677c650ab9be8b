"""Bodies that are compressed, as clients of Triton send them and ask for them."""

import gzip
import zlib
from typing import Final, Literal

from shared.errors import BodyTooLarge, MalformedBody, UnsupportedContentEncoding

Coding = Literal["gzip", "deflate"]

CODINGS: Final[tuple[Coding, ...]] = ("gzip", "deflate")
ONE_PACKET: Final = 1400
"""Bytes of an answer that travel in one packet anyway."""

_WINDOW_BITS: Final[dict[str, int]] = {"gzip": 31, "deflate": 15}
"""As zlib takes them: with a header of gzip, or of zlib, which HTTP calls deflate."""
_QUICKEST: Final = 1


def coding_of(content_encoding: str | None) -> Coding | None:
    """Return how a body is compressed, None where it is not.

    Raises:
        UnsupportedContentEncoding: in another way, or in several.
    """
    given = (content_encoding or "identity").strip().lower()
    if given == "identity":
        return None
    for coding in CODINGS:
        if given == coding:
            return coding
    raise UnsupportedContentEncoding(given, CODINGS)


def wanted_coding(accept_encoding: str | None) -> Coding | None:
    """Return how an answer may be compressed, None where the client does not say that it reads that."""
    if not accept_encoding:
        return None
    given = {}
    for part in accept_encoding.lower().split(","):
        name, _, quality = part.partition(";")
        given[name.strip()] = quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return next((coding for coding in CODINGS if given.get(coding)), None)


def inflated(body: bytes, coding: Coding, *, most_bytes: int) -> bytes:
    """Return a body as it was before it was compressed; never makes more than `most_bytes` of it.

    Raises:
        BodyTooLarge: it would be more.
        MalformedBody: it is not compressed so, cut off, or followed by something else.
    """
    reader = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        found = reader.decompress(body, most_bytes + 1)
    except zlib.error:
        raise MalformedBody(f"the body is not compressed by {coding}, as its Content-Encoding says") from None
    if len(found) > most_bytes:
        raise BodyTooLarge(most_bytes)
    if not reader.eof or reader.unused_data:
        raise MalformedBody(f"the body is not one whole stream of {coding}")
    return found


def deflated(body: bytes, coding: Coding) -> bytes:
    """Return a body compressed quickly."""
    if coding == "gzip":
        return gzip.compress(body, _QUICKEST, mtime=0)
    return zlib.compress(body, _QUICKEST)
