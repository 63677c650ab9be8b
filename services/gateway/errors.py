"""Which status each error has on the gateway. A more special class wins over its parents.

Predictions without a promoted student are 503, not 409: the service is not able yet, and a load balancer may
ask another. A damaged artefact and an error that only a worker raises are 500: for nothing the client sent.
"""

from typing import Any

from shared.adapters.web.problems import StatusTable
from shared.contracts.problems import PROBLEM_MEDIA_TYPE
from shared.errors import (
    BodyTooLarge,
    BudgetNotCounted,
    Conflict,
    DeadlineExceeded,
    DistillationError,
    ImageTooLarge,
    InvalidRequest,
    NoLiveStudent,
    NotAcceptable,
    NotFound,
    PickleRefused,
    QuotaExceeded,
    RateExceeded,
    RevisionMismatch,
    ScopeMissing,
    TeacherBudgetSpent,
    TooManyImages,
    TooManyJobs,
    Unauthenticated,
    Unavailable,
    UnsupportedContentEncoding,
    UnsupportedMediaType,
)

STATUSES: StatusTable = {
    DistillationError: 500,
    Unauthenticated: 401,
    ScopeMissing: 403,
    BudgetNotCounted: 403,
    RateExceeded: 429,
    QuotaExceeded: 429,
    TooManyJobs: 429,
    TeacherBudgetSpent: 429,
    InvalidRequest: 422,
    NotAcceptable: 406,
    BodyTooLarge: 413,
    ImageTooLarge: 413,
    TooManyImages: 413,
    UnsupportedMediaType: 415,
    UnsupportedContentEncoding: 415,
    PickleRefused: 415,
    NotFound: 404,
    Conflict: 409,
    RevisionMismatch: 412,
    Unavailable: 503,
    NoLiveStudent: 503,
    DeadlineExceeded: 504,
}

TOO_MUCH: tuple[type[DistillationError], ...] = (RateExceeded, QuotaExceeded, TooManyJobs)
"""What is 429 where jobs are submitted. The first two are so everywhere; but what a route documents of a
status takes the place of what all have."""

UNREADABLE: dict[str, Any] = {
    "description": "The body is not UTF-8, or too deep or too long in its numbers to be read as JSON",
    "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
"""What FastAPI answers where it cannot even parse; other faults of a body are 422."""
