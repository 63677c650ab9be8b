"""The key that worker and gateway ask the stack's own teacher with, where `imago up` runs with keys on."""

import secrets
from collections.abc import Mapping
from typing import Final

from services.cli.secret_files import write_private
from services.cli.settings import CliSettings

FILE: Final = "teacher_key"


def environments(settings: CliSettings) -> Mapping[str, Mapping[str, str]]:
    """Return what each service is told of the key, beside its other variables; a missing key is made.

    It allows everything at the teacher, so that what a job asks counts for who submitted it, and nothing at
    the gateway: as in containers. Nothing is told where keys are off or TEACHER_KEY_FILE names another.

    Raises:
        OSError: the key cannot be written.
    """
    if settings.auth == "off" or settings.teacher_key_file is not None:
        return {}
    file = settings.absolute_state_dir / FILE
    if not file.exists():
        write_private(file, f"{secrets.token_urlsafe(32)}\n")
    asking = {"TEACHER_KEY_FILE": str(file)}
    return {"worker": asking, "gateway": asking, "teacher": {"IMAGO_ADMIN_KEY_FILE": str(file)}}
