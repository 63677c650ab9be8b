import numpy as np
import pytest
from scipy import stats

from shared.contracts.evaluation import Verdict
from shared.distillation.succession import compare_pair


def answers(images: int, *, both: int, only_new: int, only_old: int):
    """Return what new and old get right: so many both, so many one alone, the rest neither."""
    new, old = np.zeros(images, bool), np.zeros(images, bool)
    new[: both + only_new] = True
    old[:both] = True
    old[both + only_new : both + only_new + only_old] = True
    return new, old


def test_gain_and_counts_are_those_of_the_images():
    found = compare_pair(*answers(100, both=80, only_new=9, only_old=4))
    assert (found.images, found.only_new, found.only_old) == (100, 9, 4)
    assert (found.new_accuracy, found.old_accuracy) == (0.89, 0.84)
    assert found.gain == pytest.approx(0.05)


def test_the_interval_is_the_adjusted_wald_interval_by_hand():
    """Bonett and Price (2012): 1 is added to both counts of disagreement, 2 to the images."""
    found = compare_pair(*answers(200, both=150, only_new=20, only_old=8))
    new, old = 21 / 202, 9 / 202
    half = 1.959964 * ((new + old - (new - old) ** 2) / 202) ** 0.5
    assert found.interval == pytest.approx((new - old - half, new - old + half), abs=1e-6)


def test_p_is_that_of_an_exact_binomial_test_over_the_disagreements():
    found = compare_pair(*answers(1000, both=900, only_new=14, only_old=5))
    assert found.p_value == pytest.approx(stats.binomtest(5, 19).pvalue)
    assert compare_pair(*answers(50, both=50, only_new=0, only_old=0)).p_value == 1.0


@pytest.mark.parametrize(
    ("only_new", "only_old", "verdict"),
    [
        (60, 20, Verdict.BEATS),
        (20, 60, Verdict.DOES_NOT_BEAT),
        (25, 20, Verdict.INCONCLUSIVE),
        (0, 0, Verdict.DOES_NOT_BEAT),
    ],
)
def test_the_verdict_follows_from_the_interval(only_new, only_old, verdict):
    assert compare_pair(*answers(5000, both=4000, only_new=only_new, only_old=only_old)).verdict is verdict


def test_few_images_that_agree_leave_it_open():
    assert compare_pair(*answers(50, both=50, only_new=0, only_old=0)).verdict is Verdict.INCONCLUSIVE


def test_equal_students_are_seldom_thought_better():
    """At most the 2.5 % that a two-sided interval of 95 % leaves above, and some luck of 400 trials."""
    rng = np.random.default_rng(5)
    beats = 0
    for _ in range(400):
        hard = rng.random(1000) < 0.1
        new, old = (~hard | (rng.random(1000) < 0.5) for _ in range(2))
        beats += compare_pair(new, old).verdict is Verdict.BEATS
    assert beats <= 20


def test_no_answers_are_no_comparison():
    with pytest.raises(ValueError, match="compared"):
        compare_pair(np.ones(0, bool), np.ones(0, bool))
