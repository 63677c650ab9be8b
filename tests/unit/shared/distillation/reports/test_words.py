import pytest

from shared.contracts.architectures import Cnn, Mlp, ResNet, Timm
from shared.contracts.training import (
    AttentionTransfer,
    Budget,
    Decoupled,
    Hint,
    Objective,
    Regularisation,
    TransferSetSpec,
)
from shared.distillation.reports import words


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        (Mlp(hidden_units=(800, 30)), "perceptron with hidden layers of 800, 30 units"),
        (ResNet(architecture="resnet8x4"), "resnet8x4"),
        (Cnn(channels=(8, 16), hidden_units=32), "cnn, channels \\[8, 16\\], hidden units 32"),
        (Timm(model="resnet10t"), "timm, model resnet10t"),
    ],
)
def test_every_kind_of_net_is_named_with_its_sizes(architecture, said):
    assert words.network(architecture) == said


def test_only_terms_with_a_weight_are_named():
    assert words.objective(Objective(temperature=4.0, soft_weight=0.9)) == "T = 4, soft weight 0.9"
    everything = Objective(
        hard_weight=0.1,
        logit_weight=2.0,
        decoupled=Decoupled(),
        standardise=True,
        alternate=True,
        hint=Hint(weight=3.0, student_layer="hidden.0", teacher_layer="block.1"),
        attention=AttentionTransfer(weight=4.0, layers=(("block.0", "block.2"),)),
    )
    said = words.objective(everything)
    for term in (
        "hard weight 0.1", "logit weight 2", "decoupled 1 (target) and 8 (others)", "logits standardised",
        "soft and hard steps in turn", "hint 3 from block.1 to hidden.0",
        "attention transfer 4 from block.2 to block.0",
    ):  # fmt: skip
        assert term in said


def test_a_transfer_set_says_what_it_lacks():
    asked = TransferSetSpec(views=3, jitter_px=2, flip=True, omit=("a|b",), share=0.5, label_share=0.03)
    assert words.transfer_set(asked) == (
        "3 view(s) an image, shifted by up to 2 px, mirrored, without the classes a\\|b, "
        "50.00% of the images, labels of 3.00% of them"
    )
    assert words.transfer_set(TransferSetSpec(only=("7", "8"))) == "1 view(s) an image, only the classes 7, 8"


def test_rules_at_their_defaults_are_left_out():
    assert words.regularisation(Regularisation()) == ""
    assert words.regularisation(Regularisation(max_norm=3.0)) == "max norm 3.0"
    assert "weight decay" not in words.budget(Budget())
    assert words.facts(("A", "one"), ("B", "")) == "- A: one"


@pytest.mark.parametrize(("count", "said"), [(1_500, "1.5 kB"), (5_110_123, "5.11 MB")])
def test_sizes_have_the_unit_that_fits(count, said):
    assert words.size(count) == said
