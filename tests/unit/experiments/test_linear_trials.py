"""The linear example: fitted by our losses, checked against what a minimum must satisfy."""

import numpy as np
import torch

from experiments import linear_trials
from experiments.experiment import Form
from shared.distillation.losses import hard_label_loss


def test_a_fit_is_where_the_penalised_gradient_vanishes():
    rng = np.random.default_rng(3)
    inputs = torch.from_numpy(np.c_[np.ones(40), rng.standard_normal((40, 2))])
    labels = torch.from_numpy(rng.integers(0, 2, 40))
    weights = linear_trials.fit(inputs, lambda logits: hard_label_loss(logits, labels))
    # By hand: the mean of (p - y) x, plus the penalty's share of all weights but the bias.
    residual = torch.sigmoid(inputs @ weights) - labels
    gradient = (residual[:, None] * inputs).mean(0)
    gradient[1:] += linear_trials.RIDGE * weights[1:] / 40
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_teacher_of_a_better_class_is_near_the_best_there_is(monkeypatch):
    """With 5,000 examples the sine model comes within 0.01 nats of the entropy of the labels."""
    x, y = linear_trials.draw(np.random.default_rng(0), 10_000)
    found = linear_trials.trial(5_000, x, y)
    p = 0.4 * np.sin(x[5_000:]) + 0.5
    best = float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())
    assert abs(found["teacher.test"] - best) < 0.03
    assert found["student.test"] > found["teacher.test"] + 0.05


def test_distilled_lies_below_hard_with_few_examples(monkeypatch):
    monkeypatch.setattr(linear_trials, "SIZES", (10, 20))
    monkeypatch.setattr(linear_trials, "TRIALS", 6)
    monkeypatch.setattr(linear_trials, "EXAMPLES", 2_000)
    computed = linear_trials.run(Form())
    assert computed["examples"] == (10.0, 20.0)
    for soft, hard in zip(computed["distilled.test"], computed["student.test"], strict=True):
        assert soft < hard
