"""What a student and its teacher are worth together, by how many images the teacher is asked about."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from shared.contracts.cascade import CascadeCurve, CascadePoint

SHARES: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Of the images, for each of which the curve has a point."""


def cascade_curve(
    validation: Float32[np.ndarray, "held_out classes"],
    test: Float32[np.ndarray, "rows classes"],
    labels: Int64[np.ndarray, " rows"],
    teacher_right: Bool[np.ndarray, " rows"],
    shares: Sequence[float] = SHARES,
) -> CascadeCurve:
    """Return accuracy against share escalated. Thresholds are chosen without a look at the test split.

    Args:
        validation: the student's probabilities at T = 1 on the validation split, as it is served.
        test: the same on the test split.
        labels: of the test split.
        teacher_right: whether the teacher names the true class of a test image.
        shares: of the validation images to escalate, rising, a point each.
    """
    sure, confidences = np.sort(validation.max(axis=1)), test.max(axis=1)
    right = test.argmax(axis=1) == labels
    points = []
    for share in shares:
        threshold = threshold_for(sure, share)
        escalated = confidences < threshold
        points.append(
            CascadePoint(
                chosen_share=share,
                threshold=threshold,
                share=float(escalated.mean()),
                accuracy=float(np.where(escalated, teacher_right, right).mean()),
            )
        )
    return CascadeCurve(
        validation_images=len(validation),
        test_images=len(test),
        student_accuracy=float(right.mean()),
        teacher_accuracy=float(teacher_right.mean()),
        points=tuple(points),
    )


def threshold_for(confidences: Float32[np.ndarray, " rows"], share: float) -> float:
    """Return the confidence below which lies a share of the images, or fewer where several are equally sure.

    Args:
        confidences: rising.
        share: from 0, for which nothing is below, to 1.
    """
    count = round(share * len(confidences))
    if count == 0:
        return 0.0
    # Not above 1: whoever is sure to the last digit is not asked about.
    return float(confidences[count]) if count < len(confidences) else 1.0
