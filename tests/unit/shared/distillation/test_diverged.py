"""A loss that becomes NaN stops the training, says where, and spoils nothing."""

import math

import pytest
import torch

from shared.contracts.training import Budget
from shared.distillation.checkpoint import CohortCheckpoint
from shared.distillation.cohort import TrainingStopped, train_cohort
from shared.errors import Diverged
from tests.support.cohorts import ARCHITECTURE, CLASSES, PREPROCESSING, examples, nets, teachers

BUDGET = Budget(epochs=3, batch_size=20, learning_rate=1e-2)


def train(asked, data, **options):
    options = {"classes": CLASSES, "preprocessing": PREPROCESSING, "budget": BUDGET, **options}
    return train_cohort(ARCHITECTURE, asked, data, **options)


def spoilt(view: int, row: int):
    data = examples(views=3)
    data.teacher_logits[view, row] = math.nan
    return data


def newest(folder):
    """Return the newest checkpoint, whatever training it belongs to."""
    manifest = max(folder.glob("*.json")).read_text()
    training = manifest.split('"training":"')[1].split('"')[0]
    return CohortCheckpoint(folder, training).newest()


def test_the_error_names_the_step_of_the_epoch():
    """A single row is bad: the step is the one that shows it."""
    from shared.models.seeds import generator_of

    order = torch.randperm(200, generator=generator_of("batch order", 0, 1)).tolist()
    with pytest.raises(Diverged) as caught:
        train(nets(0), spoilt(1, 17))
    step = order.index(17) // BUDGET.batch_size + 1
    assert (caught.value.epoch, caught.value.step) == (2, step)
    assert f"step {step} of epoch 2" in str(caught.value)


@pytest.mark.parametrize("together", [False, True])
def test_the_last_good_checkpoint_is_kept(together, tmp_path):
    with pytest.raises(Diverged):
        train(nets(0), spoilt(1, 17), checkpoints=tmp_path, checkpoint_every_s=0.0, together=together)
    state, tensors = newest(tmp_path)
    assert (state.epoch, state.step) == (1, 0)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    """The loss may be finite and the step that follows from it not: here the rate is far too high."""
    budget = Budget(epochs=3, batch_size=20, learning_rate=100.0, optimizer="sgd", weight_decay=1.0)
    with pytest.raises(Diverged):
        train(teachers(0), examples(views=None), budget=budget, checkpoints=tmp_path, checkpoint_every_s=0.0)
    assert not list(tmp_path.glob("*.json")) or all(
        tensor.isfinite().all() for tensor in newest(tmp_path)[1].values()
    )


def test_a_stop_does_not_write_weights_that_are_not_finite(tmp_path, monkeypatch):
    from shared.distillation.stack import NetStack

    stacks = []
    original = NetStack.step

    def step(stack, batch, **where):
        stacks.append(stack)
        original(stack, batch, **where)
        next(iter(stack.weights.values())).data[0, 0, 0] = math.inf

    monkeypatch.setattr(NetStack, "step", step)
    with pytest.raises(Diverged):
        train(
            teachers(0),
            examples(views=None),
            budget=Budget(epochs=1, batch_size=200),
            checkpoints=tmp_path,
            checkpoint_every_s=0.0,
        )
    assert stacks
    assert not list(tmp_path.glob("*"))


def test_training_that_stops_before_the_bad_step_can_be_read(tmp_path):
    told = []
    with pytest.raises(TrainingStopped):
        train(
            nets(0),
            spoilt(1, 17),
            checkpoints=tmp_path,
            on_epoch=lambda done, _all, _figures: told.append(done),
            should_stop=lambda: bool(told),
        )
    assert newest(tmp_path)[0].epoch == 1
