"""`python -m services.teacher`: serve until SIGTERM or SIGINT."""

from services.teacher.settings import TeacherSettings
from shared.adapters.web.server import serve
from shared.logs import configure_logging
from shared.settings import load


def main() -> None:
    """Read the settings and serve; a wrong setting is told before anything starts."""
    settings = load(TeacherSettings)
    configure_logging("teacher", settings.log_level)
    serve(
        "services.teacher.app:from_environment",
        host=settings.host,
        port=settings.port,
        drain_s=settings.drain_s,
    )


if __name__ == "__main__":
    main()
