"""Which status each error gets. A more special class wins over its parents."""

from http import HTTPStatus
from typing import Final

from shared import errors
from shared.adapters.web.problems import StatusTable

STATUSES: Final[StatusTable] = {
    errors.DistillationError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.ScopeMissing: HTTPStatus.FORBIDDEN,
    errors.BudgetNotCounted: HTTPStatus.FORBIDDEN,
    errors.RateExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.QuotaExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TeacherBudgetSpent: HTTPStatus.TOO_MANY_REQUESTS,
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.ImageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooManyImages: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    errors.JobFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ExtraMissing: HTTPStatus.NOT_IMPLEMENTED,
}
