import numpy as np
import pytest
import torch

from shared.contracts.training import Objective
from shared.distillation.losses import UNLABELLED, hard_label_loss, objective_loss, soft_target_loss
from shared.errors import InvalidTemperature

BATCH, CLASSES = 8, 10


def logits(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (BATCH, CLASSES)), generator=generator, dtype=torch.float64)


def log_softmax(z: np.ndarray) -> np.ndarray:
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def soft_by_hand(student: torch.Tensor, teacher: torch.Tensor, t: float) -> float:
    """T² times the mean over examples of sum p (log p - log q)."""
    q, p = (log_softmax(z.numpy() / t) for z in (student, teacher))
    return float(t**2 * np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_target_loss_is_the_formula_by_hand(temperature):
    student, teacher = 5 * logits(1), 5 * logits(2)
    found = soft_target_loss(student, teacher, temperature=temperature)
    assert found.item() == pytest.approx(soft_by_hand(student, teacher, temperature), rel=1e-12)


def test_soft_target_loss_at_high_temperature_matches_logits():
    """As T grows the gradient tends to (z - v) / classes / batch; arXiv:1503.02531, section 2.1."""
    z, v = (x - x.mean(-1, keepdim=True) for x in (logits(3), logits(4)))
    z.requires_grad_()
    (grad,) = torch.autograd.grad(soft_target_loss(z, v, temperature=1e4), z)
    torch.testing.assert_close(grad, (z.detach() - v) / CLASSES / BATCH, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_gradient_is_t_times_the_difference_of_soft_targets(temperature):
    """d/dz of the cross-entropy with soft targets is (q - p) / T (section 2), times T²."""
    z, v = (3 * logits(3)).requires_grad_(), 3 * logits(4)
    (grad,) = torch.autograd.grad(soft_target_loss(z, v, temperature=temperature), z)
    q, p = (z.detach() / temperature).softmax(-1), (v / temperature).softmax(-1)
    torch.testing.assert_close(grad, temperature * (q - p) / BATCH)


def test_soft_target_loss_is_not_divided_by_the_number_of_classes():
    """Classes that nobody believes in change nothing; a mean over classes would halve the loss."""
    student, teacher = logits(1), logits(2)
    never = torch.full((BATCH, CLASSES), -1e4, dtype=torch.float64)
    wide = soft_target_loss(torch.cat([student, never], -1), torch.cat([teacher, never], -1), temperature=2.0)
    torch.testing.assert_close(wide, soft_target_loss(student, teacher, temperature=2.0))


def test_soft_target_loss_is_a_mean_over_the_batch():
    student, teacher = logits(1), logits(2)
    twice = soft_target_loss(student.repeat(2, 1), teacher.repeat(2, 1), temperature=2.0)
    torch.testing.assert_close(twice, soft_target_loss(student, teacher, temperature=2.0))


def test_teacher_and_student_are_not_interchangeable():
    """The divergence is taken from the teacher's to the student's soft targets, not the reverse."""
    student, teacher = 5 * logits(1), 5 * logits(2)
    found = soft_target_loss(student, teacher, temperature=2.0)
    assert found.item() != pytest.approx(soft_by_hand(teacher, student, 2.0), rel=0.01)


def test_a_student_that_agrees_has_no_loss_and_no_gradient():
    z = logits(1).requires_grad_()
    loss = soft_target_loss(z, z.detach() + 7.0, temperature=3.0)
    (grad,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert grad.abs().max() < 1e-12


def test_only_the_student_receives_gradients():
    student, teacher = logits(1).requires_grad_(), logits(2).requires_grad_()
    soft_target_loss(student, teacher, temperature=2.0).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_float16_logits_of_a_transfer_set_cost_little_accuracy():
    student, teacher = 5 * logits(1), 5 * logits(2)
    stored = soft_target_loss(student.float(), teacher.half().float(), temperature=20.0)
    assert stored.item() == pytest.approx(soft_by_hand(student, teacher, 20.0), rel=1e-3)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(InvalidTemperature):
        soft_target_loss(logits(1), logits(2), temperature=temperature)


def test_hard_label_loss_is_the_mean_negative_log_probability_at_t_1():
    z, labels = logits(1), torch.arange(BATCH) % CLASSES
    by_hand = -log_softmax(z.numpy())[np.arange(BATCH), labels.numpy()].mean()
    assert hard_label_loss(z, labels).item() == pytest.approx(by_hand, rel=1e-12)


def test_examples_without_a_label_are_left_out_of_sum_and_mean():
    z, labels = logits(1), torch.arange(BATCH) % CLASSES
    some = labels.clone()
    some[3:] = UNLABELLED
    torch.testing.assert_close(hard_label_loss(z, some), hard_label_loss(z[:3], labels[:3]))
    assert hard_label_loss(z, torch.full_like(labels, UNLABELLED)).item() == 0


def test_several_nets_keep_a_loss_each():
    student, teacher = logits(1, 3, BATCH, CLASSES), logits(2, 3, BATCH, CLASSES)
    labels = (torch.arange(3 * BATCH) % CLASSES).view(3, BATCH)
    objective = Objective(temperature=4.0, soft_weight=0.9, hard_weight=0.1)
    together = objective_loss(student, teacher, labels, objective)
    alone = [objective_loss(student[i], teacher[i], labels[i], objective) for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone))


def test_the_objective_is_the_weighted_sum_of_both_terms():
    student, teacher, labels = logits(1), logits(2), torch.arange(BATCH) % CLASSES
    objective = Objective(temperature=4.0, soft_weight=0.5, hard_weight=2.0)
    soft = soft_target_loss(student, teacher, temperature=4.0)
    expected = 0.5 * soft + 2.0 * hard_label_loss(student, labels)
    torch.testing.assert_close(objective_loss(student, teacher, labels, objective), expected)


def test_a_term_without_weight_needs_nothing():
    student, labels = logits(1), torch.arange(BATCH) % CLASSES
    hard_only, soft_only = Objective(soft_weight=0, hard_weight=1), Objective(soft_weight=1, hard_weight=0)
    torch.testing.assert_close(
        objective_loss(student, None, labels, hard_only), hard_label_loss(student, labels)
    )
    torch.testing.assert_close(
        objective_loss(student, logits(2), None, soft_only),
        soft_target_loss(student, logits(2), temperature=20.0),
    )


def test_a_term_with_weight_and_nothing_to_compute_it_from_is_refused():
    both = Objective(soft_weight=1, hard_weight=1)
    with pytest.raises(ValueError, match="no teacher logits"):
        objective_loss(logits(1), None, torch.zeros(BATCH, dtype=torch.int64), both)
    with pytest.raises(ValueError, match="no hard labels"):
        objective_loss(logits(1), logits(2), None, both)
