"""Losses that teach a student from soft targets.

All take leading dimensions of nets, so that several nets trained at once keep one loss each.
Source: Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from shared.contracts.training import Objective
from shared.errors import InvalidTemperature

UNLABELLED = -1
"""Stands in place of a hard label where an example has none; such an example adds nothing to a loss."""


def soft_target_loss(
    student_logits: Float[Tensor, "*nets batch classes"],
    teacher_logits: Float[Tensor, "*nets batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, "*nets"]:
    """Return T² times the mean KL divergence from the teacher's to the student's soft targets.

    The factor T² keeps the gradients on one scale while T changes, so that this term can be weighed against
    a hard-label loss. Only the student receives gradients.

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
    if not (math.isfinite(temperature) and temperature > 0):
        raise InvalidTemperature(temperature)
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    # Sum over classes, mean over the batch: the default "mean" would also divide by the number of classes.
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1).mean(-1)
    return temperature**2 * divergence


def hard_label_loss(
    student_logits: Float[Tensor, "*nets batch classes"], hard_labels: Int64[Tensor, "*nets batch"]
) -> Float[Tensor, "*nets"]:
    """Return the mean cross-entropy with the true classes at T = 1, in nats per labelled example.

    Examples whose label is `UNLABELLED` are left out of the sum and of the mean; a batch without any label
    has loss 0.
    """
    labelled = hard_labels != UNLABELLED
    log_probabilities = F.log_softmax(student_logits, dim=-1)
    of_label = log_probabilities.gather(-1, hard_labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(of_label * labelled).sum(-1) / labelled.sum(-1).clamp(min=1)


def objective_loss(
    student_logits: Float[Tensor, "*nets batch classes"],
    teacher_logits: Float[Tensor, "*nets batch classes"] | None,
    hard_labels: Int64[Tensor, "*nets batch"] | None,
    objective: Objective,
) -> Float[Tensor, "*nets"]:
    """Return the weighted sum of the soft and the hard term; a term of weight 0 is not computed.

    Args:
        student_logits: scores of the student.
        teacher_logits: scores of the teacher at T = 1; may be None where the soft weight is 0.
        hard_labels: true classes; may be None where the hard weight is 0.
        objective: temperature and weights.

    Raises:
        ValueError: a term has a weight and nothing to be computed from.
    """
    terms: list[Tensor] = []
    if objective.soft_weight > 0:
        if teacher_logits is None:
            raise ValueError("the objective has a soft weight, and there are no teacher logits")
        soft = soft_target_loss(student_logits, teacher_logits, temperature=objective.temperature)
        terms.append(objective.soft_weight * soft)
    if objective.hard_weight > 0:
        if hard_labels is None:
            raise ValueError("the objective has a hard weight, and there are no hard labels")
        terms.append(objective.hard_weight * hard_label_loss(student_logits, hard_labels))
    return torch.stack(terms).sum(0)
