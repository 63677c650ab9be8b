import math
from dataclasses import replace

import pytest
import torch

from shared.contracts.training import Budget, Objective, Regularisation
from shared.distillation.cohort import Net, train_cohort
from shared.distillation.examples import Examples
from shared.distillation.inference import net_logits
from shared.errors import Diverged
from shared.models.network import Network
from tests.support.cohorts import (
    ARCHITECTURE,
    BUDGET,
    CLASSES,
    PREPROCESSING,
    REGULARISED,
    TAUGHT,
    examples,
    nets,
    teachers,
)

NETWORK = Network(ARCHITECTURE, PREPROCESSING.input, CLASSES)


def train(asked, data=None, **options):
    options = {"classes": CLASSES, "preprocessing": PREPROCESSING, "budget": BUDGET, **options}
    return train_cohort(ARCHITECTURE, asked, data if data is not None else examples(), **options)


def assert_same(left, right, **tolerance):
    for name, tensor in left.tensors.items():
        torch.testing.assert_close(right.tensors[name], tensor, **tolerance)


EXACTLY = {"rtol": 0, "atol": 0}


def test_nets_learn_the_task_and_come_back_in_the_order_asked_for():
    trained = train(nets(0, 1))
    assert [(net.arm, net.seed) for net in trained] == [
        ("taught", 0),
        ("untaught", 0),
        ("taught", 1),
        ("untaught", 1),
    ]
    assert all(net.validation_accuracy > 0.8 for net in trained)


def test_a_cohort_is_the_same_on_every_run():
    for once, again in zip(train(nets(0, 1)), train(nets(0, 1)), strict=True):
        assert_same(once, again, **EXACTLY)


@pytest.mark.parametrize("asked", [nets(0, 1), teachers(0, 1, 2)])
def test_a_net_becomes_the_same_alone_one_after_another_and_at_once(asked):
    rule = None if asked[0].arm == "taught" else REGULARISED
    data = examples(views=1 if rule is None else None)
    in_turn = train(asked, data, regularisation=rule, together=False)
    at_once = train(asked, data, regularisation=rule, together=True)
    for net, turn, once in zip(asked, in_turn, at_once, strict=True):
        (alone,) = train([net], data, regularisation=rule)
        assert_same(alone, turn, **EXACTLY)
        assert_same(alone, once, rtol=1e-3, atol=1e-4)


def test_taught_and_untaught_of_a_seed_start_alike_and_see_the_same_batches():
    """With the same objective twins end alike: only the objective tells them apart."""
    taught, untaught = train([Net("taught", 3), Net("untaught", 3)])
    assert_same(taught, untaught, **EXACTLY)
    (other,) = train([Net("untaught", 4)])
    assert not torch.equal(other.tensors["layers.0.weight"], untaught.tensors["layers.0.weight"])


def test_a_taught_net_comes_to_say_what_the_teacher_says():
    data = examples()
    trained = {
        net.arm: net
        for net in train(nets(0), data, budget=Budget(epochs=40, batch_size=32, learning_rate=1e-2))
    }
    teacher = data.teacher_logits[0].float()

    def distance(arm: str) -> float:
        student = net_logits(NETWORK, trained[arm].tensors, data.images, PREPROCESSING)
        return float(((student / 4).softmax(-1) - (teacher / 4).softmax(-1)).abs().mean())

    assert distance("taught") < 0.6 * distance("untaught")


def test_logits_stored_at_the_objectives_temperature_teach_the_same_as_at_1():
    """What an arithmetic ensemble says at T is stored as z/T; it must not be softened twice."""
    data = examples()
    # 4 is a power of 2: nothing is rounded.
    softened = replace(data, teacher_logits=data.teacher_logits / 4, logits_temperature=4.0)
    asked = [Net("taught", 0, TAUGHT)]
    assert_same(train(asked, data)[0], train(asked, softened)[0], **EXACTLY)


def test_the_best_validation_epoch_is_kept_and_not_the_last():
    """A rate that starts far too high makes epochs differ; the kept weights must be of the best one."""
    data = examples()
    (net,) = train([Net("untaught", 0)], data, budget=Budget(epochs=6, batch_size=8, learning_rate=0.1))
    accuracies = [point.validation_accuracy for point in net.curve.points]
    assert net.validation_accuracy == max(accuracies) == accuracies[net.best_epoch - 1]
    logits = net_logits(NETWORK, net.tensors, data.validation_images, PREPROCESSING)
    right = (logits.argmax(-1) == data.validation_labels).double().mean().item()
    assert right == pytest.approx(net.validation_accuracy)
    assert len(set(accuracies)) > 1, "the task should tell epochs apart"


def test_without_a_validation_split_the_last_epoch_is_kept():
    data = examples()
    (net,) = train([Net("untaught", 0)], Examples(data.images, data.labels))
    assert (net.best_epoch, net.validation_accuracy) == (BUDGET.epochs, None)


def test_max_norm_holds_for_hidden_units_after_training():
    rule = Regularisation(max_norm=0.5)
    (net,) = train(teachers(0), examples(views=None), regularisation=rule)
    for name in ("layers.0.weight", "layers.1.weight"):
        assert net.tensors[name].norm(dim=1).max() <= 0.5 + 1e-6
    assert net.tensors["layers.2.weight"].norm(dim=1).max() > 0.5


@pytest.mark.parametrize(
    "rule",
    [Regularisation(input_dropout=0.3), Regularisation(hidden_dropout=0.3), Regularisation(jitter_px=1)],
)
def test_each_regulariser_changes_what_is_learnt(rule):
    data = examples(views=None)
    plain, regularised = (train(teachers(0), data, regularisation=r)[0] for r in (None, rule))
    assert not torch.equal(plain.tensors["layers.1.weight"], regularised.tensors["layers.1.weight"])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_both_optimisers_train_and_momentum_may_be_0(optimizer):
    budget = Budget(epochs=4, batch_size=16, optimizer=optimizer, learning_rate=0.01, momentum=0.0)
    (net,) = train(teachers(0), examples(views=None), budget=budget)
    assert net.curve.points[-1].loss < net.curve.points[0].loss


def test_the_first_step_is_the_one_by_hand():
    """One step of plain SGD on one batch of everything, from the first weights of the seed."""
    from shared.models.normalise import normalise

    data = examples(views=None)
    budget = Budget(epochs=1, batch_size=200, optimizer="sgd", learning_rate=0.1, momentum=0.0)
    (net,) = train(teachers(5), Examples(data.images, data.labels), budget=budget)
    first = NETWORK.initial(5)
    weights = {name: tensor.unsqueeze(0).requires_grad_() for name, tensor in first.items()}
    logits = NETWORK.logits(weights, normalise(data.images, PREPROCESSING).unsqueeze(0))[0]
    torch.nn.functional.cross_entropy(logits, data.labels).backward()
    for name, weight in weights.items():
        expected = (weight.detach() - 0.1 * weight.grad)[0]
        torch.testing.assert_close(net.tensors[name], expected, rtol=1e-4, atol=1e-6)


def test_the_rate_falls_along_a_cosine_to_nearly_0():
    """With plain SGD the weights move less and less; the last of many steps hardly at all."""
    from shared.distillation import cohort

    rates = []
    stack_step = cohort.NetStack.step

    class Spy(cohort.NetStack):
        def step(self, batch, **where):
            rates.append(where["learning_rate"])
            return stack_step(self, batch, **where)

    original, cohort.NetStack = cohort.NetStack, Spy
    try:
        train(teachers(0), examples(views=None), budget=Budget(epochs=2, batch_size=50, learning_rate=0.01))
    finally:
        cohort.NetStack = original
    assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_training_at_once(bad):
    data, told = examples(views=2), []
    data.teacher_logits[1, 17, 2] = bad  # the second epoch sees the second view
    with pytest.raises(Diverged) as caught:
        train(nets(0), data, on_epoch=lambda done, _all, _figures: told.append(done))
    assert (caught.value.epoch, told) == (2, [1])


def test_progress_tells_epochs_and_figures_by_arm():
    told = []
    train(nets(0), on_epoch=lambda *figures: told.append(figures))
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert set(told[0][2]) == {
        "taught_loss",
        "taught_validation_accuracy",
        "untaught_loss",
        "untaught_validation_accuracy",
    }


def test_what_cannot_be_trained_is_refused():
    data = examples(views=None)
    with pytest.raises(ValueError, match="no two of the same arm and seed"):
        train(teachers(0, 0), data)
    with pytest.raises(ValueError, match="needs teacher logits"):
        train([Net("taught", 0, Objective())], data)
    with pytest.raises(ValueError, match="needs hard labels"):
        train(teachers(0), Examples(data.images, None))
    with pytest.raises(ValueError, match="other views than the teacher saw"):
        train(nets(0), regularisation=Regularisation(jitter_px=1))
