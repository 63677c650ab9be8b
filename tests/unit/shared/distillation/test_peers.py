import torch

from shared.contracts.architectures import Mlp
from shared.distillation.inference import net_logits
from shared.distillation.peers import mean_of_peers, stored_logits
from shared.models.network import Network
from tests.support.cohorts import CLASSES, PREPROCESSING, pictures


def test_the_mean_of_peers_softens_to_the_mean_of_their_probabilities_at_t():
    """Algorithm 1 of arXiv:1804.03235, by hand in float64."""
    peers = [torch.randn(7, CLASSES, generator=torch.Generator().manual_seed(seed)) * 3 for seed in (1, 2, 3)]
    for temperature in (1.0, 4.0):
        mean = torch.stack([(peer.double() / temperature).softmax(-1) for peer in peers]).mean(0)
        found = (mean_of_peers(peers, temperature).double() / temperature).softmax(-1)
        torch.testing.assert_close(found, mean, atol=2e-3, rtol=2e-3)  # 16-bit logits


def test_one_peer_is_its_own_mean_at_every_temperature():
    peer = torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(0))
    centred = peer - peer.mean(-1, keepdim=True)
    for temperature in (0.5, 1.0, 20.0):
        torch.testing.assert_close(mean_of_peers([peer], temperature).float(), centred, atol=2e-3, rtol=2e-3)


def test_stored_logits_are_a_nets_logits_with_zero_mean():
    network = Network(Mlp(hidden_units=(8,)), PREPROCESSING.input, CLASSES)
    tensors, images = network.initial(0), pictures(9, 1)[0]
    stored = stored_logits(network, tensors, images, PREPROCESSING, torch.device("cpu"))
    logits = net_logits(network, tensors, images, PREPROCESSING)
    assert stored.dtype is torch.float16
    torch.testing.assert_close(stored.float(), logits - logits.mean(-1, keepdim=True), atol=2e-3, rtol=2e-3)
    huge = mean_of_peers([torch.tensor([[1e6, -1e6, 0.0, 0.0]])], 1.0)
    assert huge.isfinite().all()
