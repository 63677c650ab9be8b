"""Nets of one shape on stacked parameters: a step of all of them is a step of each."""

import contextlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from shared.contracts.architectures import Architecture
from shared.contracts.images import Preprocessing
from shared.contracts.training import Budget, Objective, Regularisation
from shared.distillation.examples import Batch
from shared.distillation.losses import hard_label_loss, objective_loss
from shared.errors import Diverged
from shared.models.checkpoints import stack
from shared.models.network import Network
from shared.models.normalise import normalise
from shared.models.seeds import mixed_seed

_VALIDATION_ROWS = 2000


class NetStack:
    """Parameters, optimiser and best weights of nets that are trained by the same calls.

    All state has a leading dimension of nets, and every operation on it acts on each net by itself, so a net
    ends as it would alone.

    Args:
        architecture: of every net.
        seeds: of the nets' first weights and dropout.
        objectives: a net's each.
        classes: how many.
        preprocessing: from pixels to what the nets see.
        budget: optimiser and rate.
        regularisation: dropout and max-norm.
        device: where the nets live.
        bf16: run the products in bfloat16.
    """

    def __init__(
        self,
        architecture: Architecture,
        seeds: Sequence[int],
        objectives: Sequence[Objective],
        *,
        classes: int,
        preprocessing: Preprocessing,
        budget: Budget,
        regularisation: Regularisation,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self.seeds = tuple(seeds)
        self.device = device
        self._objectives = _indices_by_objective(objectives, device)
        self._preprocessing = preprocessing
        self._regularisation = regularisation
        self._bf16 = bf16
        self._network = Network(architecture, preprocessing.input, classes)
        first = stack([self._network.initial(seed) for seed in seeds])
        self.tensors = {name: tensor.to(device) for name, tensor in first.items()}
        self.weights = {
            name: tensor.requires_grad_()
            for name, tensor in self.tensors.items()
            if name in self._network.trainable
        }
        self.best = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        self.loss_sum = torch.zeros(len(seeds), dtype=torch.float64, device=device)
        self._optimizer = _optimizer(list(self.weights.values()), budget)
        self._units = self._network.dropout_units
        self._limited = [self.weights[name] for name in self._network.max_norm_weights]
        # One generator a net, seeded anew for each step: no state to carry over a checkpoint.
        self._generator = torch.Generator(device=device)

    def step(self, batch: Batch, *, epoch: int, step: int, learning_rate: float) -> None:
        """Take one optimiser step on a batch a net; epoch and step are counted from 0.

        Raises:
            Diverged: a loss is not finite; the weights are as they were. On CUDA, where looking would mean
                waiting at every step, `loss_sum` tells at the end of the epoch.
        """
        keep = self._dropout(batch.images.shape[1], epoch, step)
        with self._products():
            logits = self._network.logits(self.tensors, batch.images, keep, training=True)
        losses = self._losses(logits.float(), batch)
        self.loss_sum += losses.detach() * batch.images.shape[1]
        if self.device.type == "cpu" and not bool(losses.isfinite().all()):
            raise Diverged(epoch + 1, float(losses.detach().sum()))
        self._optimizer.zero_grad()
        # Each net's weights feel its own loss only, so the sum gives every net its own gradient.
        torch.autograd.backward(losses.sum())
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._limit_norms()

    def validate(
        self, images: UInt8[Tensor, "rows height width channels"], labels: Int64[Tensor, " rows"]
    ) -> tuple[Float64[Tensor, " nets"], Float64[Tensor, " nets"]]:
        """Return each net's accuracy and mean loss in nats on labelled images at T = 1."""
        nets = len(self.seeds)
        right = torch.zeros(nets, dtype=torch.float64, device=self.device)
        nats = torch.zeros(nets, dtype=torch.float64, device=self.device)
        with torch.inference_mode():
            for start in range(0, len(labels), _VALIDATION_ROWS):
                truth = labels[start : start + _VALIDATION_ROWS].expand(nets, -1)
                batch = normalise(images[start : start + _VALIDATION_ROWS], self._preprocessing)
                with self._products():
                    logits = self._network.logits(self.tensors, batch.expand(nets, *batch.shape)).float()
                right += (logits.argmax(-1) == truth).sum(-1)
                nats += hard_label_loss(logits, truth) * truth.shape[1]
        return right / len(labels), nats / len(labels)

    def keep_as_best(self, better: Sequence[bool]) -> None:
        """Remember the present weights of the nets that were never better."""
        with torch.no_grad():
            for net, is_better in enumerate(better):
                if is_better:
                    for name, tensor in self.tensors.items():
                        self.best[name][net].copy_(tensor[net])

    def state(self) -> dict[str, Tensor]:
        """Return all that training goes on from, each tensor with a leading dimension of nets."""
        tensors = {"loss_sum": self.loss_sum}
        for name, tensor in self.tensors.items():
            tensors[f"tensors/{name}"] = tensor.detach()
            tensors[f"best/{name}"] = self.best[name]
        for name, weight in self.weights.items():
            for key, value in self._optimizer.state[weight].items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    tensors[f"optimizer/{key}/{name}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], steps_taken: int) -> None:
        """Take over what `state` returned after so many steps."""
        self.loss_sum.copy_(tensors["loss_sum"])
        slots: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(tensors[f"tensors/{name}"])
                self.best[name].copy_(tensors[f"best/{name}"])
            for index, name in enumerate(self.weights):
                of_weight = {
                    key.split("/")[1]: value.clone()
                    for key, value in tensors.items()
                    if key.startswith("optimizer/") and key.endswith(f"/{name}")
                }
                if of_weight:
                    slots[index] = {"step": torch.tensor(float(steps_taken)), **of_weight}
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": groups})

    def _losses(self, logits: Float[Tensor, "nets batch classes"], batch: Batch) -> Float[Tensor, " nets"]:
        losses = logits.new_zeros(len(self.seeds))
        for objective, nets in self._objectives:
            labels, teacher = batch.labels, batch.teacher_logits
            of_arm = objective_loss(
                logits[nets],
                teacher[nets] if teacher is not None else None,
                labels[nets] if labels is not None else None,
                objective,
            )
            losses = losses.index_copy(0, nets, of_arm)
        return losses

    def _dropout(self, rows: int, epoch: int, step: int) -> list[Tensor | None] | None:
        """Return factors for the units that enter each layer: 0, or 1 / share kept."""
        rule = self._regularisation
        if not (rule.input_dropout or rule.hidden_dropout):
            return None
        shares = [rule.input_dropout, *[rule.hidden_dropout] * (len(self._units) - 1)]
        masks = [self._drawn(seed, epoch, step, rows, shares) for seed in self.seeds]
        return [
            torch.stack([mask[layer] for mask in masks]).to(torch.float32) / (1 - share) if share else None
            for layer, share in enumerate(shares)
        ]

    def _drawn(
        self, seed: int, epoch: int, step: int, rows: int, shares: Sequence[float]
    ) -> tuple[Bool[Tensor, "batch _"], ...]:
        """Return which units stay, drawn from 16 random bits each.

        One draw of whole words for all layers is some ten times faster on a CPU than `bernoulli_`; a share
        is exact to 1/65,536.
        """
        self._generator.manual_seed(mixed_seed("dropout", seed, epoch, step))
        wanted = rows * sum(self._units)
        words = torch.empty(-(-wanted // 4), dtype=torch.int64, device=self.device)
        # Without bounds the sign bit would never be set.
        bits = words.random_(-(2**63), None, generator=self._generator).view(torch.int16)[:wanted]
        parts = torch.split(bits, [rows * units for units in self._units])
        return tuple(
            (part >= round(share * 65_536) - 32_768).view(rows, units)
            for part, share, units in zip(parts, shares, self._units, strict=True)
        )

    def _limit_norms(self) -> None:
        largest = self._regularisation.max_norm
        if largest is None:
            return
        with torch.no_grad():
            for weight in self._limited:
                incoming = tuple(range(2, weight.dim()))
                norms = torch.linalg.vector_norm(weight, dim=incoming, keepdim=True)
                weight.mul_((largest / norms.clamp_min(1e-12)).clamp_max_(1.0))

    def _products(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)


def _optimizer(weights: list[Tensor], budget: Budget) -> torch.optim.Optimizer:
    # Fused: one pass over the weights instead of a dozen; both rules act on each number by itself.
    if budget.optimizer == "adam":
        return torch.optim.Adam(weights, lr=budget.learning_rate, fused=True)
    return torch.optim.SGD(
        weights, lr=budget.learning_rate, momentum=budget.momentum, nesterov=budget.momentum > 0, fused=True
    )


def _indices_by_objective(
    objectives: Sequence[Objective], device: torch.device
) -> list[tuple[Objective, Int64[Tensor, " _"]]]:
    return [
        (
            objective,
            torch.tensor([i for i, other in enumerate(objectives) if other == objective], device=device),
        )
        for objective in dict.fromkeys(objectives)
    ]
