"""Names the error where there is no room left for what is written."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.errors import StoreFull

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A full disk, a quota, a limit on the size of a file."""
_REMEDY: Final = (
    "Make room where the service keeps its files, such as by deleting transfer sets, and send it again."
)


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Raise `StoreFull` where what is written meanwhile does not fit; other errors rise as they are.

    Args:
        path: of what is written, which the error names.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StoreFull(str(path), remedy=_REMEDY) from error
        raise
