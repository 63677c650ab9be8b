"""`Content-Digest` (RFC 9530): whether a body arrived as it was sent."""

import base64
import hashlib
import re

HEADER = "Content-Digest"

_SHA_256 = re.compile(r"(?:^|[\s,])sha-256=:([A-Za-z0-9+/=]*):")


def content_digest(body: bytes | bytearray | memoryview) -> str:
    """Return what the header says of a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def is_whole(body: bytes | bytearray | memoryview, header: str) -> bool | None:
    """Tell whether a body is the one that the header is about; None where the header names no SHA-256."""
    found = _SHA_256.search(header)
    return None if found is None else content_digest(body) == f"sha-256=:{found[1]}:"
