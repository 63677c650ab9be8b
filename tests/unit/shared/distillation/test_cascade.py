"""The curve of student and teacher together, against counts made by hand."""

import numpy as np
import pytest
from pydantic import ValidationError

from shared.contracts.cascade import CascadeCurve, CascadePoint
from shared.distillation.cascade import SHARES, cascade_curve, threshold_for


def sure(*confidences):
    """Probabilities of two classes; the student always names class 0."""
    first = np.array(confidences, np.float32)
    return np.stack([first, 1 - first], axis=1)


VALIDATION = sure(0.6, 0.95, 0.7, 0.9, 0.8)
TEST = sure(0.65, 0.75, 0.85, 0.99)
LABELS = np.array([1, 0, 1, 0])
"""So the student is right on the second and the fourth."""
TEACHER_RIGHT = np.array([True, True, False, True])


def test_the_curve_has_the_shares_and_accuracies_that_one_counts_by_hand():
    curve = cascade_curve(VALIDATION, TEST, LABELS, TEACHER_RIGHT, (0.0, 0.2, 0.6, 1.0))

    assert (curve.validation_images, curve.test_images) == (5, 4)
    assert (curve.student_accuracy, curve.teacher_accuracy) == (0.5, 0.75)
    found = [(one.chosen_share, round(one.threshold, 4), one.share, one.accuracy) for one in curve.points]
    assert found == [
        (0.0, 0.0, 0.0, 0.5),
        # The second least sure of five says 0.7: of the test images only the first is below, and mended.
        (0.2, 0.7, 0.25, 0.75),
        # Below 0.9 lie three; the teacher mends the first, leaves the second right and the third wrong.
        (0.6, 0.9, 0.75, 0.75),
        (1.0, 1.0, 1.0, 0.75),
    ]


def test_each_threshold_escalates_the_chosen_share_of_the_validation_images():
    confidences = np.sort(np.random.default_rng(0).uniform(0.1, 0.999, 1000).astype(np.float32))
    for share in SHARES:
        assert (confidences < threshold_for(confidences, share)).mean() == pytest.approx(share)


def test_the_threshold_is_compared_without_rounding():
    """A student answers float32; the image at the threshold itself is not below it."""
    confidences = np.array([0.1, 0.1 + 1e-8, 0.3], np.float32)
    assert float(confidences[1]) == threshold_for(confidences, 1 / 3)
    assert (confidences < threshold_for(confidences, 2 / 3)).sum() == 2


def test_images_of_which_the_student_is_sure_to_the_last_digit_are_not_escalated():
    curve = cascade_curve(sure(0.5, 1.0, 1.0, 1.0), sure(1.0, 1.0), np.array([0, 1]), np.array([True, True]))
    assert [one.share for one in curve.points] == [0.0] * len(SHARES)
    assert {one.accuracy for one in curve.points} == {0.5}
    assert max(one.threshold for one in curve.points) == 1.0


def test_a_curve_whose_points_do_not_rise_is_refused():
    point = CascadePoint(chosen_share=0.1, threshold=0.5, share=0.1, accuracy=0.9)
    lower = CascadePoint(chosen_share=0.2, threshold=0.4, share=0.1, accuracy=0.9)
    facts = {"validation_images": 1, "test_images": 1, "student_accuracy": 0.5, "teacher_accuracy": 0.5}
    for points in ((), (point, point), (point, lower)):
        with pytest.raises(ValidationError):
            CascadeCurve(points=points, **facts)
