"""What a command tells a person before it leaves with exit status 1.

These stand beside the tree of `shared/errors.py`, not in it: that tree holds what services answer with a
status of their own; nothing here is ever sent.
"""


class CommandFailed(Exception):
    """A command could not do what was asked. `code` is stable, `remedy` says what to do."""

    def __init__(self, code: str, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.remedy = remedy

    def line(self) -> str:
        """Return code, detail and remedy as one line."""
        words = " ".join(f"{self.detail}".split()).rstrip(".")
        remedy = " ".join(self.remedy.split())
        return f"{self.code}: {words}. {remedy}".rstrip()


class GatewayRefused(CommandFailed):
    """A service answered with a problem document. `status` is the HTTP status."""

    def __init__(
        self, status: int, code: str, detail: str, remedy: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(code, detail, remedy)
        self.status = status
        self.retry_after_s = retry_after_s


class GatewayUnreachable(CommandFailed):
    """Nothing answers at the URL, or the answer broke off."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            "unreachable",
            f"{url} does not answer ({reason})",
            "Is `imago up` running? --gateway names another.",
        )
        self.url = url


class JobNotSucceeded(CommandFailed):
    """A job that was waited for ended as failed or cancelled."""


class StackFailed(CommandFailed):
    """A part of the stack did not come up, or did not stay up. `details` are the last lines of its log."""

    def __init__(self, code: str, detail: str, remedy: str = "", *, details: str = "") -> None:
        super().__init__(code, detail, remedy)
        self.details = details
