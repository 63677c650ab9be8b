"""Nets of other libraries, run as `Network` runs ours.

Several nets are asked one after another: foreign code may branch on what it computes, which no batching over
nets survives. Dropout that such a net brings along is off; `Regularisation` says where units are dropped.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from shared.contracts.images import ImageInput
from shared.errors import ArchitectureInvalid
from shared.models.checkpoints import net_tensors
from shared.models.families import Family, Keep, known_layers

Build = Callable[[int], nn.Module]
"""Makes the library's net, its weights drawn from a seed."""


class ForeignNet(nn.Module):
    """One net of another library that answers with logits alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits of normalised images."""
        answer = self.net(images)
        logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
        return logits


class ForeignFamily(Family):
    """Nets of another library of one shape. Dropout acts on pixels and before the last linear layer.

    Layers are the library's modules that are called once and answer with one tensor, by their names there.

    Args:
        build: makes a net.
        name: of the library, for errors.
        image: what the nets take.
        classes: how many.

    Raises:
        ArchitectureInvalid: the net does not take such images, or does not end in a linear layer with a bias.
    """

    def __init__(self, build: Build, name: str, image: ImageInput, classes: int) -> None:
        self._build = build
        # The net whose numbers are replaced at each call: one call at a time.
        self._skeleton = ForeignNet(build(0)).eval()
        self._lock = threading.Lock()
        linear = [
            (path, layer)
            for path, layer in self._skeleton.named_modules()
            if isinstance(layer, nn.Linear) and layer.out_features == classes and layer.bias is not None
        ]
        if not linear:
            raise ArchitectureInvalid(name, f"no linear layer with a bias gives {classes} classes")
        head, self._head_layer = linear[-1]
        self.head = (f"{head}.weight", f"{head}.bias")
        self.dropout_units = (image.values, self._head_layer.in_features)
        self.trainable = frozenset(path for path, _ in self._skeleton.named_parameters())
        self.max_norm_weights = tuple(
            f"{path}.weight"
            for path, layer in self._skeleton.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and path != head
        )
        self.layers = self._find_layers(name, image, classes)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return first weights and buffers as the library draws them with the generator's seed."""
        net = ForeignNet(self._build(generator.initial_seed()))
        return {name: tensor.detach().clone() for name, tensor in net_tensors(net).items()}

    def forward(
        self,
        tensors: Mapping[str, Tensor],
        images: Float[Tensor, "nets batch channels height width"],
        keep: Keep | None,
        *,
        layers: Sequence[str],
        training: bool,
    ) -> tuple[Float[Tensor, "nets batch classes"], dict[str, Tensor]]:
        """Return logits and what the named layers answered."""
        known_layers(layers, self.layers)
        pixels, units = keep if keep is not None else (None, None)
        batches = images if pixels is None else images * pixels.view(images.shape)
        logits, features = [], []
        with self._lock:
            self._skeleton.to(images.device)
            for layer in self._skeleton.modules():
                if isinstance(layer, _BatchNorm):
                    layer.train(training)
            for net, batch in enumerate(batches):
                of_net = {name: tensor[net] for name, tensor in tensors.items()}
                with (
                    _watched(self._skeleton, layers) as found,
                    _dropped(self._head_layer, None if units is None else units[net]),
                ):
                    logits.append(functional_call(self._skeleton, of_net, (batch,)))
                features.append(found)
        return torch.stack(logits), {
            layer: torch.stack([found[layer][0] for found in features]) for layer in layers
        }

    def module(self) -> nn.Module:
        """Return one net."""
        return ForeignNet(self._build(0))

    def _find_layers(self, name: str, image: ImageInput, classes: int) -> dict[str, tuple[int, ...]]:
        paths = [path.removeprefix("net.") for path, _ in self._skeleton.net.named_modules() if path]
        example = torch.zeros(2, image.channels, image.height, image.width)
        with _watched(self._skeleton, paths) as found, torch.inference_mode():
            try:
                logits = self._skeleton(example)
            except Exception as error:
                # Foreign code again: say what it says.
                raise ArchitectureInvalid(name, f"{type(error).__name__}: {error}") from error
        if tuple(logits.shape) != (2, classes):
            raise ArchitectureInvalid(name, f"it answers {tuple(logits.shape[1:])}, not {classes} logits")
        return {
            path: tuple(answers[0].shape[1:])
            for path, answers in found.items()
            if len(answers) == 1 and answers[0].shape[:1] == (2,)
        }


@contextmanager
def _watched(net: ForeignNet, layers: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Gather what the named modules answer with while the context lasts, where it is one tensor."""
    found: dict[str, list[Tensor]] = {}

    def watch(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, answer: object) -> None:
            if isinstance(answer, Tensor):
                found.setdefault(path, []).append(answer)

        return hook

    with ExitStack() as hooks:
        for path in layers:
            hooks.callback(net.net.get_submodule(path).register_forward_hook(watch(path)).remove)
        yield found


@contextmanager
def _dropped(layer: nn.Linear, factors: Float[Tensor, "batch units"] | None) -> Iterator[None]:
    """Multiply what enters the layer by the factors while the context lasts."""
    if factors is None:
        yield
        return
    hook = layer.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] * factors,))
    try:
        yield
    finally:
        hook.remove()
