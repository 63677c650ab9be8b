"""A small task that a perceptron learns in a second: which quarter of a noisy image is the brightest."""

from datetime import UTC, datetime

import torch

from shared.contracts.architectures import Architecture, Mlp
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teachers import Nets, TeacherDescription
from shared.contracts.training import Budget, Objective, Regularisation
from shared.distillation.cohort import HARD_LABELS, Net
from shared.distillation.examples import Examples
from shared.distillation.hints import TeacherFeatures
from shared.models.checkpoints import stack
from shared.models.network import Network
from shared.transfer_set.views import ViewParameters

ARCHITECTURE = Mlp(hidden_units=(24, 16))
CLASSES = 4
PREPROCESSING = Preprocessing(input=ImageInput(height=6, width=6, channels=1), mean=(0.5,), std=(0.3,))
BUDGET = Budget(epochs=4, batch_size=32, learning_rate=1e-2)
REGULARISED = Regularisation(input_dropout=0.1, hidden_dropout=0.3, max_norm=1.0, jitter_px=1)
TAUGHT = Objective(temperature=4.0, soft_weight=1.0, hard_weight=0.0)


def pictures(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    images = torch.randint(0, 170, (rows, 6, 6, 1), generator=generator)
    for row, label in enumerate(labels.tolist()):
        top, left = 3 * (label // 2), 3 * (label % 2)
        images[row, top : top + 3, left : left + 3] += 85
    return images.to(torch.uint8), labels


def examples(*, views: int | None = 1) -> Examples:
    """Return 200 training and 60 validation images; the teacher is sure of each view in its own way."""
    images, labels = pictures(200, 1)
    validation_images, validation_labels = pictures(60, 2)
    logits, parameters = None, None
    if views is not None:
        generator = torch.Generator().manual_seed(3)
        sure = 6.0 * torch.nn.functional.one_hot(labels, CLASSES)
        logits = (sure + torch.randn(views, 200, CLASSES, generator=generator)).half()
        parameters = ViewParameters.as_is((views, 200), (6, 6))
        parameters.shift[1:] = torch.randint(-1, 2, (views, 200, 2), generator=generator)[1:].numpy()
    return Examples(
        images, labels, validation_images, validation_labels, teacher_logits=logits, parameters=parameters
    )


def nets(*seeds: int) -> list[Net]:
    arms = (("taught", TAUGHT), ("untaught", HARD_LABELS))
    return [Net(arm, seed, objective) for seed in seeds for arm, objective in arms]


def peers(*seeds: int, members: int = 2, objective: Objective | None = None) -> list[Net]:
    """Return a cohort a seed whose members teach each other."""
    mutual = objective or Objective(temperature=2.0, soft_weight=1.0, hard_weight=1.0)
    return [
        Net(f"member-{member}", seed, mutual, member=member, group="cohort")
        for seed in seeds
        for member in range(members)
    ]


def teacher_features(architecture: Architecture = ARCHITECTURE, members: int = 1) -> TeacherFeatures:
    """Return an untrained teacher of the task, loaded for its layers."""
    network = Network(architecture, PREPROCESSING.input, CLASSES)
    description = TeacherDescription(
        name="sage",
        digest="5" * 64,
        model=Nets(architecture=architecture, members=members),
        classes=("one", "two", "three", "four"),
        preprocessing=Preprocessing(input=PREPROCESSING.input, mean=(0.4,), std=(0.25,)),
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
    )
    return TeacherFeatures(description, stack([network.initial(77 + member) for member in range(members)]))


def teachers(*seeds: int) -> list[Net]:
    return [Net("teacher", seed) for seed in seeds]
