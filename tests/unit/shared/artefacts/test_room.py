"""A full disk is named."""

import errno
import os
from pathlib import Path

import pytest

from shared.artefacts.room import room
from shared.errors import StoreFull


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_what_does_not_fit_is_a_full_store_that_names_what_was_written(number: int):
    path = Path("/var/lib/imago/store/keys.json")
    with pytest.raises(StoreFull, match=r"no room left to store store/keys\.json$") as refused, room(path):
        raise OSError(number, os.strerror(number))
    assert "Make room" in refused.value.remedy


def test_other_errors_rise_as_they_are():
    with pytest.raises(OSError, match="Input/output") as raised, room(Path("x")):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert raised.value.errno == errno.EIO
