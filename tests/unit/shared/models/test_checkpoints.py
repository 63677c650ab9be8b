import pytest
import torch

from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput
from shared.models.checkpoints import (
    from_arrays,
    load_into,
    read_tensors,
    stack,
    to_arrays,
    to_bytes,
    unstack,
)
from shared.models.network import Network

IMAGE = ImageInput(height=4, width=3, channels=2)
NETWORK = Network(Mlp(hidden_units=(7, 5)), IMAGE, 3)


def test_tensors_survive_numpy_safetensors_and_stacking(tmp_path):
    first, second = NETWORK.initial(0), NETWORK.initial(1)
    (tmp_path / "net.safetensors").write_bytes(to_bytes(first))
    for name, tensor in first.items():
        assert torch.equal(from_arrays(to_arrays(first))[name], tensor)
        assert torch.equal(read_tensors(tmp_path / "net.safetensors")[name], tensor)
        assert torch.equal(unstack(stack([first, second]))[0][name], tensor)


def test_a_checkpoint_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_into(Network(Mlp(hidden_units=(8, 5)), IMAGE, 3).module(), NETWORK.initial(0))
