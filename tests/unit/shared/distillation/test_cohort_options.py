"""What a budget, a regularisation and the hooks of `train_cohort` may ask for, each by what it must do."""

from dataclasses import replace

import pytest
import torch

from shared.contracts.training import Budget, Decoupled, Objective, Regularisation
from shared.distillation.cohort import Net, train_cohort
from shared.distillation.examples import Examples
from shared.distillation.losses import UNLABELLED, hard_label_loss, peer_loss
from shared.errors import DecoupledNeedsClasses
from shared.models.network import Network
from shared.models.normalise import normalise
from tests.support.cohorts import (
    ARCHITECTURE,
    BUDGET,
    CLASSES,
    PREPROCESSING,
    TAUGHT,
    examples,
    nets,
    peers,
    teachers,
)

NETWORK = Network(ARCHITECTURE, PREPROCESSING.input, CLASSES)
ONE_STEP = Budget(epochs=1, batch_size=200, optimizer="sgd", learning_rate=0.1, momentum=0.0)


def train(asked, data=None, **options):
    options = {"classes": CLASSES, "preprocessing": PREPROCESSING, "budget": BUDGET, **options}
    return train_cohort(ARCHITECTURE, asked, data if data is not None else examples(), **options)


def assert_same(left, right, **tolerance):
    for name, tensor in left.tensors.items():
        torch.testing.assert_close(right.tensors[name], tensor, **tolerance)


def differ(left, right) -> bool:
    return any(not torch.equal(left.tensors[name], tensor) for name, tensor in right.tensors.items())


EXACTLY = {"rtol": 0, "atol": 0}
CLOSELY = {"rtol": 1e-4, "atol": 1e-6}


def logits_and_weights(seed: int, images: torch.Tensor):
    weights = {name: t.unsqueeze(0).requires_grad_() for name, t in NETWORK.initial(seed).items()}
    return NETWORK.logits(weights, normalise(images, PREPROCESSING).unsqueeze(0))[0], weights


# --- budget ------------------------------------------------------------------------------------------------


def test_the_last_epoch_is_kept_where_the_budget_says_so():
    data = examples(views=None)
    generator = torch.Generator().manual_seed(5)
    wrong = torch.randint(0, CLASSES, (200,), generator=generator)
    labels = torch.where(torch.rand(200, generator=generator) < 0.5, wrong, data.labels)
    # Half of the labels mean nothing: a net that learns them all by heart was better before.
    noisy = Examples(data.images, labels, data.validation_images, data.validation_labels)
    budget = Budget(epochs=6, batch_size=16, learning_rate=0.02)
    (best,) = train([Net("untaught", 0)], noisy, budget=budget)
    (last,) = train([Net("untaught", 0)], noisy, budget=budget.model_copy(update={"keep": "last"}))
    accuracies = [point.validation_accuracy for point in last.curve.points]
    assert best.best_epoch < 6, "the task should make an earlier epoch the best"
    assert (last.best_epoch, last.curve.best_epoch) == (6, 6)
    assert last.validation_accuracy == accuracies[-1] < best.validation_accuracy
    assert differ(best, last)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_is_added_to_the_gradient(optimizer):
    """One step by hand: the gradient plus decay times the weight, and then the optimiser's rule."""
    data = examples(views=None)
    budget = ONE_STEP.model_copy(update={"optimizer": optimizer, "weight_decay": 0.5, "learning_rate": 0.01})
    (net,) = train(teachers(5), Examples(data.images, data.labels), budget=budget)
    logits, weights = logits_and_weights(5, data.images)
    torch.nn.functional.cross_entropy(logits, data.labels).backward()
    for name, weight in weights.items():
        gradient = weight.grad[0] + 0.5 * weight.detach()[0]
        # Adam's first step is the gradient over its own size.
        direction = gradient if optimizer == "sgd" else gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(net.tensors[name], weight.detach()[0] - 0.01 * direction, **CLOSELY)


def test_bfloat16_products_learn_the_task_and_keep_float32_weights():
    plain, rounded = (
        train(teachers(0), examples(views=None), budget=BUDGET.model_copy(update={"precision": precision}))[0]
        for precision in ("float32", "bfloat16")
    )
    assert differ(plain, rounded)
    assert rounded.validation_accuracy > 0.8
    assert {tensor.dtype for tensor in rounded.tensors.values()} == {torch.float32}


# --- what is shown -----------------------------------------------------------------------------------------


def test_flips_change_what_is_learnt():
    data = examples(views=None)
    plain, flipped = (
        train(teachers(0), data, regularisation=rule)[0] for rule in (None, Regularisation(flip=True))
    )
    assert differ(plain, flipped)
    with pytest.raises(ValueError, match="other views than the teacher saw"):
        train(nets(0), regularisation=Regularisation(flip=True))


def test_rows_without_a_label_add_nothing_to_the_hard_loss():
    """An untaught net on half the labels becomes what it would on a batch of that half."""
    data = examples(views=None)
    half = data.labels.clone()
    half[100:] = UNLABELLED
    (masked,) = train(teachers(0), Examples(data.images, half), budget=ONE_STEP)
    (alone,) = train(
        teachers(0),
        Examples(data.images[:100], data.labels[:100]),
        budget=ONE_STEP.model_copy(update={"batch_size": 100}),
    )
    assert_same(alone, masked, **CLOSELY)


def test_rows_of_an_epoch_are_those_and_in_the_order_asked_for():
    data, asked = examples(views=None), []

    def rows_of_epoch(seed, epoch):
        asked.append((seed, epoch))
        return torch.tensor([5, 7, 5, 9])

    (chosen,) = train(
        teachers(3), Examples(data.images, data.labels), budget=ONE_STEP, rows_of_epoch=rows_of_epoch
    )
    rows = torch.tensor([5, 7, 5, 9])
    logits, weights = logits_and_weights(3, data.images[rows])
    torch.nn.functional.cross_entropy(logits, data.labels[rows]).backward()
    for name, weight in weights.items():
        torch.testing.assert_close(chosen.tensors[name], (weight - 0.1 * weight.grad)[0], **CLOSELY)
    assert set(asked) == {(3, 0)}


@pytest.mark.parametrize("rows", [[0, 200], [-1, 3], [0, 1, 2]])
def test_rows_that_are_not_there_or_not_as_many_are_refused(rows):
    def rows_of_epoch(_seed, epoch):
        return torch.tensor(rows if epoch else [0, 1])

    with pytest.raises(ValueError, match="must show 2 of 200 rows"):
        train(teachers(0), examples(views=None), rows_of_epoch=rows_of_epoch)


# --- first weights -----------------------------------------------------------------------------------------


def test_a_net_starts_from_given_weights_and_leaves_them_as_they_were():
    data = examples(views=None)
    given = NETWORK.initial(9)
    before = {name: tensor.clone() for name, tensor in given.items()}
    started, other = train(
        [Net("a", 0), Net("b", 0)], Examples(data.images, data.labels), initial={("a", 0): given}
    )
    (as_seed_9,) = train_with_weights_of(9, data)
    assert_same(started, as_seed_9, **EXACTLY)
    assert differ(started, other)
    assert all(torch.equal(given[name], tensor) for name, tensor in before.items())


def train_with_weights_of(seed: int, data: Examples):
    return train([Net("a", 0)], Examples(data.images, data.labels), initial={("a", 0): NETWORK.initial(seed)})


def test_members_of_a_seed_start_apart_and_see_the_same_batches():
    """From the same given weights and without dropout, members end alike."""
    data = examples(views=None)
    asked = [Net("a", 0), Net("b", 0, member=1)]
    one, other = train(asked, data)
    assert differ(one, other)
    given = NETWORK.initial(4)
    assert_same(*train(asked, data, initial={("a", 0): given, ("b", 0): given}), **EXACTLY)
    rule = Regularisation(hidden_dropout=0.5)
    assert differ(*train(asked, data, initial={("a", 0): given, ("b", 0): given}, regularisation=rule))


# --- who teaches -------------------------------------------------------------------------------------------


def test_the_first_step_of_peers_is_the_one_by_hand():
    data = examples(views=None)
    objective = Objective(temperature=3.0, soft_weight=2.0, hard_weight=0.5)
    asked = peers(0, members=3, objective=objective)
    trained = train(asked, Examples(data.images, data.labels), budget=ONE_STEP)
    own = [logits_and_weights(net.own_seed, data.images) for net in asked]
    logits = torch.stack([of_net for of_net, _ in own])
    losses = 2.0 * peer_loss(logits, temperature=3.0)
    losses = losses + 0.5 * hard_label_loss(logits, data.labels.expand(3, -1))
    losses.sum().backward()
    for net, (_, weights) in zip(trained, own, strict=True):
        for name, weight in weights.items():
            torch.testing.assert_close(net.tensors[name], (weight - 0.1 * weight.grad)[0], **CLOSELY)


def test_peers_come_to_agree_more_than_nets_alone():
    """On images without labels, where peers are all that nets hear of each other."""
    data = examples(views=None)
    labels = data.labels.clone()
    labels[20:] = UNLABELLED
    data = Examples(data.images, labels, data.validation_images, data.validation_labels)
    together = train(peers(0), data)
    alone = train([Net(net.arm, net.seed, member=net.member) for net in peers(0)], data)

    def apart(trained) -> float:
        soft = [
            NETWORK.logits(
                {name: t.unsqueeze(0) for name, t in net.tensors.items()},
                normalise(data.images, PREPROCESSING).unsqueeze(0),
            ).softmax(-1)
            for net in trained
        ]
        return (soft[0] - soft[1]).abs().mean().item()

    assert apart(together) < 0.8 * apart(alone)


def test_a_cohort_of_one_seed_does_not_feel_another():
    data = examples(views=None)
    both, alone = train(peers(0, 1), data), train(peers(1), data)
    for net, same in zip(both[2:], alone, strict=True):
        assert_same(same, net, **EXACTLY)


def test_fresh_teacher_logits_replace_those_before():
    """Handed the same logits by the hook, a student becomes what it would have with them stored."""
    data = examples()
    bare = Examples(data.images, data.labels, data.validation_images, data.validation_labels)
    told = []

    def refresh(epoch, tensors):
        told.append((epoch, len(tensors), tensors[0]["layers.0.weight"].shape))
        return data.teacher_logits if epoch == 0 else None

    asked = [Net("taught", 0, TAUGHT)]
    assert_same(train(asked, data)[0], train(asked, bare, refresh=refresh)[0], **EXACTLY)
    assert told == [(epoch, 1, (24, 36)) for epoch in range(BUDGET.epochs)]


def test_before_a_teacher_is_there_the_labels_are_all_there_is():
    """Burn-in: without logits the hard labels count alone."""
    data = examples(views=None)
    both = Objective(temperature=2.0, soft_weight=1.0, hard_weight=1.0)
    (waiting,) = train([Net("a", 0, both)], data, refresh=lambda _epoch, _nets: None)
    (hard,) = train([Net("a", 0)], data)
    assert_same(hard, waiting, **EXACTLY)


def test_fresh_logits_of_other_rows_are_refused():
    data = examples(views=None)
    with pytest.raises(ValueError, match="1 views of 200 rows, got 1 x 3 x 4"):
        train([Net("a", 0, TAUGHT)], data, refresh=lambda _epoch, _nets: torch.zeros(1, 3, 4).half())


@pytest.mark.parametrize("together", [False, True])
def test_nets_of_many_objectives_become_the_same_alone_and_at_once(together):
    """Unlabelled rows, views that are mirrored, decoupled terms, turns: a net does not feel its company."""
    data = examples(views=2)
    labels = data.labels.clone()
    labels[::3] = UNLABELLED
    data.parameters.flip[:] = torch.randint(
        0, 2, (2, 200), generator=torch.Generator().manual_seed(8)
    ).numpy()
    data = replace(data, labels=labels)
    asked = [
        Net("soft", 0, TAUGHT),
        Net("turns", 0, Objective(temperature=2.0, soft_weight=1.0, hard_weight=1.0, alternate=True)),
        Net("decoupled", 1, Objective(temperature=2.0, soft_weight=0.0, decoupled=Decoupled())),
        Net("matching", 1, Objective(soft_weight=0.0, logit_weight=1.0, hard_weight=0.1)),
        Net("standardised", 2, Objective(temperature=2.0, standardise=True)),
        Net("untaught", 2),
    ]
    for net, found in zip(asked, train(asked, data, together=together), strict=True):
        (alone,) = train([net], data)
        assert_same(alone, found, **({"rtol": 1e-3, "atol": 1e-4} if together else EXACTLY))


def test_turns_take_the_teacher_first_and_the_labels_second():
    data = examples()
    turns = Objective(temperature=4.0, soft_weight=1.0, hard_weight=1.0, alternate=True)
    budget = ONE_STEP.model_copy(update={"batch_size": 100})
    whole, soft = (train([Net("a", 0, objective)], data, budget=ONE_STEP)[0] for objective in (turns, TAUGHT))
    assert_same(soft, whole, **EXACTLY)
    two, soft_twice = (train([Net("a", 0, one)], data, budget=budget)[0] for one in (turns, TAUGHT))
    assert differ(two, soft_twice)


def test_what_peers_and_terms_lack_is_refused():
    data = examples(views=None)
    with pytest.raises(ValueError, match="no peer"):
        train(peers(0, members=1), data)
    with pytest.raises(ValueError, match="cannot be theirs"):
        train(peers(0, objective=Objective(logit_weight=1.0)), data)
    with pytest.raises(ValueError, match="needs hard labels"):
        train([Net("a", 0, Objective(decoupled=Decoupled()))], Examples(data.images, None))
    with pytest.raises(DecoupledNeedsClasses):
        train([Net("a", 0, Objective(decoupled=Decoupled()))], examples(), classes=2)
