"""`python -m services.worker`: runs one worker until SIGTERM or SIGINT."""

from services.worker.app import run
from services.worker.settings import WorkerSettings
from shared.logs import configure_logging
from shared.settings import load


def main() -> int:
    """Read the settings, then work; the exit status is 2 where a setting is wrong."""
    settings = load(WorkerSettings)
    configure_logging("worker", settings.log_level)
    return run(settings)


if __name__ == "__main__":
    raise SystemExit(main())
