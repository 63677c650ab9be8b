"""Which status each error has on the gateway. A more special class wins over its parents.

Predictions without a promoted student are 503, not 409: the service is not able yet, and a load balancer may
ask another. A damaged artefact and an error that only a worker raises are 500: for nothing the client sent.
"""

from shared.adapters.web.problems import StatusTable
from shared.errors import (
    BodyTooLarge,
    Conflict,
    DistillationError,
    ImageTooLarge,
    InvalidRequest,
    NoLiveStudent,
    NotAcceptable,
    NotFound,
    TooManyImages,
    Unavailable,
    UnsupportedMediaType,
)

STATUSES: StatusTable = {
    DistillationError: 500,
    InvalidRequest: 422,
    NotAcceptable: 406,
    BodyTooLarge: 413,
    ImageTooLarge: 413,
    TooManyImages: 413,
    UnsupportedMediaType: 415,
    NotFound: 404,
    Conflict: 409,
    Unavailable: 503,
    NoLiveStudent: 503,
}
