"""What a command tells a person before it leaves with exit status 1.

These stand beside the tree of `shared/errors/`, not in it: that tree holds what services answer with a
status of their own; nothing here is ever sent. What the gateway refuses is in `shared.client.errors`.
"""

from shared.client import GatewayRefused
from shared.errors import DistillationError


class CommandFailed(Exception):
    """A command could not do what was asked. `code` is stable, `remedy` says what to do."""

    def __init__(self, code: str, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.remedy = remedy


class JobNotSucceeded(CommandFailed):
    """A job that was waited for ended as failed or cancelled."""


class StackFailed(CommandFailed):
    """A part of the stack did not come up, or did not stay up. `details` are the last lines of its log."""

    def __init__(self, code: str, detail: str, remedy: str = "", *, details: str = "") -> None:
        super().__init__(code, detail, remedy)
        self.details = details


def line(error: CommandFailed | DistillationError) -> str:
    """Return code, what was wrong and remedy as one line."""
    words = " ".join(f"{error}".split()).rstrip(".")
    remedy = " ".join(error.remedy.split())
    if isinstance(error, GatewayRefused) and error.status >= 500 and error.request_id:
        remedy = f"{remedy} (request_id {error.request_id})"
    return f"{error.code}: {words}. {remedy}".rstrip()
