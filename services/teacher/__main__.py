"""`python -m services.teacher`: serve until SIGTERM or SIGINT."""

import os
import sys
from pathlib import Path

from services.teacher.ledger import Ledger
from services.teacher.settings import TeacherSettings
from shared.adapters.web.server import serve
from shared.adapters.web.starting import check_access
from shared.logs import configure_logging
from shared.settings import load


def main() -> None:
    """Read the settings and serve; a wrong setting is told before anything starts."""
    settings = load(TeacherSettings)
    # Read when the library is imported, which is when the first teacher of its kind is asked.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    configure_logging("teacher", settings.log_level)
    check_access(settings, settings.host, "TEACHER_HOST")
    if settings.auth == "keys":
        _check_ledger(settings.ledger_path)
    serve(
        "services.teacher.app:from_environment",
        host=settings.host,
        port=settings.port,
        drain_s=settings.drain_s,
    )


def _check_ledger(path: Path) -> None:
    try:
        Ledger(path)
    except OSError as error:
        sys.stderr.write(
            f"TEACHER_LEDGER_DIR: {path} cannot be written: {error.strerror}. What keys take from their "
            "budgets is noted there\n"
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
