"""What answers are worth as soft targets, on made ones at both sides of each bound."""

import numpy as np
import pytest

from shared.distillation import target_checks as checks


def with_largest(largest: float, rows: int = 60, classes: int = 10, *, rest: str = "flat") -> np.ndarray:
    """Return logits whose largest probability is this, the rest flat or nearly all with one other class."""
    shares = np.full((rows, classes), 1.0)
    if rest == "peaked":
        shares[:, 1] = 200.0
    shares[:, 0] = 0
    shares *= (1 - largest) / shares.sum(1, keepdims=True)
    shares[:, 0] = largest
    return np.log(shares).astype(np.float64)


def margins(rows: int = 200, classes: int = 10, *, margin: float = 12.0) -> np.ndarray:
    """Return logits of a teacher that is sure, and knows which classes are near."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (rows, classes))
    logits[:, 0] += margin
    return logits


@pytest.mark.parametrize(("classes", "largest"), [(2, 0.9), (10, 0.58), (100, 0.508)])
def test_the_rule_asks_for_more_certainty_of_fewer_classes(classes: int, largest: float):
    assert checks.worth_teaching(classes) == pytest.approx(largest)


def test_at_the_suggested_temperature_the_median_largest_probability_is_that_of_the_rule():
    logits = margins()
    temperature = checks.suggested_temperature(logits)
    softened = np.exp(logits / temperature)
    largest = np.median((softened / softened.sum(1, keepdims=True)).max(1))
    assert largest == pytest.approx(checks.worth_teaching(10), abs=0.02)
    assert 2 < temperature < 10


def test_twice_the_logits_want_twice_the_temperature():
    once, twice = (checks.suggested_temperature(scale * margins()) for scale in (1, 2))
    assert twice == pytest.approx(2 * once, rel=0.06)  # two digits


def test_targets_that_are_soft_already_want_no_temperature_and_hopeless_ones_the_highest():
    assert checks.suggested_temperature(with_largest(0.5)) == 1.0
    assert checks.suggested_temperature(1e6 * margins()) == checks.HIGHEST_T


def test_the_entropy_is_that_of_the_formula():
    expected = -(0.9 * np.log(0.9) + 9 * (0.1 / 9) * np.log(0.1 / 9))
    assert checks.median_entropy(with_largest(0.9)) == pytest.approx(expected)


@pytest.mark.parametrize(("largest", "outcome"), [(0.9915, "ok"), (0.995, "warning")])
def test_targets_that_say_little_more_than_labels_are_over_confident(largest: float, outcome: str):
    """Two classes share the rest: 0.0498 nats lie at a largest probability of 0.9912."""
    found = checks.check_confidence(with_largest(largest, rest="peaked"))
    assert found.outcome == outcome, found.detail
    assert "T = " in found.advice


def test_a_temperature_that_softens_the_targets_is_no_reason_to_warn():
    logits = margins()
    assert checks.check_confidence(logits).outcome == "warning"
    found = checks.check_confidence(logits, temperature=checks.suggested_temperature(logits))
    assert (found.outcome, found.advice) == ("ok", "")


@pytest.mark.parametrize("rest", ["flat", "peaked"])
@pytest.mark.parametrize("largest", [0.45, 0.91, 0.999])
def test_label_smoothing_is_a_plateau_with_a_flat_rest(largest: float, rest: str):
    found = checks.check_smoothing(with_largest(largest, rest=rest))
    expected = "warning" if (largest, rest) == (0.91, "flat") else "ok"
    assert found.outcome == expected, found.detail
    assert ("1906.02629" in found.advice) == (expected == "warning")


@pytest.mark.parametrize(("others", "outcome"), [(0.55, "ok"), (0.35, "warning")])
def test_a_rest_that_leans_to_one_class_is_knowledge(others: float, outcome: str):
    """One class has this share of the 0.1 that is left, eight the rest: 0.74 and 0.91 of full entropy."""
    shares = np.full((60, 10), 0.1 * (1 - others) / 8)
    shares[:, 0], shares[:, 1] = 0.9, 0.1 * others
    assert checks.check_smoothing(np.log(shares)).outcome == outcome


def test_of_two_classes_smoothing_cannot_be_told():
    assert checks.check_smoothing(with_largest(0.9, classes=2)).outcome == "skipped"
