"""The canary: which requests a candidate answers in place of the live student."""

import hashlib
import random

from shared.serving.session import StudentSession


class Split:
    """A candidate and its share of the requests."""

    def __init__(self, candidate: StudentSession, share: float) -> None:
        self.candidate = candidate
        self.share = share

    def takes(self, key: str | None) -> bool:
        """Tell whether the candidate answers a request; without a key by chance."""
        if key is None:
            return random.random() < self.share
        return place(key, self.candidate.version) < self.share


def place(key: str, version: str) -> float:
    """Return where a key stands in [0, 1) for a candidate: in every process and at all times the same.

    The candidate answers the keys below its share, so that a larger share takes none away that it had. Each
    candidate has its own order of keys: not the same clients meet every experiment.
    """
    digest = hashlib.blake2b(f"{version}\0{key}".encode(), digest_size=8).digest()
    # 64 bits do not fit a float: rounded, the largest would be 1.
    return (int.from_bytes(digest, "big") >> 11) / float(1 << 53)
