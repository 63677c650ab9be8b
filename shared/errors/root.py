"""The root of the tree."""

import re


class DistillationError(Exception):
    """Root of every deliberate error; `code` is stable, `remedy` says what to do."""

    code: str = "distillation-error"
    remedy: str = ""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy

    @property
    def told(self) -> str:
        """What a client is told: the message, less what only whoever runs the service may read in the log."""
        return str(self)
