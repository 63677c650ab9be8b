import pytest
import torch

from shared.contracts.architectures import Cnn, Mlp
from shared.contracts.images import ImageInput
from shared.distillation.bias_repair import class_shares, find_biases, with_biases
from shared.distillation.losses import UNLABELLED, hard_label_loss
from shared.errors import BiasRepairFailed
from shared.models.network import Network

CLASSES = 4


def logits(rows: int = 300, seed: int = 1, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)


def mass(z: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    return (z + biases).softmax(-1).mean(0)


def test_the_mean_softmax_mass_becomes_the_shares():
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    z = logits()
    biases = find_biases(z, shares)
    torch.testing.assert_close(mass(z, biases), shares, rtol=0, atol=1e-6)
    assert biases.sum().item() == pytest.approx(0, abs=1e-9)
    assert biases.dtype == torch.float64


def test_biases_taken_away_are_found_again():
    """Logits whose mass is m are spoilt by known biases; the repair towards m undoes just these."""
    z, spoilt_by = logits(), torch.tensor([-9.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    found = find_biases(z + spoilt_by, mass(z, torch.zeros(CLASSES)))
    torch.testing.assert_close(found, -spoilt_by + spoilt_by.mean(), rtol=0, atol=1e-5)


def test_a_posterior_learnt_under_other_shares_becomes_the_right_one():
    """Bayes: p(class | x) under new shares is the old one times new / old share, scaled.

    Two images-worth of evidence x with known likelihoods; rows come as often as the new shares make them.
    """
    likelihood = torch.tensor([[0.7, 0.2], [0.2, 0.3], [0.1, 0.5]], dtype=torch.float64)  # of x, a class
    old, new = torch.tensor([0.02, 0.98]).double(), torch.tensor([0.6, 0.4]).double()
    z = (likelihood * old).log()
    # Ten thousand images in which each x comes as often as it does under the new shares.
    counts = (10_000 * likelihood @ new).round().long()
    found = find_biases(z.repeat_interleave(counts, 0), new)
    truth = (new / old).log()
    torch.testing.assert_close(found, truth - truth.mean(), rtol=0, atol=1e-3)


def test_the_biases_are_the_optimum_of_the_likelihood_of_labels_in_these_shares():
    """With labels at hand in the shares asked for, no other biases have a lower cross-entropy."""
    z = logits(rows=400)
    labels = torch.arange(400) % CLASSES
    # Each image once with each class: labels in equal shares that tell nothing about the image.
    images, each = z.repeat_interleave(CLASSES, 0), labels[:CLASSES].repeat(400)
    shares = class_shares(each, CLASSES)
    best = find_biases(z, shares)
    at_best = hard_label_loss(images + best, each)
    for trial in range(20):
        other = best + 0.1 * torch.randn(CLASSES, generator=torch.Generator().manual_seed(trial))
        assert hard_label_loss(images + other, each) > at_best


def test_a_class_that_was_never_seen_comes_back():
    """Its logit lies twenty below; rows that lean towards it are then given to it."""
    truth = torch.arange(400) % CLASSES
    z = logits(rows=400, scale=0.5) + 4.0 * torch.nn.functional.one_hot(truth, CLASSES)
    z[:, 3] -= 20.0
    assert (z.argmax(-1) == 3).sum() == 0
    repaired = z + find_biases(z, torch.full((CLASSES,), 0.25))
    assert (repaired.argmax(-1) == truth).double().mean() > 0.95


def test_far_biases_are_reached():
    z = logits(scale=1.0)
    z[:, 0] -= 300.0
    biases = find_biases(z, torch.tensor([0.97, 0.01, 0.01, 0.01]))
    torch.testing.assert_close(
        mass(z, biases), torch.tensor([0.97, 0.01, 0.01, 0.01]).double(), rtol=0, atol=1e-6
    )


def test_what_no_bias_can_do_is_refused():
    """Two rows that are certain beyond float64 keep a half each."""
    z = torch.tensor([[1e6, 0.0], [0.0, 1e6]])
    with pytest.raises(BiasRepairFailed, match="from its share"):
        find_biases(z, torch.tensor([0.9, 0.1]))


@pytest.mark.parametrize("shares", [[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5], [1.2, -0.1, -0.05, -0.05]])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(BiasRepairFailed, match="above 0 and sum to 1"):
        find_biases(logits(), torch.tensor(shares))


def test_logits_that_are_not_finite_or_not_there_are_refused():
    spoilt = logits()
    spoilt[3, 1] = float("nan")
    for bad in (spoilt, logits()[:0]):
        with pytest.raises(BiasRepairFailed, match="finite logits"):
            find_biases(bad, torch.full((CLASSES,), 0.25))


def test_shares_of_labels_leave_unlabelled_rows_out():
    labels = torch.tensor([0, 1, 1, UNLABELLED, 0, 1, UNLABELLED])
    assert class_shares(labels, 2).tolist() == [0.4, 0.6]
    with pytest.raises(BiasRepairFailed, match=r"classes \[2\]"):
        class_shares(labels, 3)


@pytest.mark.parametrize("architecture", [Mlp(hidden_units=(7,)), Cnn(channels=(3,), hidden_units=5)])
def test_biases_in_the_head_are_biases_on_the_logits(architecture):
    network = Network(architecture, ImageInput(height=6, width=6, channels=1), CLASSES)
    tensors, images = network.initial(0), torch.randn(1, 9, 1, 6, 6)
    biases = torch.tensor([1.0, -2.0, 0.5, 0.5], dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    plain, repaired = (
        network.logits({name: t.unsqueeze(0) for name, t in of.items()}, images)
        for of in (tensors, with_biases(network, tensors, biases))
    )
    torch.testing.assert_close(repaired, plain + biases.float())
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
