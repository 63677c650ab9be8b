"""Turns errors into problem details (RFC 9457), the same way in every HTTP service.

Each service owns the table from error to status; a more special class wins over its parents.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from shared import logs
from shared.contracts.problems import PROBLEM_MEDIA_TYPE, FieldProblem, Problem
from shared.errors import DistillationError, Unauthenticated, Unavailable

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""In metrics: the client closed the connection before it had sent its request."""

StatusTable = Mapping[type[DistillationError], int]


def every_error(root: type[DistillationError] = DistillationError) -> Iterator[type[DistillationError]]:
    """Walk the tree of errors, parents first."""
    yield root
    for child in root.__subclasses__():
        yield from every_error(child)


def status_of(error: type[DistillationError], table: StatusTable) -> int:
    """Return the status of the nearest class in the table, going up the tree."""
    for ancestor in error.__mro__:
        if issubclass(ancestor, DistillationError) and ancestor in table:
            return table[ancestor]
    raise KeyError(f"{error.__name__} has no status")


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the problem as an HTTP response with the request's id filled in."""
    problem = problem.model_copy(update={"request_id": logs.request_id.get() or ""})
    return Response(
        problem.model_dump_json(), problem.status, headers=dict(headers or {}), media_type=PROBLEM_MEDIA_TYPE
    )


def problem_of(error: DistillationError, status: int) -> Problem:
    """Return the problem details of a deliberate error; the log has more where `told` has less."""
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=error.code,
        detail=error.told,
        remedy=error.remedy,
    )


def error_response(error: DistillationError, status: int) -> Response:
    """Return a deliberate error as a response, with what HTTP says with it in its headers."""
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return problem_response(problem_of(error, status), headers)


def refusal(error: Exception, table: StatusTable) -> Response:
    """Return the answer to an error that was raised while a request was answered, whatever it is."""
    if isinstance(error, DistillationError):
        status = status_of(type(error), table)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("request refused", extra={"code": error.code, "detail": str(error)})
        return error_response(error, status)
    if isinstance(error, RequestValidationError):
        return problem_response(_validation_problem(error.errors(), table))
    return unexpected()


def unexpected() -> Response:
    """Return the answer to an error that nobody raised on purpose; what it was stands in the log."""
    return problem_response(
        Problem(
            title="Internal Server Error",
            status=500,
            code="internal-error",
            detail="an unexpected error was logged under this request_id",
            remedy="Report the request_id to whoever runs this service.",
        )
    )


def documented(table: StatusTable, *errors: type[DistillationError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of a route that may raise these errors."""
    by_status: dict[int, list[type[DistillationError]]] = {}
    for error in errors:
        by_status.setdefault(status_of(error, table), []).append(error)
    responses: dict[int | str, dict[str, Any]] = {}
    for status, classes in sorted(by_status.items()):
        examples = {
            cls.code: {
                "summary": (cls.__doc__ or "").splitlines()[0],
                "value": {
                    "type": "about:blank",
                    "title": HTTPStatus(status).phrase,
                    "status": status,
                    "code": cls.code,
                    "detail": (cls.__doc__ or "").splitlines()[0],
                    "remedy": cls.remedy if isinstance(cls.remedy, str) else "",
                    "request_id": "5f1c8f0a9f5e4d30",
                    "errors": [],
                },
            }
            for cls in classes
        }
        responses[status] = {
            "description": "; ".join((cls.__doc__ or "").splitlines()[0].rstrip(".") for cls in classes),
            "content": {
                PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
            },
        }
    return responses


def install(app: FastAPI, table: StatusTable) -> None:
    """Make the app answer every refusal as a problem document."""

    async def deliberate(_request: Request, error: Exception) -> Response:
        return refusal(error, table)

    async def plain(_request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        phrase = HTTPStatus(error.status_code).phrase
        return problem_response(
            Problem(
                title=phrase,
                status=error.status_code,
                code=phrase.lower().replace(" ", "-"),
                detail=str(error.detail),
                remedy="See /docs for the paths, methods and media types that are answered.",
            ),
            error.headers,
        )

    async def unforeseen(_request: Request, _error: Exception) -> Response:
        # Starlette raises the error again after this answer; the boundary logs it and stops it there.
        return unexpected()

    async def gone(_request: Request, _error: Exception) -> Response:
        # Nobody receives it; the status keeps a client that left apart from a failure of ours in the metrics.
        return Response(status_code=CLIENT_GONE)

    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(DistillationError, deliberate)
    app.add_exception_handler(RequestValidationError, deliberate)
    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(Exception, unforeseen)


def _validation_problem(errors: Sequence[Any], table: StatusTable) -> Problem:
    fields = tuple(
        FieldProblem(
            field=".".join(map(str, error["loc"])), code=_code(error["type"]), detail=str(error["msg"])[:500]
        )
        for error in errors[:20]
    )
    # A validator that refused with an error of ours gives the whole answer its code and its remedy.
    own = next((error for error in errors if "-" in error["type"]), None)
    if own is not None:
        classes = {cls.code: cls for cls in every_error()}
        status = status_of(classes[own["type"]], table)
        return Problem(
            title=HTTPStatus(status).phrase,
            status=status,
            code=own["type"],
            detail=str(own["msg"]),
            remedy=str(own.get("ctx", {}).get("remedy", "")),
            errors=fields,
        )
    first = fields[0] if fields else FieldProblem(field="", code="", detail="the request is malformed")
    return Problem(
        title="Unprocessable Content",
        status=422,
        code="invalid-json" if first.code == "json-invalid" else "request-invalid",
        detail=f"{first.field}: {first.detail}" if first.field else first.detail,
        remedy="Correct the fields named in 'errors'; /docs shows what is expected.",
        errors=fields,
    )


def _code(pydantic_type: str) -> str:
    return pydantic_type.replace("_", "-")
