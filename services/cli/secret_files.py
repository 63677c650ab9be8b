"""Files that hold secrets."""

import os
import tempfile
from pathlib import Path

from shared.artefacts.files import sync_directory


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file as a whole that lasts; at no moment may anybody read it whom `mode` keeps out.

    Args:
        path: of the file; its folder is made where it is not there.
        text: what it is to hold.
        mode: who may read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)  # or a loss of power may leave the name with nothing behind it
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
