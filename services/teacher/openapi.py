"""`python -m services.teacher.openapi` stores the service's OpenAPI document beside this file."""

from pathlib import Path

from services.teacher.app import create_api
from services.teacher.settings import TeacherSettings
from shared.adapters.web import openapi

STORED = Path(__file__).with_name("openapi.json")


def main() -> None:
    """Write the document anew; a test compares it with what the routes say."""
    openapi.write(create_api(TeacherSettings.model_construct()), STORED)


if __name__ == "__main__":
    main()
