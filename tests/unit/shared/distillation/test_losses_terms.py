"""The terms beside soft targets and hard labels, each against its formula by hand in float64."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shared.contracts.training import Decoupled, Objective
from shared.distillation.losses import (
    UNLABELLED,
    attention_transfer_loss,
    decoupled_loss,
    hard_label_loss,
    hint_loss,
    logit_matching_loss,
    objective_loss,
    peer_loss,
    soft_target_loss,
    standardised,
)
from shared.errors import DecoupledNeedsClasses

BATCH, CLASSES = 8, 10


def logits(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (BATCH, CLASSES)), generator=generator, dtype=torch.float64)


def soft_by_hand(student: torch.Tensor, teacher: torch.Tensor, t: float) -> float:
    """T² times the mean over examples of sum p (log p - log q)."""
    q, p = (np.exp(z.numpy() / t) / np.exp(z.numpy() / t).sum(-1, keepdims=True) for z in (student, teacher))
    return float(t**2 * np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=-1)))


def gradient(loss, z: torch.Tensor) -> torch.Tensor:
    (grad,) = torch.autograd.grad(loss(z.requires_grad_()), z)
    z.requires_grad_(False)
    return grad


def zero_mean(z: torch.Tensor) -> torch.Tensor:
    return z - z.mean(-1, keepdim=True)


def test_logit_matching_is_half_the_squared_difference_of_zero_mean_logits_a_class():
    z, v = 3 * logits(1), 3 * logits(2)
    difference = zero_mean(z).numpy() - zero_mean(v).numpy()
    by_hand = np.mean([sum(d**2 for d in row) / 2 / CLASSES for row in difference])
    assert logit_matching_loss(z, v).item() == pytest.approx(by_hand, rel=1e-12)
    assert logit_matching_loss(z + 5, v - 2).item() == pytest.approx(by_hand, rel=1e-12)
    found = gradient(lambda x: logit_matching_loss(x, v), z)
    torch.testing.assert_close(found, torch.from_numpy(difference) / CLASSES / BATCH)


def test_soft_targets_tend_to_logit_matching_as_the_temperature_grows():
    """Value and gradient both, at the rate 1/T (section 2.1): ten times the T, a tenth of the distance."""
    z, v = 3 * logits(1), 3 * logits(2)
    matching, matching_gradient = logit_matching_loss(z, v), gradient(lambda x: logit_matching_loss(x, v), z)
    apart = []
    for temperature in (1e2, 1e3, 1e4):
        soft = soft_target_loss(z, v, temperature=temperature)
        soft_gradient = gradient(lambda x, t=temperature: soft_target_loss(x, v, temperature=t), z)
        apart.append(
            [
                ((soft - matching) / matching).abs().item(),
                ((soft_gradient - matching_gradient).norm() / matching_gradient.norm()).item(),
            ]
        )
    assert apart[2][0] < 1e-3
    assert apart[2][1] < 1e-3
    for near, far in itertools.pairwise(apart):
        assert np.array(far) == pytest.approx(np.array(near) / 10, rel=0.25)


def test_without_the_factor_t_squared_the_gradient_falls_as_1_over_t_squared():
    """Soft targets alone at T and at 2 T: the ratio of gradients tends to 4, with T² it tends to 1."""
    z, v = logits(1), logits(2)
    one, two = (gradient(lambda x, t=t: soft_target_loss(x, v, temperature=t), z) for t in (500.0, 1000.0))
    torch.testing.assert_close(one, two, rtol=2e-2, atol=1e-5)
    ratio = (one / 500.0**2).norm() / (two / 1000.0**2).norm()
    assert ratio.item() == pytest.approx(4, rel=1e-2)


def decoupled_by_hand(z: np.ndarray, v: np.ndarray, labels: np.ndarray, t: float, a: float, b: float):
    """Eq. 7, an example at a time, from the probabilities themselves."""
    losses = []
    for student, teacher, label in zip(z / t, v / t, labels, strict=True):
        q, p = (np.exp(x) / np.exp(x).sum() for x in (student, teacher))
        target = p[label] * np.log(p[label] / q[label])
        target += (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
        others = [c for c in range(len(p)) if c != label]
        qo, po = q[others] / (1 - q[label]), p[others] / (1 - p[label])
        losses.append(a * target + b * np.sum(po * np.log(po / qo)))
    return t**2 * np.mean(losses)


@pytest.mark.parametrize(("target_weight", "non_target_weight"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0)])
def test_decoupled_loss_is_the_formula_by_hand(target_weight, non_target_weight):
    z, v, labels = 3 * logits(1), 3 * logits(2), torch.arange(BATCH) % CLASSES
    found = decoupled(z, v, labels, target_weight, non_target_weight)
    by_hand = decoupled_by_hand(z.numpy(), v.numpy(), labels.numpy(), 4.0, target_weight, non_target_weight)
    assert found.item() == pytest.approx(by_hand, rel=1e-10)


def decoupled(z, v, labels, target_weight=1.0, non_target_weight=8.0):
    return decoupled_loss(
        z, v, labels, temperature=4.0, target_weight=target_weight, non_target_weight=non_target_weight
    )


def test_decoupled_gradient_is_that_of_differences():
    z, v, labels = 3 * logits(1), 3 * logits(2), torch.arange(BATCH) % CLASSES
    found = gradient(lambda x: decoupled(x, v, labels), z)
    step = 1e-6
    for row, column in ((0, 0), (0, 5), (3, 3), (7, 1)):
        up, down = z.clone(), z.clone()
        up[row, column] += step
        down[row, column] -= step
        slope = (decoupled(up, v, labels) - decoupled(down, v, labels)) / (2 * step)
        assert found[row, column].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-9)


def test_the_decoupled_parts_of_an_example_add_up_to_the_soft_target_loss():
    """Eq. 6: KL = (target part) + (1 - p of the true class) x (part of the others)."""
    z, v, label = 3 * logits(1), 3 * logits(2), torch.tensor([4])
    for row in range(BATCH):
        student, teacher = z[row : row + 1], v[row : row + 1]
        rest = 1 - (teacher / 4).softmax(-1)[0, 4].item()
        parts = decoupled(student, teacher, label, 1.0, rest)
        torch.testing.assert_close(parts, soft_target_loss(student, teacher, temperature=4.0))


def test_decoupled_loss_leaves_unlabelled_examples_out():
    z, v, labels = logits(1), logits(2), torch.arange(BATCH) % CLASSES
    some = labels.clone()
    some[3:] = UNLABELLED
    torch.testing.assert_close(decoupled(z, v, some), decoupled(z[:3], v[:3], labels[:3]))
    assert gradient(lambda x: decoupled(x, v, some), z)[3:].abs().max() == 0


def test_decoupled_loss_is_finite_where_the_teacher_is_certain():
    v = torch.zeros(1, CLASSES)
    v[0, 0] = 400.0
    z, label = torch.zeros(1, CLASSES), torch.tensor([0])
    assert decoupled(z, v, label).isfinite()
    assert gradient(lambda x: decoupled(x, v, label), z).isfinite().all()


def test_decoupled_loss_of_two_classes_is_refused():
    two = logits(1, BATCH, 2)
    with pytest.raises(DecoupledNeedsClasses, match="got 2"):
        decoupled(two, two, torch.zeros(BATCH, dtype=torch.int64))


def test_standardised_logits_have_mean_0_and_deviation_1():
    z = 7 * logits(1) + 3
    by_hand = (z.numpy() - z.numpy().mean(-1, keepdims=True)) / z.numpy().std(-1, keepdims=True)
    torch.testing.assert_close(standardised(z), torch.from_numpy(by_hand))
    assert gradient(lambda x: standardised(x).square().sum(), torch.ones(2, CLASSES)).isfinite().all()


def test_with_standardisation_the_size_of_the_logits_does_not_count():
    objective = Objective(temperature=2.0, standardise=True)
    z, v = logits(1), logits(2)
    plain = soft_target_loss(standardised(z), standardised(v), temperature=2.0)
    torch.testing.assert_close(objective_loss(z, v, None, objective), plain)
    torch.testing.assert_close(objective_loss(9 * z, 4 * v - 1, None, objective), plain)
    assert objective_loss(5 * v, v, None, objective).item() == pytest.approx(0, abs=1e-10)


def test_peer_loss_is_the_mean_divergence_from_each_other_member():
    members = 3 * logits(1, 3, BATCH, CLASSES)
    found = peer_loss(members, temperature=2.0)
    for one in range(3):
        others = [soft_by_hand(members[one], members[other], 2.0) for other in range(3) if other != one]
        assert found[one].item() == pytest.approx(np.mean(others), rel=1e-12)


def test_peers_are_taken_as_they_are():
    """d/dz of member i is T (softmax(z_i/T) - mean of the others' softmax) / batch, and nothing else."""
    members = (3 * logits(1, 3, BATCH, CLASSES)).requires_grad_()
    (grad,) = torch.autograd.grad(peer_loss(members, temperature=2.0).sum(), members)
    soft = (members.detach() / 2).softmax(-1)
    for one in range(3):
        others = (soft.sum(0) - soft[one]) / 2
        torch.testing.assert_close(grad[one], 2.0 * (soft[one] - others) / BATCH)


def test_a_member_without_peers_is_refused():
    with pytest.raises(ValueError, match="none"):
        peer_loss(logits(1, 1, BATCH, CLASSES), temperature=1.0)


def test_hint_loss_is_half_the_mean_squared_difference():
    student, teacher = logits(1, 2, BATCH, 3, 4, 4), logits(2, 2, BATCH, 3, 4, 4)
    by_hand = [0.5 * np.mean((student[net].numpy() - teacher[net].numpy()) ** 2) for net in range(2)]
    torch.testing.assert_close(hint_loss(student, teacher), torch.tensor(by_hand, dtype=torch.float64))
    found = gradient(lambda x: hint_loss(x, teacher).sum(), student)
    torch.testing.assert_close(found, (student - teacher) / (BATCH * 3 * 4 * 4))


def attention_by_hand(student: np.ndarray, teacher: np.ndarray) -> float:
    """Eq. 2 for one pair of layers of one net."""
    distances = []
    for one, other in zip(student, teacher, strict=True):
        maps = [(layer**2).sum(0).ravel() for layer in (one, other)]
        maps = [m / np.sqrt((m**2).sum()) for m in maps]
        distances.append(np.sqrt(((maps[0] - maps[1]) ** 2).sum()))
    return float(np.mean(distances)) / 2


def test_attention_transfer_is_the_formula_by_hand():
    """Channels may differ; each net has a loss of its own; pairs of layers add up."""
    student, teacher = logits(1, 2, BATCH, 3, 4, 4), logits(2, 2, BATCH, 5, 4, 4)
    deep, deep_teacher = logits(3, 2, BATCH, 6, 2, 2), logits(4, 2, BATCH, 2, 2, 2)
    found = attention_transfer_loss([student, deep], [teacher, deep_teacher])
    for net in range(2):
        by_hand = attention_by_hand(student[net].numpy(), teacher[net].numpy())
        by_hand += attention_by_hand(deep[net].numpy(), deep_teacher[net].numpy())
        assert found[net].item() == pytest.approx(by_hand, rel=1e-12)


def test_attention_does_not_see_the_size_of_activations():
    student, teacher = logits(1, 1, BATCH, 3, 4, 4), logits(2, 1, BATCH, 5, 4, 4)
    torch.testing.assert_close(
        attention_transfer_loss([student], [teacher]), attention_transfer_loss([7 * student], [teacher / 3])
    )


AGREEING = {
    "soft targets": lambda z, v, labels: soft_target_loss(z, v, temperature=3.0),
    "logit matching": lambda z, v, labels: logit_matching_loss(z, v),
    "decoupled": lambda z, v, labels: decoupled(z, v, labels),
    "standardised": lambda z, v, labels: soft_target_loss(standardised(z), standardised(v), temperature=3.0),
    "peers": lambda z, v, labels: peer_loss(torch.stack([z, v]), temperature=3.0).sum(),
    "hint": lambda z, v, labels: hint_loss(z.view(1, BATCH, CLASSES), v.view(1, BATCH, CLASSES)).sum(),
    "attention": lambda z, v, labels: attention_transfer_loss(
        [z.view(1, BATCH, 1, 2, 5)], [v.view(1, BATCH, 1, 2, 5)]
    ).sum(),
}


@pytest.mark.parametrize("term", AGREEING)
def test_where_both_agree_every_term_and_its_gradient_are_0(term):
    v, labels = 3 * logits(1), torch.arange(BATCH) % CLASSES
    z = v.clone().requires_grad_()
    loss = AGREEING[term](z, v, labels)
    (grad,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert grad.abs().max() < 1e-10


@pytest.mark.parametrize("term", AGREEING)
def test_no_term_but_that_of_peers_gives_the_teacher_a_gradient(term):
    z, v = logits(1).requires_grad_(), logits(2).requires_grad_()
    AGREEING[term](z, v, torch.arange(BATCH) % CLASSES).backward()
    assert z.grad is not None
    assert (v.grad is not None) == (term == "peers"), "a peer learns as well, from its own loss"


def test_all_terms_on_logits_add_up_with_their_weights():
    z, v, labels = logits(1), logits(2), torch.arange(BATCH) % CLASSES
    objective = Objective(
        temperature=4.0,
        soft_weight=0.5,
        hard_weight=2.0,
        logit_weight=0.25,
        decoupled=Decoupled(target_weight=1.0, non_target_weight=8.0),
    )
    expected = 0.5 * soft_target_loss(z, v, temperature=4.0) + 2.0 * hard_label_loss(z, labels)
    expected = expected + 0.25 * logit_matching_loss(z, v) + decoupled(z, v, labels)
    torch.testing.assert_close(objective_loss(z, v, labels, objective), expected)


def test_alternation_takes_the_teacher_on_even_steps_and_the_labels_on_odd_ones():
    z, v, labels = logits(1), logits(2), torch.arange(BATCH) % CLASSES
    objective = Objective(temperature=4.0, soft_weight=0.5, hard_weight=2.0, alternate=True)
    soft, hard = 0.5 * soft_target_loss(z, v, temperature=4.0), 2.0 * hard_label_loss(z, labels)
    for step in range(4):
        expected = hard if step % 2 else soft
        torch.testing.assert_close(objective_loss(z, v, labels, objective, step=step), expected)


@pytest.mark.parametrize(
    "weights", [{"soft_weight": 1.0, "hard_weight": 0.0}, {"soft_weight": 0.0, "hard_weight": 1.0}]
)
def test_an_alternation_of_one_is_refused(weights):
    with pytest.raises(ValidationError, match="take turns"):
        Objective(**weights, alternate=True)
