"""Which names are safe as file names: those of `contracts.base.Name`, and versions of students."""

import re

from pydantic import TypeAdapter, ValidationError

from shared.contracts.base import Name

_name = TypeAdapter(Name)
_version = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}")


def is_name(text: str) -> bool:
    """Tell whether `text` can name a teacher, a student or a dataset."""
    try:
        _name.validate_python(text)
    except ValidationError:
        return False
    return True


def is_version(text: str) -> bool:
    """Tell whether `text` can be a student's version or a job's id: a name of up to 128 characters."""
    return _version.fullmatch(text) is not None
