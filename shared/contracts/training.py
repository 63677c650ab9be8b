"""What a training may vary: objective, budget, regularisation, and what the student is shown."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from shared.contracts.architectures import Architecture, Mlp
from shared.contracts.base import Classes, Contract, Temperature, refuse
from shared.errors import AlternationNeedsBoth, HeadUntaught, InvalidWeights


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("seeds must differ from each other")
    return seeds


Seed = Annotated[int, Field(ge=0, lt=2**31)]

Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=32), AfterValidator(_different)]
"""A net a seed. The same seed twice would be the same net twice, counted as two."""

PairedSeeds = Annotated[tuple[Seed, ...], Field(min_length=2, max_length=32), AfterValidator(_different)]
"""Of taught and untaught nets in pairs, two at least: a verdict needs a spread."""


class Budget(Contract):
    """How long and how fast a net is trained; the same for the student and its untaught twin."""

    epochs: int = Field(default=20, ge=1, le=10_000)
    batch_size: int = Field(default=128, ge=1, le=65_536)
    optimizer: Literal["sgd", "adam"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, le=100)
    """The rate at the start; it falls to 0 along a cosine over the epochs."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD (Nesterov); Adam ignores it."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Added to the gradient, times the weight (L2), for both optimisers."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are kept: the best on the validation split (early stopping), or the last."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products; weights and losses stay float32. bfloat16 is fast on GPUs and on CPUs with AMX."""


class Regularisation(Contract):
    """What keeps a cumbersome net from overfitting (arXiv:1503.02531, section 3)."""

    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)
    max_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of a hidden unit's incoming weights."""
    jitter_px: int = Field(default=0, ge=0, le=64)
    """Each image is shifted by up to this many pixels in each direction, anew each epoch."""
    flip: bool = False
    """Each image is mirrored left to right with probability 1/2, anew each epoch."""


class Decoupled(Contract):
    """Decoupled knowledge distillation (Zhao et al. 2022, arXiv:2203.08679, eq. 7)."""

    target_weight: float = Field(default=1.0, ge=0)
    """Of the KL over "the true class or not" (alpha there)."""
    non_target_weight: float = Field(default=8.0, ge=0)
    """Of the KL over the classes but the true one (beta there)."""

    @property
    def has_weight(self) -> bool:
        """Whether either part counts."""
        return self.target_weight > 0 or self.non_target_weight > 0


class Hint(Contract):
    """A student's layer is led to a teacher's by a learned regressor (FitNets, arXiv:1412.6550, eq. 3)."""

    weight: float = Field(gt=0)
    student_layer: str
    teacher_layer: str


class AttentionTransfer(Contract):
    """A student's maps of activation are led to a teacher's (arXiv:1612.03928, eq. 2)."""

    weight: float = Field(gt=0)
    layers: tuple[tuple[str, str], ...] = Field(min_length=1, max_length=16)
    """Pairs of a student's and a teacher's layer."""


class Objective(Contract):
    """What the student minimises: a weighted sum of terms. Weights of 0 switch terms off.

    By default soft targets at T (T² times the mean KL), plus hard labels at T = 1; arXiv:1503.02531,
    section 2.
    """

    temperature: Temperature = 20.0
    # NaN and infinity pass the field so that the validator below refuses them by their own code.
    soft_weight: float = Field(default=1.0, allow_inf_nan=True)
    hard_weight: float = Field(default=0.0, allow_inf_nan=True)
    logit_weight: float = Field(default=0.0, ge=0)
    """Of half the squared difference of zero-mean logits, mean over classes (Buciluă et al. 2006)."""
    decoupled: Decoupled | None = None
    """In place of, or beside, the soft term, at the same T; needs hard labels and more than two classes."""
    standardise: bool = False
    """Logits are z-scored a row before they are softened (Sun et al. 2024, arXiv:2403.01427)."""
    alternate: bool = False
    """Even steps take the terms of the teacher, odd steps the hard labels, each with its own weight."""
    hint: Hint | None = None
    attention: AttentionTransfer | None = None

    @property
    def needs_features(self) -> bool:
        """Whether a term looks into the teacher's layers, so that the worker has to load the teacher."""
        return self.hint is not None or self.attention is not None

    @property
    def needs_logits(self) -> bool:
        """Whether a term needs what the teacher said of each image."""
        return self.soft_weight > 0 or self.logit_weight > 0 or self.decoupled is not None

    @property
    def needs_labels(self) -> bool:
        """Whether a term needs the true classes."""
        return self.hard_weight > 0 or self.decoupled is not None

    @model_validator(mode="after")
    def _weights_make_sense(self) -> "Objective":
        weights = (self.soft_weight, self.hard_weight)
        finite = all(math.isfinite(w) and w >= 0 for w in weights)
        decoupled = self.decoupled is not None and self.decoupled.has_weight
        teaches_head = any((*weights, self.logit_weight, decoupled))
        if not finite or not (teaches_head or self.needs_features):
            raise refuse(InvalidWeights(*weights))
        if not teaches_head:
            raise refuse(HeadUntaught("a hint" if self.hint is not None else "attention transfer"))
        if self.alternate and not self.hard_weight:
            raise refuse(AlternationNeedsBoth("the hard labels"))
        if self.alternate and not (self.needs_logits or self.needs_features):
            raise refuse(AlternationNeedsBoth("the teacher"))
        return self


class Choice(Contract):
    """Images chosen by what is said of them: the teacher is asked about all, in view 0, and those on which
    it is least sure, or on which it and a student disagree most, are taken."""

    by: Literal["entropy", "disagreement"] = "entropy"
    """Entropy of the teacher's probabilities at T = 1, or the KL from the student's to the teacher's."""
    share: float = Field(gt=0, lt=1)
    """Of the images that the other options leave."""
    student: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]{0,127}$")
    """Version of the student, for `disagreement` alone."""

    @model_validator(mode="after")
    def _student_for_disagreement(self) -> "Choice":
        if (self.student is not None) != (self.by == "disagreement"):
            raise ValueError("`student` is given where images are chosen by disagreement, and only there")
        return self


class Asking(Contract):
    """How a transfer set is come by; what is in it does not depend on this."""

    tasks: int = Field(default=1, ge=1, le=100)
    """Child jobs that share the shards, so that as many workers ask at once. With 1 the job asks itself."""
    live: bool = False
    """Training begins while later views are still asked for: an epoch waits for its own view alone. With as
    many views as epochs, every epoch sees fresh ones (arXiv:2106.05237, "patient and consistent")."""
    rescored_rows: int = Field(default=64, ge=0, le=8192)
    """Cached rows, drawn at random, that are asked for again; a teacher that says something else stops the
    job."""


class TransferSetSpec(Contract):
    """On which views of which training images the teacher is asked. View 0 is always the image as it is."""

    views: int = Field(default=1, ge=1, le=1000)
    jitter_px: int = Field(default=0, ge=0, le=64)
    flip: bool = False
    """Views but the first are mirrored left to right with probability 1/2."""
    crop_scale: float | None = Field(default=None, gt=0, le=1)
    """Views but the first are a random part of the image, of at least this share of its area and a ratio of
    sides from 3/4 to 4/3 of the image's own, resized to the whole (Szegedy et al. 2014, arXiv:1409.4842)."""
    cutout_px: int = Field(default=0, ge=0, le=256)
    """In views but the first a square of this side is black, about a random pixel (arXiv:1708.04552)."""
    brightness: float = Field(default=0.0, ge=0, lt=1)
    """Views but the first are made brighter or darker by a factor of 1 - this to 1 + this."""
    contrast: float = Field(default=0.0, ge=0, lt=1)
    """The same about the image's mean."""
    seed: Seed = 0
    omit: tuple[str, ...] = ()
    """Classes whose images are left out."""
    only: tuple[str, ...] = ()
    """Classes whose images alone are taken; empty takes all."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the images, drawn a class at a time where they are labelled."""
    label_share: float = Field(default=1.0, ge=0, le=1)
    """Of the images taken, those whose hard label may be used; the rest pass as unlabelled."""
    choose: Choice | None = None
    top_k: int | None = Field(default=None, ge=1, le=65_535)
    """Logits kept a row, the largest, with the mass of the rest; None keeps all. For many classes."""


class BiasRepair(Contract):
    """Class biases found after training, so that the mean softmax mass matches the classes' shares.

    A student that never saw a class has learned that it never comes (arXiv:1503.02531, section 3). Test
    labels are not used.
    """

    source: Literal["unlabelled", "validation"] = "unlabelled"
    """Where the mass is taken: all training images without their labels, or the validation split."""
    prior: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None
    """Share of each class. None is equal shares for `unlabelled`, the labels' shares for `validation`."""


class StudentSpec(Contract):
    """The net to be taught. Where `classes` is given, it must equal the teacher's."""

    network: Architecture = Mlp(hidden_units=(800, 800))
    classes: Classes | None = None
    regularisation: Regularisation = Regularisation()
    """Of student and untaught twin; the student's jitter and flips come from the transfer set's views."""
