import pytest
import torch

from shared.contracts.architectures import Cnn, Mlp
from shared.contracts.training import AttentionTransfer, Budget, Hint, Objective
from shared.distillation.cohort import Net, train_cohort
from shared.distillation.examples import Examples
from shared.distillation.hints import LayerTerms
from shared.distillation.losses import attention_transfer_loss
from shared.errors import InputMismatch, LayersDoNotJoin, TeacherNotLoadable, UnknownLayer
from shared.models.network import Network
from shared.models.normalise import normalise
from tests.support.cohorts import (
    ARCHITECTURE,
    BUDGET,
    CLASSES,
    PREPROCESSING,
    examples,
    nets,
    teacher_features,
)

CNN, WIDE_CNN = Cnn(channels=(4, 6), hidden_units=8), Cnn(channels=(5, 7), hidden_units=9)


def of_layers(**terms) -> Objective:
    """No job may ask for these terms alone, which train no head; here they are looked at by themselves."""
    return Objective().model_copy(update={"soft_weight": 0.0, "hard_weight": 0.0, **terms})


def hint(student_layer: str, teacher_layer: str, weight: float = 1.0) -> Hint:
    return Hint(weight=weight, student_layer=student_layer, teacher_layer=teacher_layer)


def network(architecture) -> Network:
    return Network(architecture, PREPROCESSING.input, CLASSES)


def train(asked, architecture=ARCHITECTURE, data=None, **options):
    options = {"classes": CLASSES, "preprocessing": PREPROCESSING, "budget": BUDGET, **options}
    return train_cohort(architecture, asked, data if data is not None else examples(), **options)


def maps_of(net: Network) -> list[str]:
    return [name for name, shape in net.layers.items() if len(shape) == 3]


def test_a_teacher_is_shown_the_images_by_its_own_preprocessing():
    teacher, images = teacher_features(), examples().images[:6].view(2, 3, 6, 6, 1)
    features = teacher.of(images, ["hidden.1"])["hidden.1"]
    own = teacher.network.initial(77)
    normalised = (images.view(6, 6, 6, 1).movedim(-1, 1) / 255 - 0.4) / 0.25
    _, expected = teacher.network.features(
        {name: t.unsqueeze(0) for name, t in own.items()}, normalised.unsqueeze(0), ["hidden.1"]
    )
    torch.testing.assert_close(features.view(6, 16), expected["hidden.1"][0])
    assert not features.requires_grad


def test_images_of_another_size_are_refused():
    with pytest.raises(InputMismatch, match="takes images of 6 x 6 x 1, got 5 x 6 x 1"):
        teacher_features().of(torch.zeros(1, 2, 5, 6, 1, dtype=torch.uint8), ["hidden.0"])


def test_an_ensemble_has_no_layers_to_look_into():
    with pytest.raises(TeacherNotLoadable, match="ensemble of 2 nets"):
        teacher_features(members=2)


def test_the_first_step_with_a_hint_is_the_one_by_hand():
    """Net and regressor both move down the gradient of half the mean squared difference."""
    data, teacher = examples(views=None), teacher_features()
    objective = of_layers(hint=hint("hidden.0", "hidden.1", weight=3.0))
    budget = Budget(epochs=1, batch_size=200, optimizer="sgd", learning_rate=0.1, momentum=0.0)
    (net,) = train(
        [Net("taught", 5, objective)], data=Examples(data.images, None), budget=budget, teacher=teacher
    )
    student = network(ARCHITECTURE)
    weights = {name: t.unsqueeze(0).requires_grad_() for name, t in student.initial(5).items()}
    images = normalise(data.images, PREPROCESSING).unsqueeze(0)
    _, features = student.features(weights, images, ["hidden.0"])
    terms = LayerTerms(objective, student, teacher, [5], torch.device("cpu"))
    weight, bias = terms.regressors["weight"][0], terms.regressors["bias"][0]
    wanted = teacher.of(data.images.unsqueeze(0), ["hidden.1"])["hidden.1"][0]
    loss = 3.0 * 0.5 * (features["hidden.0"][0] @ weight.T + bias - wanted).square().mean()
    loss.backward()
    for name in ("layers.0.weight", "layers.0.bias"):
        expected = (weights[name] - 0.1 * weights[name].grad)[0]
        torch.testing.assert_close(net.tensors[name], expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(net.tensors["layers.2.weight"], student.initial(5)["layers.2.weight"])
    assert set(net.tensors) == set(student.initial(5)), "the regressor is thrown away"


def test_a_hint_of_images_is_a_1_x_1_convolution():
    student, teacher = network(CNN), teacher_features(WIDE_CNN)
    layer = maps_of(student)[0]
    objective = of_layers(hint=hint(layer, layer))
    terms = LayerTerms(objective, student, teacher, [3, 4], torch.device("cpu"))
    pixels = examples().images[:10].view(2, 5, 6, 6, 1)
    feature = torch.randn(2, 5, *student.layers[layer])
    found = terms.losses({layer: feature}, pixels, step=0)
    for net in range(2):
        weight, bias = (terms.regressors[name][net] for name in ("weight", "bias"))
        regressed = torch.nn.functional.conv2d(feature[net], weight[:, :, None, None], bias)
        wanted = teacher.of(pixels, [layer])[layer][net]
        torch.testing.assert_close(found[net], 0.5 * (regressed - wanted).square().mean())


def test_attention_is_led_to_the_teachers_maps():
    student, teacher = network(CNN), teacher_features(WIDE_CNN)
    layer = maps_of(student)[0]
    objective = of_layers(attention=AttentionTransfer(weight=2.0, layers=((layer, layer),)))
    terms = LayerTerms(objective, student, teacher, [3], torch.device("cpu"))
    pixels, feature = examples().images[:5].unsqueeze(0), torch.randn(1, 5, *student.layers[layer])
    expected = 2.0 * attention_transfer_loss([feature], [teacher.of(pixels, [layer])[layer]])
    torch.testing.assert_close(terms.losses({layer: feature}, pixels, step=0), expected)
    assert not terms.regressors


def test_hints_lead_a_layer_towards_the_teachers():
    data, teacher = examples(), teacher_features()
    budget = Budget(epochs=15, batch_size=32, learning_rate=1e-2)
    objective = of_layers(hint=hint("hidden.0", "hidden.0"))
    (net,) = train([Net("taught", 0, objective)], budget=budget, teacher=teacher, data=data)
    losses = [point.loss for point in net.curve.points]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("together", [False, True])
def test_hinted_nets_become_the_same_alone_and_at_once(together):
    teacher = teacher_features(WIDE_CNN)
    layer = maps_of(teacher.network)[0]
    objective = Objective(
        temperature=4.0,
        hint=hint(layer, layer),
        attention=AttentionTransfer(weight=1.0, layers=((layer, layer),)),
    )
    asked = [Net("taught", seed, objective) for seed in (0, 1)] + nets(1)[1:]
    for net, found in zip(asked, train(asked, CNN, teacher=teacher, together=together), strict=True):
        (alone,) = train([net], CNN, teacher=teacher)
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(found.tensors[name], tensor, rtol=2e-3, atol=5e-4)


def test_layers_that_are_not_there_are_refused_by_name():
    objective = of_layers(hint=hint("hidden.7", "hidden.0"))
    with pytest.raises(UnknownLayer, match=r"'hidden\.7'"):
        train([Net("taught", 0, objective)], teacher=teacher_features())
    objective = of_layers(hint=hint("hidden.0", "block.1"))
    with pytest.raises(UnknownLayer, match=r"'block\.1'"):
        train([Net("taught", 0, objective)], teacher=teacher_features())


def test_layers_that_cannot_be_joined_are_refused_with_both_shapes_before_training():
    teacher = teacher_features(WIDE_CNN)
    layer = maps_of(teacher.network)[0]
    shape = " x ".join(map(str, teacher.network.layers[layer]))
    objective = of_layers(hint=hint("hidden.0", layer))
    told = []
    with pytest.raises(LayersDoNotJoin) as caught:
        train([Net("taught", 0, objective)], teacher=teacher, on_epoch=lambda *told_: told.append(told_))
    assert not told
    assert "of shape 24" in str(caught.value)
    assert f"of shape {shape}" in str(caught.value)


def test_attention_between_vectors_is_refused():
    objective = of_layers(attention=AttentionTransfer(weight=1.0, layers=(("hidden.0", "hidden.0"),)))
    with pytest.raises(LayersDoNotJoin):
        train([Net("taught", 0, objective)], Mlp(hidden_units=(24,)), teacher=teacher_features())


def test_without_a_teacher_terms_on_layers_are_refused():
    with pytest.raises(ValueError, match="there is no teacher"):
        train([Net("taught", 0, of_layers(hint=hint("hidden.0", "hidden.0")))])
