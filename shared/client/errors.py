"""What a client is told in place of an answer.

These stand in the tree of `shared.errors`, so that one `except DistillationError` is enough; no service
raises them. `request_id` finds the request in the logs of the gateway.
"""

from shared.contracts.problems import FieldProblem
from shared.errors import DeadlineExceeded, DistillationError, Unavailable


class GatewayError(DistillationError):
    """Root of what the client raises."""

    request_id: str = ""
    """What the gateway's logs call the request; the client chose it, so it is there without an answer too."""


class GatewayRefused(GatewayError):
    """The gateway answered with a problem document; `code` and `remedy` are the document's.

    `status` is the HTTP status, `retry_after_s` what `Retry-After` says in seconds, `errors` what is wrong
    with single fields of the request.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        remedy: str = "",
        *,
        retry_after_s: float | None = None,
        request_id: str = "",
        errors: tuple[FieldProblem, ...] = (),
        is_problem: bool = True,
    ) -> None:
        super().__init__(detail, remedy=remedy)
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.errors = errors
        self.is_problem = is_problem
        """Whether a problem document came; if not, it was hardly the gateway that answered."""


class GatewayUnreachable(GatewayError, Unavailable):
    """Nothing answers at the URL, or the answer broke off."""

    remedy = "Is the gateway running? `imago up` starts one; --gateway or IMAGO_GATEWAY_URL names another."

    def __init__(self, url: str, reason: str, *, request_id: str = "") -> None:
        super().__init__(f"{url} does not answer ({reason})")
        self.url = url
        self.request_id = request_id


class DeadlineMissed(GatewayError, DeadlineExceeded):
    """The time that the caller gave was over, by the gateway's clock or by ours."""

    def __init__(self, deadline_s: float, *, request_id: str = "") -> None:
        super().__init__(deadline_s)
        self.request_id = request_id


class AnswerNotUnderstood(GatewayError):
    """An answer that is not what its contract says."""

    remedy = "Are client and gateway of the same version?"

    def __init__(self, url: str, *, request_id: str = "") -> None:
        super().__init__(f"{url} answered something else than its contract says")
        self.request_id = request_id


class KeyUnusable(GatewayError):
    """The key has spaces, line ends or other characters that no key has; which, is not told."""

    remedy = "Give the key as `imago keys create` printed it, on one line and without anything beside it."

    def __init__(self) -> None:
        super().__init__("the API key has characters that no key has")
