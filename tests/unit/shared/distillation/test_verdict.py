import numpy as np
import pytest
from scipy import stats

from shared.contracts.evaluation import Verdict
from shared.distillation.verdict import compare, variance_of_mean


def verdict_of(taught: np.ndarray, untaught: np.ndarray, **options):
    seeds = range(len(taught))
    return compare(taught, untaught, seeds=list(seeds), agreements=[0.9] * len(taught), **options)


def answers(rng: np.random.Generator, *, seeds: int, rows: int, gain: float = 0.0, seed_sd: float = 0.3):
    """Nets that share what is hard: images differ in difficulty, arms and seeds in what they make of it."""
    difficulty = rng.normal(size=rows) * 0.9
    ability = 1.7 + 0.3 * seed_sd * rng.normal(size=(2, seeds, 1)) + np.array([gain, 0.0])[:, None, None]
    luck = rng.normal(size=(2, seeds, rows)) * 0.3 + rng.normal(size=(2, 1, rows)) * 0.2
    return ability + difficulty + luck > 0


def test_a_clear_gain_beats():
    rng = np.random.default_rng(0)
    found = verdict_of(*answers(rng, seeds=3, rows=4000, gain=0.6, seed_sd=0.1))
    assert found.verdict is Verdict.BEATS
    assert found.interval[0] > 0
    assert found.p_value < 0.05


def test_a_clear_loss_does_not_beat():
    rng = np.random.default_rng(0)
    found = verdict_of(*answers(rng, seeds=3, rows=4000, gain=-0.6, seed_sd=0.1))
    assert found.verdict is Verdict.DOES_NOT_BEAT
    assert found.interval[1] < 0


def test_a_gain_of_one_seed_alone_is_inconclusive():
    """Over images alone, 60 of 3,000 pairs better would pass for certain."""
    untaught = np.zeros((3, 1000), dtype=bool)
    taught = untaught.copy()
    taught[0, :60] = True
    assert verdict_of(taught, untaught).verdict is Verdict.INCONCLUSIVE


def test_an_interval_below_the_margin_does_not_beat_and_a_smaller_margin_leaves_it_open():
    rng = np.random.default_rng(3)
    taught, untaught = answers(rng, seeds=5, rows=4000, seed_sd=0.1)
    low, high = verdict_of(taught, untaught).interval
    assert low < 0 < high
    assert verdict_of(taught, untaught, margin=high * 1.01).verdict is Verdict.DOES_NOT_BEAT
    assert verdict_of(taught, untaught, margin=high * 0.99).verdict is Verdict.INCONCLUSIVE


def test_gain_and_seeds_are_plain_shares():
    taught = np.array([[1, 1, 0, 0], [1, 0, 1, 1]], dtype=bool)
    untaught = np.array([[1, 0, 0, 0], [0, 0, 1, 1]], dtype=bool)
    found = compare(taught, untaught, seeds=[7, 9], agreements=[0.5, 0.75])
    assert found.gain == pytest.approx(0.25)
    assert [(s.seed, s.taught_accuracy, s.untaught_accuracy, s.taught_agreement) for s in found.seeds] == [
        (7, 0.5, 0.25, 0.5),
        (9, 0.75, 0.5, 0.75),
    ]


def test_where_seeds_differ_and_images_do_not_it_is_the_t_test_over_seeds():
    """With the images' part gone the interval is the textbook one on the seeds' mean gains."""
    rng = np.random.default_rng(1)
    difference = rng.normal(size=(4, 1)) + 0.01 * rng.permuted(
        np.tile(np.linspace(-1, 1, 50), (4, 1)), axis=1
    )
    variance, freedom = variance_of_mean(difference)
    assert variance**0.5 == pytest.approx(stats.sem(difference.mean(1)), rel=1e-3)
    assert freedom == pytest.approx(3, rel=0.01)


def test_the_variance_is_that_of_the_model_it_states():
    """Estimated over many drawn tables it has the variance of their means as its own mean."""
    rng = np.random.default_rng(2)
    tables = (
        rng.normal(size=(4000, 4, 1)) * 0.5
        + rng.normal(size=(4000, 1, 30))
        + rng.normal(size=(4000, 4, 30)) * 2
    )
    estimated = np.mean([variance_of_mean(table)[0] for table in tables])
    assert estimated == pytest.approx(tables.mean((1, 2)).var(), rel=0.1)


@pytest.mark.parametrize(("seeds", "seed_sd"), [(2, 0.0), (3, 0.0), (3, 1.0), (5, 1.0)])
def test_without_an_effect_beats_is_rare(seeds, seed_sd):
    rng = np.random.default_rng(10 * seeds + int(seed_sd))
    draws = [verdict_of(*answers(rng, seeds=seeds, rows=400, seed_sd=seed_sd)).verdict for _ in range(800)]
    # 2.5 % is promised; 800 draws scatter by 0.55 % around it.
    assert draws.count(Verdict.BEATS) / len(draws) <= 0.025 + 3 * 0.0055


def test_no_difference_anywhere_excludes_only_what_so_many_images_can_exclude():
    same = np.ones((3, 1000), dtype=bool)
    few = verdict_of(same, same)
    assert (few.gain, few.p_value, few.verdict) == (0.0, 1.0, Verdict.INCONCLUSIVE)
    assert few.interval == pytest.approx((-0.003, 0.003), abs=1e-5)
    many = np.ones((3, 10_000), dtype=bool)
    assert verdict_of(many, many).verdict is Verdict.DOES_NOT_BEAT


def test_only_the_taught_net_right_everywhere_beats():
    right = np.ones((2, 100), dtype=bool)
    found = verdict_of(right, ~right)
    assert found.verdict is Verdict.BEATS
    assert found.interval[1] == 1.0
    assert 0 < found.p_value < 1e-6


def test_seeds_that_agree_by_chance_do_not_pass_for_certainty():
    """Equal gains leave no spread between seeds, but the images still scatter."""
    taught, untaught = np.zeros((2, 20), dtype=bool), np.zeros((2, 20), dtype=bool)
    taught[0, 0] = taught[1, 1] = True
    found = verdict_of(taught, untaught)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.interval[0] < 0


@pytest.mark.parametrize("shape", [(1, 100), (3, 1)])
def test_one_seed_or_one_image_is_refused(shape):
    with pytest.raises(ValueError, match="two seeds and two images"):
        verdict_of(np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool))
