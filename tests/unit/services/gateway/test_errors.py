import pytest

import shared.errors
from services.gateway.errors import STATUSES
from shared.adapters.web.problems import every_error, status_of
from shared.errors import (
    BudgetNotCounted,
    DeadlineExceeded,
    DistillationError,
    InvalidRequest,
    JobFailed,
    NotFound,
    QuotaExceeded,
    RateExceeded,
    RevisionMismatch,
    ScopeMissing,
    TeacherBudgetSpent,
    TooManyJobs,
    Unauthenticated,
    Unavailable,
)

OURS = [error for error in every_error() if error.__module__.startswith(f"{shared.errors.__name__}.")]
"""Those that a service raises; the client's own are told by the client."""

ACCESS = {
    Unauthenticated: 401,
    ScopeMissing: 403,
    BudgetNotCounted: 403,
    RateExceeded: 429,
    QuotaExceeded: 429,
    TooManyJobs: 429,
    TeacherBudgetSpent: 429,
}


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.code)
def test_every_error_has_a_status_that_fits_its_family(error):
    status = status_of(error, STATUSES)
    if error in ACCESS:
        assert status == ACCESS[error]
    elif issubclass(error, NotFound):
        assert status == 404
    elif issubclass(error, Unavailable):
        assert status == (504 if error is DeadlineExceeded else 503)
    elif issubclass(error, InvalidRequest):
        assert status in (406, 413, 415, 422)
    elif issubclass(error, JobFailed) or error is DistillationError:
        assert status == 500
    elif error is RevisionMismatch:
        assert status == 412
    else:
        assert status in (409, 503)
