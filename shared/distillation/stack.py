"""Nets of one shape on stacked parameters: a step of all of them is a step of each."""

import contextlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from shared.contracts.images import Preprocessing
from shared.contracts.training import Budget, Objective, Regularisation
from shared.distillation.dropout import Dropout
from shared.distillation.examples import Batch
from shared.distillation.hints import LayerTerms, TeacherFeatures
from shared.distillation.losses import (
    hard_label_loss,
    objective_loss,
    peer_loss,
    takes_labels,
    takes_teacher,
)
from shared.distillation.nets import Net
from shared.errors import Diverged
from shared.models.checkpoints import stack
from shared.models.network import Network
from shared.models.normalise import normalise

_VALIDATION_ROWS = 2000


class NetStack:
    """Parameters, optimiser and best weights of nets that are trained by the same calls.

    All state has a leading dimension of nets, and every operation on it but the loss of peers acts on each
    net by itself, so a net ends as it would alone.

    Args:
        network: the architecture of every net.
        nets: what each starts from and minimises.
        initial: first weights and buffers of nets by (arm, seed); the others start from their seed.
        preprocessing: from pixels to what the nets see.
        budget: optimiser, rate and precision.
        regularisation: dropout and max-norm.
        teacher: whose layers the objectives look into, or None where none does.
        device: where the nets live.

    Raises:
        UnknownLayer: an objective names a layer that is not there.
        LayersDoNotJoin: a pair of layers cannot be compared.
    """

    def __init__(
        self,
        network: Network,
        nets: Sequence[Net],
        *,
        initial: Mapping[tuple[str, int], Mapping[str, Tensor]],
        preprocessing: Preprocessing,
        budget: Budget,
        regularisation: Regularisation,
        teacher: TeacherFeatures | None,
        device: torch.device,
    ) -> None:
        self.nets = tuple(nets)
        self.device = device
        self._network = network
        self._preprocessing = preprocessing
        self._max_norm = regularisation.max_norm
        self._bf16 = budget.precision == "bfloat16"
        first = stack([initial.get((net.arm, net.seed)) or network.initial(net.own_seed) for net in nets])
        # A copy: given weights stay as they are.
        self.tensors = {name: tensor.to(device, copy=True) for name, tensor in first.items()}
        self.weights = {
            name: tensor.requires_grad_()
            for name, tensor in self.tensors.items()
            if name in network.trainable
        }
        self.best = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        self.loss_sum = torch.zeros(len(nets), dtype=torch.float64, device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._tasks = _tasks(nets, device)
        self._layer_terms: list[tuple[Int64[Tensor, " _"], LayerTerms]] = []
        for objective, _, which in self._tasks:
            if objective.needs_features:
                assert teacher is not None, "checked before"
                seeds = [nets[net].own_seed for net in which.tolist()]
                self._layer_terms.append((which, LayerTerms(objective, network, teacher, seeds, device)))
        self._layers = tuple(dict.fromkeys(name for _, terms in self._layer_terms for name in terms.layers))
        # Name, tensor, and which nets its leading dimension stands for.
        self._trained = [(name, tensor, tuple(range(len(nets)))) for name, tensor in self.weights.items()]
        for which, terms in self._layer_terms:
            for name, tensor in terms.regressors.items():
                self._trained.append((f"regressor.{name}", tensor, tuple(which.tolist())))
        self._optimizer = _optimizer([tensor for _, tensor, _ in self._trained], budget)
        self._dropout = Dropout(regularisation, network.dropout_units, device)
        self._limited = [self.weights[name] for name in network.max_norm_weights]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the nets' batches."""
        return tuple(net.seed for net in self.nets)

    def step(self, batch: Batch, *, epoch: int, step: int, taken: int, learning_rate: float) -> None:
        """Take one optimiser step on a batch a net.

        Args:
            batch: a net's each.
            epoch: counted from 0.
            step: of the epoch, counted from 0.
            taken: steps of the training before this one.
            learning_rate: of this step.

        Raises:
            Diverged: a loss is not finite; the weights are as they were. On CUDA, where looking would mean
                waiting at every step, `check` tells later.
        """
        keep = self._dropout.factors([net.own_seed for net in self.nets], batch.images.shape[1], epoch, step)
        features: dict[str, Tensor] = {}
        with self._products():
            if self._layers:
                logits, features = self._network.features(
                    self.tensors, batch.images, self._layers, keep, training=True
                )
            else:
                logits = self._network.logits(self.tensors, batch.images, keep, training=True)
        losses = self._losses(logits.float(), features, batch, taken)
        self.loss_sum += losses.detach() * batch.images.shape[1]
        finite = losses.detach().isfinite().all()
        if self.device.type == "cpu":
            if not finite:
                raise Diverged(epoch + 1, float(losses.detach().sum()), step + 1)
        else:
            self._first_bad = torch.where(finite | (self._first_bad >= 0), self._first_bad, step)
        self._optimizer.zero_grad()
        # Each net's weights feel its own loss only, so the sum gives every net its own gradient.
        torch.autograd.backward(losses.sum())
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._limit_norms()

    def check(self, epoch: int) -> None:
        """Check that losses and weights are finite; waits for the device.

        Args:
            epoch: that is or was trained, counted from 1.

        Raises:
            Diverged: they are not.
        """
        bad = int(self._first_bad)
        finite = all(bool(tensor.isfinite().all()) for tensor in self.tensors.values())
        if bad >= 0 or not finite:
            raise Diverged(epoch, float("nan"), bad + 1 if bad >= 0 else None)

    def validate(
        self, images: UInt8[Tensor, "rows height width channels"], labels: Int64[Tensor, " rows"]
    ) -> tuple[Float64[Tensor, " nets"], Float64[Tensor, " nets"]]:
        """Return each net's accuracy and mean loss in nats on labelled images at T = 1."""
        nets = len(self.nets)
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

    def state(self) -> list[dict[str, Tensor]]:
        """Return all that each net's training goes on from."""
        states = [{"loss_sum": self.loss_sum[net].clone()} for net in range(len(self.nets))]
        for net, state in enumerate(states):
            for name, tensor in self.tensors.items():
                state[f"tensors/{name}"] = tensor.detach()[net]
                state[f"best/{name}"] = self.best[name][net]
        for name, weight, nets in self._trained:
            for place, net in enumerate(nets):
                if name not in self.tensors:
                    states[net][f"regressor/{name}"] = weight.detach()[place]
                for slot, value in self._optimizer.state[weight].items():
                    # Adam counts steps a tensor, not a number of it.
                    own = value[place] if value.shape == weight.shape else value.clone()
                    states[net][f"optimizer/{slot}/{name}"] = own
        return states

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Take over what `state` returned."""
        self.loss_sum.copy_(torch.stack([state["loss_sum"] for state in states]))
        slots: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(torch.stack([state[f"tensors/{name}"] for state in states]))
                self.best[name].copy_(torch.stack([state[f"best/{name}"] for state in states]))
            for index, (name, weight, nets) in enumerate(self._trained):
                own = [states[net] for net in nets]
                if name not in self.tensors:
                    weight.copy_(torch.stack([state[f"regressor/{name}"] for state in own]))
                keys = [key for key in own[0] if key.startswith("optimizer/") and key.endswith(f"/{name}")]
                found = {key.split("/")[1]: [state[key] for state in own] for key in keys}
                if found:
                    slots[index] = {
                        slot: torch.stack(values) if values[0].ndim else values[0]
                        for slot, values in found.items()
                    }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": groups})

    def _losses(
        self,
        logits: Float[Tensor, "nets batch classes"],
        features: Mapping[str, Tensor],
        batch: Batch,
        taken: int,
    ) -> Float[Tensor, " nets"]:
        losses = logits.new_zeros(len(self.nets))
        for objective, peers, which in self._tasks:
            own, labels, teacher = logits, batch.labels, batch.teacher_logits
            if len(self._tasks) > 1:
                own = logits[which]
                labels = labels[which] if labels is not None else None
                teacher = teacher[which] if teacher is not None else None
            if peers:
                found = _losses_of_peers(own, labels, objective, taken)
            else:
                # Before a teacher is there the labels are all there is.
                present = objective if teacher is not None else _without_teacher(objective)
                found = objective_loss(own, teacher, labels, present, step=taken)
            losses = found if len(self._tasks) == 1 else losses.index_copy(0, which, found)
        for which, terms in self._layer_terms:
            seen = {name: feature[which] for name, feature in features.items()}
            of_layers = terms.losses(seen, batch.pixels[which], step=taken)
            if of_layers is not None:
                losses = losses.index_add(0, which, of_layers)
        return losses

    def _limit_norms(self) -> None:
        if self._max_norm is None:
            return
        with torch.no_grad():
            for weight in self._limited:
                incoming = tuple(range(2, weight.dim()))
                norms = torch.linalg.vector_norm(weight, dim=incoming, keepdim=True)
                # Looking costs a GPU a wait, and saves a CPU a pass over the weights.
                if self.device.type == "cpu" and not bool((norms > self._max_norm).any()):
                    continue
                weight.mul_((self._max_norm / norms.clamp_min(1e-12)).clamp_max_(1.0))

    def _products(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)


def _losses_of_peers(
    logits: Tensor, labels: Tensor | None, objective: Objective, taken: int
) -> Float[Tensor, " members"]:
    losses = logits.new_zeros(logits.shape[0])
    if takes_teacher(objective, taken) and objective.soft_weight:
        losses = losses + objective.soft_weight * peer_loss(logits, temperature=objective.temperature)
    if takes_labels(objective, taken) and objective.hard_weight:
        assert labels is not None, "checked before"
        losses = losses + objective.hard_weight * hard_label_loss(logits, labels)
    return losses


def _without_teacher(objective: Objective) -> Objective:
    return objective.model_copy(update={"soft_weight": 0.0, "logit_weight": 0.0, "decoupled": None})


def _optimizer(weights: list[Tensor], budget: Budget) -> torch.optim.Optimizer:
    # Fused: one pass over the weights instead of a dozen; both rules act on each number by itself.
    if budget.optimizer == "adam":
        return torch.optim.Adam(
            weights, lr=budget.learning_rate, weight_decay=budget.weight_decay, fused=True
        )
    return torch.optim.SGD(
        weights,
        lr=budget.learning_rate,
        momentum=budget.momentum,
        nesterov=budget.momentum > 0,
        weight_decay=budget.weight_decay,
        fused=True,
    )


def _tasks(nets: Sequence[Net], device: torch.device) -> list[tuple[Objective, bool, Int64[Tensor, " _"]]]:
    """Return the nets that share a formula: the objective, whether they are peers, and which they are."""
    alike = [(net.objective, net.group, net.seed if net.group is not None else None) for net in nets]
    return [
        (
            one[0],
            one[1] is not None,
            torch.tensor([i for i, other in enumerate(alike) if other == one], device=device),
        )
        for one in dict.fromkeys(alike)
    ]
