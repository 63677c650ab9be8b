"""Training that is cut goes on as if it had never been: bit for bit, wherever the cut is."""

import pytest
import torch

from shared.contracts.training import Budget
from shared.distillation.cohort import TrainingStopped, train_cohort
from tests.support.cohorts import (
    ARCHITECTURE,
    BUDGET,
    CLASSES,
    PREPROCESSING,
    REGULARISED,
    examples,
    nets,
    teachers,
)


class StopAfter:
    """Says stop when it has been asked so often."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def train(asked, data, **options):
    options = {"classes": CLASSES, "preprocessing": PREPROCESSING, "budget": BUDGET, **options}
    return train_cohort(ARCHITECTURE, asked, data, **options)


def assert_identical(left, right):
    for one, other in zip(left, right, strict=True):
        assert (one.arm, one.seed, one.best_epoch) == (other.arm, other.seed, other.best_epoch)
        assert one.validation_accuracy == other.validation_accuracy
        assert [p.loss for p in one.curve.points] == [p.loss for p in other.curve.points]
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


ROWS = 200
COHORTS = {
    "teachers with dropout, max-norm and jitter": (teachers(0, 1), None, REGULARISED, BUDGET),
    "students on two views": (nets(0), 2, None, BUDGET),
    "sgd": (teachers(0), None, REGULARISED, Budget(epochs=4, optimizer="sgd", learning_rate=0.05)),
    # 200 steps an epoch: the cuts fall into the middle of one.
    "single images": (teachers(0), None, REGULARISED, Budget(epochs=2, batch_size=1)),
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", COHORTS)
def test_a_run_cut_at_every_chance_ends_as_the_undisturbed_one(name, together, tmp_path):
    asked, views, rule, budget = COHORTS[name]
    data = examples(views=views)
    options = {"regularisation": rule, "budget": budget, "together": together}
    undisturbed = train(asked, data, **options)
    cuts = 0
    while True:
        try:
            resumed = train(asked, data, checkpoints=tmp_path, should_stop=StopAfter(1), **options)
            break
        except TrainingStopped:
            cuts += 1
    assert cuts >= budget.epochs - 1
    assert_identical(undisturbed, resumed)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_killed_after_a_checkpoint_ends_as_the_undisturbed_one(epoch, tmp_path):
    """Here nothing is written at the cut itself: the process is gone."""

    class Killed(Exception):
        pass

    def killed_at(done, _all, _metrics):
        if done == epoch:
            raise Killed

    data, asked = examples(views=None), teachers(0, 1)
    options = {"regularisation": REGULARISED, "checkpoints": tmp_path, "checkpoint_every_s": 0.0}
    with pytest.raises(Killed):
        train(asked, data, on_epoch=killed_at, **options)
    told = []
    resumed = train(asked, data, on_epoch=lambda done, _all, _m: told.append(done), **options)
    assert told[0] == epoch, "the epoch whose checkpoint was not written is done again, and no other"
    assert_identical(train(asked, data, regularisation=REGULARISED), resumed)


def test_nets_trained_in_turn_go_on_at_once(tmp_path):
    """A worker with a GPU may take over from one without."""
    data, asked = examples(), nets(0, 1)
    with pytest.raises(TrainingStopped):
        train(asked, data, checkpoints=tmp_path, should_stop=StopAfter(2), together=False)
    told = []
    resumed = train(
        asked, data, checkpoints=tmp_path, together=True, on_epoch=lambda done, _all, _m: told.append(done)
    )
    assert told[0] == 3
    for one, other in zip(train(asked, data), resumed, strict=True):
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_not_done_again(tmp_path):
    data, asked = examples(), nets(0)
    options = {"checkpoints": tmp_path, "checkpoint_every_s": 0.0}
    once = train(asked, data, **options)
    told = []
    again = train(asked, data, on_epoch=lambda *figures: told.append(figures), **options)
    assert not told
    assert_identical(once, again)


def test_the_checkpoint_of_another_training_is_left_alone(tmp_path):
    data = examples()
    with pytest.raises(TrainingStopped):
        train(nets(0), data, checkpoints=tmp_path, should_stop=StopAfter(1))
    assert_identical(train(nets(1), data), train(nets(1), data, checkpoints=tmp_path))


def test_without_a_folder_for_checkpoints_a_stop_only_stops():
    with pytest.raises(TrainingStopped):
        train(nets(0), examples(), should_stop=lambda: True)
