"""What the gateway counts beside its requests: predictions by student, their cost, and their batches."""

from prometheus_client import Counter, Histogram

_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

PREDICTIONS = Counter("imago_predictions_total", "Images answered", ["student"])
BATCH = Histogram(
    "imago_prediction_batch_images", "Images answered by one call", buckets=(1, 2, 4, 8, 16, 32, 64)
)
DECODE_SECONDS = Histogram("imago_prediction_decode_seconds", "Decoding of one request", buckets=_SECONDS)
MODEL_SECONDS = Histogram("imago_prediction_model_seconds", "The student's time for a call", buckets=_SECONDS)


def observe(student: str, images: int, decode_s: float, model_s: float) -> None:
    """Count one answered request for predictions."""
    PREDICTIONS.labels(student).inc(images)
    BATCH.observe(images)
    DECODE_SECONDS.observe(decode_s)
    MODEL_SECONDS.observe(model_s)
