"""Problem details: the one form of every refusal, from all services alike (RFC 9457)."""

from shared.contracts.base import Contract

PROBLEM_MEDIA_TYPE = "application/problem+json"


class FieldProblem(Contract):
    """What is wrong with one field of the request."""

    field: str
    code: str
    detail: str


class Problem(Contract):
    """`application/problem+json`. `code` is stable, `remedy` says what to do about it."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    remedy: str = ""
    request_id: str = ""
    errors: tuple[FieldProblem, ...] = ()
