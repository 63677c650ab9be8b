"""Each error has its status on the teacher service."""

import pytest

import shared.errors
from services.teacher.errors import STATUSES
from shared.adapters.web.problems import every_error, status_of

OURS = [error for error in every_error() if error.__module__.startswith(f"{shared.errors.__name__}.")]

EXPECTED = {
    "invalid-temperature": 422,
    "temperature-too-low": 422,
    "input-mismatch": 422,
    "invalid-image": 422,
    "malformed-body": 422,
    "body-damaged": 422,
    "unauthenticated": 401,
    "scope-missing": 403,
    "teacher-budget-spent": 429,
    "no-images": 422,
    "image-too-large": 413,
    "body-too-large": 413,
    "too-many-images": 413,
    "unsupported-media-type": 415,
    "not-acceptable": 406,
    "teacher-not-found": 404,
    "teacher-changed": 409,
    "queue-full": 503,
    "store-full": 503,
    "shutting-down": 503,
    "deadline-exceeded": 504,
    "corrupt": 500,
    "teacher-answer-invalid": 500,
}


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.__name__)
def test_every_error_finds_a_status(error):
    assert 400 <= status_of(error, STATUSES) < 600


@pytest.mark.parametrize(("code", "status"), EXPECTED.items())
def test_what_the_service_raises_has_the_status_that_the_readme_and_openapi_promise(code, status):
    (error,) = [error for error in OURS if error.code == code]
    assert status_of(error, STATUSES) == status
