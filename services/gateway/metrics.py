"""What the gateway counts beside its requests: predictions by student, their cost, and their batches."""

from prometheus_client import Counter

from services.gateway.hot.answered import Answered
from shared.adapters.web.metrics import BatchHistogram

_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

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
    "imago_prediction_model_seconds", "The student's time for a call", buckets=_SECONDS
)
ENCODE_SECONDS = BatchHistogram(
    "imago_prediction_encode_seconds", "Writing of the answers of one call", buckets=_SECONDS
)


def observe(answered: Answered) -> None:
    """Count the requests that one call has answered."""
    batch, found, encode_s = answered
    images = len(found.order)
    PREDICTIONS.labels(batch[0].student.version).inc(images)
    BATCH.observe(images)
    QUEUE_SECONDS.observe_many([found.began - asked.queued for asked in batch])
    DECODE_SECONDS.observe_many([asked.decode_s for asked in batch])
    MODEL_SECONDS.observe(found.model_s)
    ENCODE_SECONDS.observe(encode_s)
