"""Losses that teach a student: one small function a term, and their weighted sum.

All take leading dimensions of nets, so that several nets trained at once keep one loss each. Only the student
receives gradients. Source where no other is named: Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from shared.contracts.training import Objective
from shared.errors import DecoupledNeedsClasses, InvalidTemperature

UNLABELLED = -1
"""Stands in place of a hard label where an example has none; such an example adds nothing to a loss."""

_NEVER = -1e9
"""A logit of a class that is left out: its probability is 0 and, unlike with -inf, so is its part of a KL."""
_LEAST_VARIANCE = 1e-12
"""Keeps the gradient finite where all logits of a row are equal."""


def soft_target_loss(
    student_logits: Float[Tensor, "*nets batch classes"],
    teacher_logits: Float[Tensor, "*nets batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, "*nets"]:
    """Return T² times the mean KL divergence from the teacher's to the student's soft targets.

    The factor T² keeps the gradients on one scale while T changes, so that this term can be weighed against
    a hard-label loss.

    Args:
        student_logits: scores of the student.
        teacher_logits: scores of the teacher at T = 1, as read from the transfer set; a constant in each row
            changes nothing.
        temperature: T, without unit, above 0; the same for both sides.

    Returns:
        A scalar a net in nats per example (not per class); 0 when both sides agree.

    Raises:
        InvalidTemperature: T is not a finite number above 0.
    """
    _check(temperature)
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    # Sum over classes, mean over the batch: the default "mean" would also divide by the number of classes.
    return temperature**2 * _divergence(student, teacher).mean(-1)


def hard_label_loss(
    student_logits: Float[Tensor, "*nets batch classes"], hard_labels: Int64[Tensor, "*nets batch"]
) -> Float[Tensor, "*nets"]:
    """Return the mean cross-entropy with the true classes at T = 1, in nats per labelled example.

    Examples whose label is `UNLABELLED` are left out of the sum and of the mean; a batch without any label
    has loss 0.
    """
    log_probabilities = F.log_softmax(student_logits, dim=-1)
    of_label = log_probabilities.gather(-1, hard_labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return _mean_of_labelled(-of_label, hard_labels)


def logit_matching_loss(
    student_logits: Float[Tensor, "*nets batch classes"],
    teacher_logits: Float[Tensor, "*nets batch classes"],
) -> Float[Tensor, "*nets"]:
    """Return half the squared difference of zero-mean logits, mean over classes and batch.

    What `soft_target_loss` tends to as T grows, in value and in gradient (section 2.1); matching logits is
    due to Buciluă, Caruana, Niculescu-Mizil (2006).
    """
    difference = _zero_mean(student_logits) - _zero_mean(teacher_logits.detach())
    return 0.5 * difference.square().mean((-2, -1))


def decoupled_loss(
    student_logits: Float[Tensor, "*nets batch classes"],
    teacher_logits: Float[Tensor, "*nets batch classes"],
    hard_labels: Int64[Tensor, "*nets batch"],
    *,
    temperature: float,
    target_weight: float,
    non_target_weight: float,
) -> Float[Tensor, "*nets"]:
    """Return T² times the two parts of the KL, weighed apart (Zhao et al. 2022, arXiv:2203.08679, eq. 7).

    The first part is the KL over "the true class or not", the second the KL over the other classes among
    themselves. With weights 1 and the teacher's probability of "not the true class", an example's sum is
    `soft_target_loss` (eq. 6). Means over labelled examples, in nats.

    Raises:
        InvalidTemperature: T is not a finite number above 0.
        DecoupledNeedsClasses: with two classes there is one other, and nothing to compare among it.
    """
    _check(temperature)
    classes = student_logits.shape[-1]
    if classes <= 2:
        raise DecoupledNeedsClasses(classes)
    true_class = F.one_hot(hard_labels.clamp(min=0), classes).bool()
    student_target, student_others = _target_and_others(student_logits / temperature, true_class)
    teacher_target, teacher_others = _target_and_others(teacher_logits.detach() / temperature, true_class)
    parts = target_weight * _divergence(student_target, teacher_target)
    parts = parts + non_target_weight * _divergence(student_others, teacher_others)
    return temperature**2 * _mean_of_labelled(parts, hard_labels)


def standardised(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """Return logits with mean 0 and standard deviation 1 in each row (Sun et al. 2024, arXiv:2403.01427).

    A student then has to match which classes the teacher ranks how, not the size of its logits.
    """
    centred = _zero_mean(logits)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + _LEAST_VARIANCE)


def peer_loss(
    member_logits: Float[Tensor, "members batch classes"], *, temperature: float
) -> Float[Tensor, " members"]:
    """Return for each member T² times the mean over the others of the KL from the other to it, in nats.

    Mutual learning (Zhang et al. 2018, arXiv:1706.00384, eq. 8, there at T = 1). Each member takes the others
    as they are: gradients reach it through its own logits only.

    Raises:
        InvalidTemperature: T is not a finite number above 0.
        ValueError: a member has no other.
    """
    members = member_logits.shape[0]
    if members < 2:
        raise ValueError("a member learns from its peers, and there are none")
    losses = []
    for member in range(members):
        peers = torch.cat([member_logits[:member], member_logits[member + 1 :]])
        own = member_logits[member].expand_as(peers)
        losses.append(soft_target_loss(own, peers, temperature=temperature).mean(0))
    return torch.stack(losses)


def hint_loss(
    regressed: Float[Tensor, "nets batch *values"], teacher: Float[Tensor, "nets batch *values"]
) -> Float[Tensor, " nets"]:
    """Return half the squared difference of a layer's values, mean over values and batch.

    FitNets (Romero et al. 2015, arXiv:1412.6550, eq. 3), there summed over values: the mean keeps the weight
    of this term from depending on the layer's size.

    Args:
        regressed: what the regressor made of the student's layer.
        teacher: the teacher's layer.
    """
    return 0.5 * (regressed - teacher.detach()).square().flatten(1).mean(-1)


def attention_transfer_loss(
    student_maps: Sequence[Float[Tensor, "nets batch _ _ _"]],
    teacher_maps: Sequence[Float[Tensor, "nets batch _ _ _"]],
) -> Float[Tensor, " nets"]:
    """Return half the distance of attention maps, summed over pairs of layers, mean over the batch.

    A map is the sum over channels of squared values, scaled to length 1; the distance is the L2 norm of the
    difference (Zagoruyko, Komodakis 2017, arXiv:1612.03928, eq. 2).

    Args:
        student_maps: layers of channels, rows and columns.
        teacher_maps: of each, a layer with as many rows and columns; channels may differ.
    """
    distances = [
        torch.linalg.vector_norm(_attention(student) - _attention(teacher.detach()), dim=-1).mean(-1)
        for student, teacher in zip(student_maps, teacher_maps, strict=True)
    ]
    return 0.5 * torch.stack(distances).sum(0)


def objective_loss(
    student_logits: Float[Tensor, "*nets batch classes"],
    teacher_logits: Float[Tensor, "*nets batch classes"] | None,
    hard_labels: Int64[Tensor, "*nets batch"] | None,
    objective: Objective,
    *,
    step: int = 0,
) -> Float[Tensor, "*nets"]:
    """Return the weighted sum of the terms on logits; a term of weight 0 is not computed.

    Args:
        student_logits: scores of the student.
        teacher_logits: scores of the teacher at T = 1; may be None where no term asks for them.
        hard_labels: true classes; may be None where no term asks for them.
        objective: temperature and weights.
        step: steps of the training before this one; with `alternate`, even ones take what the teacher says
            and odd ones the hard labels.

    Raises:
        ValueError: a term has a weight and nothing to be computed from.
    """
    terms: list[Tensor] = []
    if takes_teacher(objective, step) and objective.needs_logits:
        if teacher_logits is None:
            raise ValueError("the objective has a weight for a teacher, and there are no teacher logits")
        terms.extend(_teacher_terms(student_logits, teacher_logits, hard_labels, objective))
    if takes_labels(objective, step) and objective.hard_weight > 0:
        if hard_labels is None:
            raise ValueError("the objective has a hard weight, and there are no hard labels")
        terms.append(objective.hard_weight * hard_label_loss(student_logits, hard_labels))
    # Of nothing: terms on features may be all there is.
    return torch.stack(terms).sum(0) if terms else student_logits.sum((-2, -1)) * 0


def takes_teacher(objective: Objective, step: int) -> bool:
    """Return whether this step (counted from 0) takes the terms of the teacher."""
    return not objective.alternate or step % 2 == 0


def takes_labels(objective: Objective, step: int) -> bool:
    """Return whether this step (counted from 0) takes the hard-label term."""
    return not objective.alternate or step % 2 == 1


def _teacher_terms(
    student_logits: Tensor, teacher_logits: Tensor, hard_labels: Tensor | None, objective: Objective
) -> list[Tensor]:
    terms = []
    if objective.logit_weight > 0:
        terms.append(objective.logit_weight * logit_matching_loss(student_logits, teacher_logits))
    if objective.standardise:
        student_logits, teacher_logits = standardised(student_logits), standardised(teacher_logits)
    if objective.soft_weight > 0:
        soft = soft_target_loss(student_logits, teacher_logits, temperature=objective.temperature)
        terms.append(objective.soft_weight * soft)
    if objective.decoupled is not None:
        if hard_labels is None:
            raise ValueError("decoupled distillation asks for the true classes, and there are no hard labels")
        terms.append(
            decoupled_loss(
                student_logits,
                teacher_logits,
                hard_labels,
                temperature=objective.temperature,
                target_weight=objective.decoupled.target_weight,
                non_target_weight=objective.decoupled.non_target_weight,
            )
        )
    return terms


def _check(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise InvalidTemperature(temperature)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the KL from the teacher's to the student's distribution, both as logarithms."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def _zero_mean(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def _mean_of_labelled(of_example: Tensor, hard_labels: Tensor) -> Tensor:
    labelled = hard_labels != UNLABELLED
    return (of_example * labelled).sum(-1) / labelled.sum(-1).clamp(min=1)


def _attention(layer: Tensor) -> Tensor:
    return F.normalize(layer.square().sum(-3).flatten(-2), dim=-1)


def _target_and_others(softened: Tensor, true_class: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of (p of the true class, p of not), and of the other classes among themselves."""
    others = softened.masked_fill(true_class, _NEVER)
    target = softened.masked_fill(~true_class, _NEVER).logsumexp(-1)
    both = torch.stack([target, others.logsumexp(-1)], dim=-1)
    return F.log_softmax(both, dim=-1), F.log_softmax(others, dim=-1)
