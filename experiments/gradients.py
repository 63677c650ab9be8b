"""How far the gradient of soft targets at T is from that of matched logits; part of `logit-matching`.

Loads torch, so it is imported only where it is run.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from experiments.experiment import Form
from experiments.result import Values
from shared.distillation.losses import logit_matching_loss, soft_target_loss

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
ROWS, CLASSES = 256, 10
SCALES = {"logits of deviation 2": 2.0, "logits of deviation 10": 10.0}
"""In between are those of a net of digits. The further they reach, the higher the T that it takes."""


def run(_form: Form) -> dict[str, Values]:
    """Return at each temperature |gradient of soft targets - gradient of matched logits| / |the latter|.

    In float64, on random logits of student and teacher, drawn independently.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Values] = {"temperature": TEMPERATURES}
    for name, scale in SCALES.items():
        student, teacher = scale * torch.randn(2, ROWS, CLASSES, dtype=torch.float64, generator=generator)
        wanted = _gradient(student, logit_matching_loss, teacher)
        found[name] = tuple(
            float(
                (_gradient(student, partial(soft_target_loss, temperature=t), teacher) - wanted).norm()
                / wanted.norm()
            )
            for t in TEMPERATURES
        )
    return found


def _gradient(student: Tensor, loss: Callable[[Tensor, Tensor], Tensor], teacher: Tensor) -> Tensor:
    logits = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, teacher), logits)
    return gradient
