import math

import pytest
import torch

from shared.distillation.evaluation import evaluate, in_short

CLASSES = ("ant", "bee", "cat")


def of(probabilities: list[list[float]], labels: list[int]):
    return evaluate(torch.tensor(probabilities).log(), torch.tensor(labels), CLASSES)


def test_errors_are_counted_and_put_into_the_confusion_by_true_class_and_predicted():
    found = of([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], [0, 1, 1, 2])
    assert (found.examples, found.errors, found.accuracy) == (4, 1, 0.75)
    assert found.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    assert found.errors_by_class == {"ant": 0, "bee": 1, "cat": 0}


def test_nll_and_brier_are_the_formulas_by_hand():
    found = of([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [0, 1])
    assert found.nll == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2, rel=1e-6)
    brier = ((0.5**2 + 2 * 0.25**2) + (0.1**2 + 0.9**2 + 0.8**2)) / 2
    assert found.brier == pytest.approx(brier, rel=1e-6)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy_weighted_by_bin():
    """Two answers at 0.9 of which one is right, two at 0.5 both right."""
    found = of([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]], [0, 1, 0, 1])
    assert found.ece == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1.0 - 0.5), rel=1e-6)
    assert len(found.reliability) == 15
    assert sum(one.count for one in found.reliability) == 4
    filled = [one for one in found.reliability if one.count]
    assert [(one.count, one.accuracy) for one in filled] == [(2, 1.0), (2, 0.5)]
    assert all(one.lower <= one.mean_confidence <= one.upper for one in filled)


def test_full_confidence_falls_into_the_last_bin():
    logits = torch.tensor([[1e4, 0.0, 0.0]])
    assert evaluate(logits, torch.tensor([0]), CLASSES).reliability[-1].count == 1


def test_adding_a_constant_to_a_row_changes_nothing():
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(50) % 3
    shifted = evaluate(logits + 3, labels, CLASSES)
    assert shifted.nll == pytest.approx(evaluate(logits, labels, CLASSES).nll)


def test_no_images_and_logits_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        evaluate(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), CLASSES)
    with pytest.raises(ValueError, match="not finite"):
        of([[0.0, 0.5, 0.5]], [0])


def test_figures_in_short_are_those_of_the_evaluation():
    one = evaluate(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]), ("a", "b"))
    short = in_short(one, "taught", 7, agreement=0.5)
    assert (short.arm, short.seed, short.agreement, short.validation_accuracy) == ("taught", 7, 0.5, None)
    for name in ("errors", "accuracy", "nll", "brier", "ece", "errors_by_class"):
        assert getattr(short, name) == getattr(one, name)
