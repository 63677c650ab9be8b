"""What the gateway counts beside its requests: what students said, what it cost, where others disagreed.

Each call of a student is counted after its answers were sent. docs/serving.md tells what each metric
means; a test compares the list there with this one.
"""

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import Counter, Gauge

from services.gateway.hot.answered import Answered
from shared.adapters.web.metrics import BatchHistogram
from shared.serving.session import StudentSession

ANSWER, SHADOW = "answer", "shadow"
"""Roles of a student: clients saw what it said, or nobody did."""
LIVE, TEACHER = "live", "teacher"
"""Whom a student is compared with."""
MOST_CLASSES = 1000
"""Classes of one student that are counted apart."""
_MOST_SERIES = 20_000
"""Pairs of student and class that one process counts apart, whatever is promoted in its time."""
_AT_ONCE_IMAGES = 64
"""That wait to be counted."""
_LATER_S = 0.02
"""After which they are counted, however few."""

_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
# Six a decade: versions are compared by them, and a quantile is known to within its bucket.
_STUDENT_SECONDS = (
    *(digit / 1e5 for digit in (2, 3, 5, 7)),
    *(digit / 10**power for power in (4, 3, 2, 1) for digit in (1, 1.5, 2, 3, 5, 7)),
    *(1, 1.5, 2, 3, 5, 10),
)

STARTED = Gauge(
    "imago_gateway_start_time_seconds", "When counting began, as Unix time", multiprocess_mode="min"
)
PREDICTIONS = Counter("imago_predictions_total", "Images answered", ["student"])
BATCH = BatchHistogram(
    "imago_prediction_batch_images", "Images answered by one call", buckets=(1, 2, 4, 8, 16, 32, 64)
)
QUEUE_SECONDS = BatchHistogram(
    "imago_prediction_queue_seconds", "Waiting of one request for its call", buckets=_SECONDS
)
DECODE_SECONDS = BatchHistogram(
    "imago_prediction_decode_seconds", "Decoding of one request", buckets=_SECONDS
)
MODEL_SECONDS = BatchHistogram(
    "imago_prediction_model_seconds",
    "The student's time for a call",
    ["student", "role"],
    buckets=_STUDENT_SECONDS,
)
ENCODE_SECONDS = BatchHistogram(
    "imago_prediction_encode_seconds", "Writing of the answers of one call", buckets=_SECONDS
)
REQUEST_SECONDS = BatchHistogram(
    "imago_prediction_seconds",
    "Time of a request from its head to its written answer",
    ["student"],
    buckets=_STUDENT_SECONDS,
)
CONFIDENCE = BatchHistogram(
    "imago_prediction_confidence",
    "Largest probability of an image, at T = 1",
    ["student", "role"],
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999),
)
CLASSES = Counter("imago_predicted_class_total", "Images by the class named", ["student", "role", "class"])
COMPARED = Counter(
    "imago_student_compared_total",
    "Images of which two were asked",
    ["student", "against", "reference"],
)
DISAGREED = Counter(
    "imago_student_disagreements_total",
    "Images of which two named different classes",
    ["student", "against", "reference"],
)
DROPPED = Counter("imago_shadow_dropped_total", "Copied images that were not compared", ["to", "reason"])


class _Series:
    """The metrics of one student in one role, looked up once."""

    total = 0

    def __init__(self, student: StudentSession, role: str) -> None:
        self._labels = student.version, role
        self.names = student.classes
        self._model = MODEL_SECONDS.labels(*self._labels)
        self._confidence = CONFIDENCE.labels(*self._labels)
        self._classes: dict[int, Counter] = {}
        self._rest: Counter | None = None
        self._answers = (
            (PREDICTIONS.labels(student.version), REQUEST_SECONDS.labels(student.version))
            if role == ANSWER
            else None
        )

    def answered(self, images: int, request_s: Sequence[float]) -> None:
        """Count what clients were sent."""
        assert self._answers is not None  # its role is to answer
        predictions, seconds = self._answers
        predictions.inc(images)
        seconds.observe_many(request_s)

    def count(self, named: Sequence[int], confidence: Sequence[float], model_s: Sequence[float]) -> None:
        """Count the class of each image, how sure of it the student was, and the seconds of each call."""
        self._model.observe_many(model_s)
        self._confidence.observe_many(confidence)
        for index, images in Tally(named).items():
            (self._classes.get(index) or self._class(index)).inc(images)

    def _class(self, index: int) -> Counter:
        if index < MOST_CLASSES and _Series.total < _MOST_SERIES:
            _Series.total += 1
            found = self._classes[index] = CLASSES.labels(*self._labels, self.names[index])
            return found
        if self._rest is None:
            self._rest = CLASSES.labels(*self._labels, "")
        return self._rest


_series: dict[tuple[str, str], _Series] = {}


def _series_of(student: StudentSession, role: str) -> _Series:
    key = student.version, role
    found = _series.get(key)
    # A version that was deleted may come again, with other classes.
    if found is None or (found.names is not student.classes and found.names != student.classes):
        found = _series[key] = _Series(student, role)
    return found


def started() -> None:
    """Note that this process begins to count."""
    STARTED.set(time.time())


class Counting:
    """Counts what calls have answered, many calls in one step; all of it on the event loop.

    A step of a counter that processes share costs a microsecond, and a single request would take twenty.
    """

    def __init__(self) -> None:
        self._calls: list[Answered] = []
        self._images = 0
        self._timer: asyncio.TimerHandle | None = None

    def observe(self, answered: Answered) -> None:
        """Count a call, a little later."""
        self._calls.append(answered)
        self._images += len(answered.found.order)
        if self._images >= _AT_ONCE_IMAGES:
            self._count()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATER_S, self.flush)

    def flush(self) -> None:
        """Count now what waits to be counted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count()

    def _count(self) -> None:
        calls, self._calls, self._images = self._calls, [], 0
        students = dict.fromkeys(answered.batch[0].student for answered in calls)
        for student in students:
            own = [answered for answered in calls if answered.batch[0].student is student]
            _count(student, own if len(students) > 1 else calls)


def _count(student: StudentSession, calls: Sequence[Answered]) -> None:
    """Count calls of one student."""
    series = _series_of(student, ANSWER)
    named: list[int] = []
    confidence: list[float] = []
    queue_s: list[float] = []
    decode_s: list[float] = []
    request_s: list[float] = []
    for batch, found, encode_s in calls:
        began = found.began
        ended = began + found.model_s + encode_s
        named += [ranks[0] for ranks in found.order]
        confidence += [ranked[0] for ranked in found.ranked]
        queue_s += [began - asked.queued for asked in batch]
        decode_s += [asked.decode_s for asked in batch]
        request_s += [ended - asked.began for asked in batch]
    BATCH.observe_many([len(answered.found.order) for answered in calls])
    QUEUE_SECONDS.observe_many(queue_s)
    DECODE_SECONDS.observe_many(decode_s)
    ENCODE_SECONDS.observe_many([answered.encode_s for answered in calls])
    series.answered(len(named), request_s)
    series.count(named, confidence, [answered.found.model_s for answered in calls])


def shadowed(
    student: StudentSession, named: Sequence[int], confidence: Sequence[float], model_s: float
) -> None:
    """Count a call whose answers nobody sees.

    Args:
        student: who was asked.
        named: the class of each image.
        confidence: its probability.
        model_s: seconds of the call.
    """
    _series_of(student, SHADOW).count(named, confidence, [model_s])


def compared(version: str, against: str, reference: str, *, images: int, disagreed: int) -> None:
    """Count images of which two were asked.

    Args:
        version: the student.
        against: `LIVE` or `TEACHER`.
        reference: version of the student that was live, or the teacher's name.
        images: how many.
        disagreed: of how many of them the two named different classes.
    """
    labels = version, against, reference
    COMPARED.labels(*labels).inc(images)
    DISAGREED.labels(*labels).inc(disagreed)
