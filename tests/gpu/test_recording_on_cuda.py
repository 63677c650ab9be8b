"""What a pass needs to be recorded as a CUDA graph: nothing of it may come from main memory."""

import pytest
import torch

from shared.contracts.images import ImageInput, Preprocessing
from shared.models.normalise import normalise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIZE = ImageInput(height=8, width=8, channels=1)


@pytest.mark.parametrize(
    "net", [None, ImageInput(height=24, width=24, channels=3)], ids=["as-is", "enlarged"]
)
def test_normalising_can_be_recorded_after_a_first_pass(net):
    channels = 1 if net is None else 3
    preprocessing = Preprocessing(input=SIZE, mean=(0.3,) * channels, std=(0.4,) * channels, net=net)
    images = torch.zeros(5, 8, 8, 1, dtype=torch.uint8, device="cuda")
    normalise(images, preprocessing)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = normalise(images, preprocessing)
    images.fill_(200)
    graph.replay()
    torch.testing.assert_close(found, normalise(images, preprocessing))
