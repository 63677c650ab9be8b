"""The gradient half of `logit-matching`."""

from experiments.experiment import Form
from experiments.gradients import SCALES, TEMPERATURES, run


def test_the_gradients_come_together_as_one_over_t():
    computed = run(Form())
    assert computed["temperature"] == TEMPERATURES
    for name in SCALES:
        found = computed[name]
        assert found[0] > 0.5
        assert list(found) == sorted(found, reverse=True)
        # The next term of the expansion is of order 1/T: twice the temperature, half the difference.
        assert abs(found[-1] / found[-2] - 0.5) < 0.02
