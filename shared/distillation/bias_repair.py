"""Class biases found after training, for a student that never saw some classes or saw others too often.

Such a student has learned how often each class comes in its transfer set. A bias a class, added to its logit,
repairs this: the biases are those at which the mean softmax mass equals the classes' known shares
(arXiv:1503.02531, section 3, tuned them on the test set; here no test label is used). They are the optimum of
a concave function, the mean log likelihood of labels that come in these shares, so they are unique up to a
constant.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shared.distillation.losses import UNLABELLED
from shared.errors import BiasRepairFailed
from shared.models.network import Network

TOLERANCE = 1e-6
"""Largest difference between mass and share that counts as none."""
_MOST_STEPS = 200
_LARGEST_MOVE = 5.0
"""Of a bias in one step, in nats."""


def find_biases(
    logits: Float[Tensor, "rows classes"], target_shares: Float[Tensor, " classes"]
) -> Float64[Tensor, " classes"]:
    """Return biases with mean 0 at which the mean of softmax(logits + biases) equals the shares.

    Newton's method in float64 on the concave function sum(share x bias) - mean(logsumexp(logits + biases)),
    each step halved until the function does not fall.

    Args:
        logits: of a student, on images whose classes come in these shares.
        target_shares: above 0, with sum 1.

    Raises:
        BiasRepairFailed: the shares are not such, a logit is not finite, or no biases reach the shares: a
            row that is certain of a class in float64 cannot be moved.
    """
    if logits.shape[0] == 0 or not bool(logits.isfinite().all()):
        raise BiasRepairFailed("it needs finite logits of at least one image")
    shares = target_shares.to(logits.device, torch.float64)
    if not bool((shares > 0).all()) or abs(float(shares.sum()) - 1) > 1e-6:
        raise BiasRepairFailed(f"shares must be above 0 and sum to 1, got {shares.tolist()}")
    shares = shares / shares.sum()
    scores = logits.to(torch.float64)
    biases = torch.zeros_like(shares)
    likelihood = _likelihood(scores, shares, biases)
    for _ in range(_MOST_STEPS):
        soft = (scores + biases).softmax(-1)
        gradient = shares - soft.mean(0)
        if float(gradient.abs().max()) < TOLERANCE * 1e-3:
            break
        move = _newton_step(soft, gradient)
        for _ in range(60):
            moved = _likelihood(scores, shares, biases + move)
            if moved >= likelihood:
                break
            move = move / 2
        else:
            break  # as far up as float64 can tell
        biases, likelihood = biases + move, moved
    left = float((shares - (scores + biases).softmax(-1).mean(0)).abs().max())
    if left > TOLERANCE:
        raise BiasRepairFailed(f"a class is still {left:.1e} from its share after {_MOST_STEPS} steps")
    return biases - biases.mean()


def class_shares(labels: Int64[Tensor, " rows"], classes: int) -> Float64[Tensor, " classes"]:
    """Return the share of each class among the labels; rows without a label do not count.

    Raises:
        BiasRepairFailed: a class does not come: no bias makes a share of 0.
    """
    counts = torch.bincount(labels[labels != UNLABELLED], minlength=classes)
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing:
        raise BiasRepairFailed(f"classes {missing} have no label to take their shares from")
    return counts.to(torch.float64) / counts.sum()


def with_biases(
    network: Network, tensors: Mapping[str, Tensor], biases: Float[Tensor, " classes"]
) -> dict[str, Tensor]:
    """Return the net's tensors with the biases in its head: its logits are then those plus the biases."""
    _, bias = network.head
    repaired = dict(tensors)
    repaired[bias] = (tensors[bias].to(torch.float64) + biases.to(tensors[bias].device)).to(
        tensors[bias].dtype
    )
    return repaired


def _likelihood(scores: Tensor, shares: Tensor, biases: Tensor) -> float:
    return float((shares * biases).sum() - (scores + biases).logsumexp(-1).mean())


def _newton_step(
    soft: Float64[Tensor, "rows classes"], gradient: Float64[Tensor, " classes"]
) -> Float64[Tensor, " classes"]:
    """Return where Newton's method moves the biases, at most `_LARGEST_MOVE` each."""
    classes = soft.shape[1]
    curvature = torch.diag(soft.mean(0)) - soft.T @ soft / soft.shape[0]
    # A constant changes nothing, so the curvature is flat along it: the part added fills that direction.
    # The smaller part keeps it solvable where certain rows make it flat elsewhere; steps are then damped.
    curvature = curvature + torch.full_like(curvature, 1 / classes)
    curvature.diagonal().add_(1e-12)
    move: Tensor = torch.linalg.solve(curvature, gradient)
    move = move - move.mean()
    return move * min(1.0, _LARGEST_MOVE / max(float(move.abs().max()), 1e-300))
