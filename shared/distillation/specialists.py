"""Specialists: nets for one set of confusable classes, started from the generalist, trained on half and half.

Source: Hinton, Vinyals, Dean (2015), arXiv:1503.02531, sections 5.2 and 6.1. A specialist answers about
its special classes and one *dustbin* class for all others, or (section 6.1) about all classes. Half of what
it is trained on is special, whatever the natural share s of its classes. So what it learns is off by a known
factor: the odds of "special" against "not" are those of nature times (1 - s) / s. The paper corrects the
dustbin's logit "by the log of the proportion by which the specialist class is oversampled", which can be read
as log(0.5 / s); the exact correction is log((1 - s) / s), and that is the one used here.

Soft targets of the generalist know nothing of the sampling. They are shifted to the resampled shares before
they teach; otherwise the correction at the end would come on top of odds that were natural already.

A specialist over all classes (section 6.1) is taught two things, and each says what the other does not. An
image drawn as special, or not, is an observation of p'(special | image) at the resampled odds: hard targets.
Of an image that was drawn as not special the generalist is asked which of the other classes it is, given that
it is none of the special ones: p(class | image, not special), on which the sampling has no influence. Were
its share for special classes left in, they would be counted twice, by how often special images are drawn and
by what the generalist says of all others. What is learned is p'(special | image) p(class | image, special)
for special classes and p'(not special | image) p(class | image, not special) for others, and the correction
of all others together makes it p(class | image).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from shared.distillation.losses import UNLABELLED
from shared.errors import InvalidSpecialistPlan
from shared.models.seeds import generator_of

_CERTAIN = 40.0
"""Minus the logarithm of the probability that stands for 0, as a logit has to be finite."""


@dataclass(frozen=True)
class SpecialClasses:
    """The classes of one specialist among all.

    Attributes:
        classes: their indices, in the order of the specialist's logits.
        total: how many classes there are in all.
        share: s, the share of their images in nature, above 0 and below 1.
        dustbin: whether all other classes are one, the last of the specialist's; else it knows each of them.
    """

    classes: tuple[int, ...]
    total: int
    share: float
    dustbin: bool = True

    @property
    def rest(self) -> tuple[int, ...]:
        """Indices of the other classes."""
        return tuple(sorted(set(range(self.total)) - set(self.classes)))

    @property
    def answers(self) -> int:
        """How many logits the specialist has."""
        return len(self.classes) + 1 if self.dustbin else self.total

    @property
    def correction(self) -> float:
        """What is added to the logits of "not special" after training on half and half: log((1 - s) / s)."""
        return math.log((1 - self.share) / self.share)

    def labels(self, labels: Int64[Tensor, " rows"]) -> Int64[Tensor, " rows"]:
        """Return true classes as the specialist's; unknown ones stay unknown."""
        if not self.dustbin:
            return labels
        table = torch.full((self.total,), len(self.classes))
        table[list(self.classes)] = torch.arange(len(self.classes))
        return torch.where(labels == UNLABELLED, labels, table[labels.clamp(min=0)])

    def soft_targets(
        self, generalist_logits: Float[Tensor, "*rows classes"]
    ) -> Float[Tensor, "*rows answers"]:
        """Return the generalist's logits as a specialist is taught them, with zero mean; float32 at least.

        The dustbin's logit stands for the sum of what it lumps together. The shares are the resampled ones:
        softmax of a row says what the generalist would, had half of its images been special.

        Args:
            generalist_logits: at T = 1.
        """
        logits = _wide(generalist_logits)
        if self.dustbin:
            lumped = logits[..., list(self.rest)].logsumexp(-1, keepdim=True)
            logits = torch.cat([logits[..., list(self.classes)], lumped], dim=-1)
        logits = logits - self.correction * self._not_special(logits)
        return logits - logits.mean(-1, keepdim=True)

    def full_targets(
        self, generalist_logits: Float[Tensor, "*rows classes"], labels: Int64[Tensor, "*rows"]
    ) -> Float[Tensor, "*rows classes"]:
        """Return what a specialist over all classes is taught (section 6.1), as log-probabilities.

        Special images: their hard targets. Others: the generalist's soft targets over the classes that are
        not special, given that it is one of them; special classes have e^-40. Both are meant at T = 1, where
        one loss takes them alike, and are float32 at least.

        Args:
            generalist_logits: at T = 1.
            labels: true classes. An image without one counts as not special; `HalfAndHalf` never shows it.
        """
        logits = _wide(generalist_logits)
        rest = list(self.rest)
        soft = torch.full_like(logits, -_CERTAIN)
        # Near 0 where they are likely: there 16-bit floats, in which targets are kept, are at their best.
        soft[..., rest] = logits[..., rest].log_softmax(-1)
        hard = _CERTAIN * (F.one_hot(labels.clamp(min=0), self.total).to(soft.dtype) - 1)
        special = torch.isin(labels, torch.tensor(self.classes, device=labels.device))
        return torch.where(special.unsqueeze(-1), hard, soft)

    def first_head(
        self, weight: Float[Tensor, "classes ..."], bias: Float[Tensor, " classes"]
    ) -> tuple[Float[Tensor, "answers ..."], Float[Tensor, " answers"]]:
        """Return the last layer that a specialist starts with, made from the generalist's.

        Special classes keep their rows. The dustbin gets the mean of the others' and the logarithm of their
        number, the sum's logit as long as they are alike. All that is not special starts lower by the
        correction, as half of the images are special from the first step on.
        """
        if self.dustbin:
            rest, special = list(self.rest), list(self.classes)
            weight = torch.cat([weight[special], weight[rest].mean(0, keepdim=True)])
            lumped = bias[rest].mean(0, keepdim=True) + math.log(len(rest))
            bias = torch.cat([bias[special], lumped])
        return weight.clone(), bias - self.correction * self._not_special(bias)

    def corrected(self, bias: Float[Tensor, " answers"]) -> Float[Tensor, " answers"]:
        """Return the last layer's biases for images as they come in nature, after half and half."""
        return bias + self.correction * self._not_special(bias)

    def _not_special(self, like: Float[Tensor, "*rows answers"]) -> Float[Tensor, " answers"]:
        """Return 1 for each answer that is no special class, else 0, as the numbers of `like`."""
        marks = torch.zeros(self.answers, dtype=like.dtype, device=like.device)
        marks[len(self.classes) if self.dustbin else list(self.rest)] = 1
        return marks


def _wide(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """Return 16-bit logits as float32, wider ones as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def special_classes(
    labels: Int64[Tensor, " rows"], classes: Sequence[int], *, total: int, dustbin: bool = True
) -> SpecialClasses:
    """Return a specialist's classes with their share among the labelled training images.

    Raises:
        InvalidSpecialistPlan: no image is special, or every one is.
    """
    known = labels[labels != UNLABELLED]
    special = int(torch.isin(known, torch.tensor(classes)).sum())
    if not 0 < special < len(known):
        raise InvalidSpecialistPlan(
            f"a specialist needs images of its {len(classes)} classes and others to tell them from: of "
            f"{len(known)} labelled training images {special} are special"
        )
    return SpecialClasses(tuple(classes), total, special / len(known), dustbin)


class HalfAndHalf:
    """Chooses the rows of each epoch: all special images once, as many others between them.

    Special and other take turns, so every batch of even size is half and half. Others are drawn anew each
    epoch, without repetition as long as there are enough; where there are fewer, all come equally often but
    for one.

    Args:
        labels: true classes of all rows; rows without one are not used.
        classes: the special ones.
    """

    def __init__(self, labels: Int64[Tensor, " rows"], classes: Sequence[int]) -> None:
        special = torch.isin(labels, torch.tensor(classes))
        self._special = special.nonzero().squeeze(1)
        self._others = (~special & (labels != UNLABELLED)).nonzero().squeeze(1)

    def rows_of_epoch(self, seed: int, epoch: int) -> Int64[Tensor, " rows"]:
        """Return the rows of an epoch (counted from 0) in their order; seed and epoch alone decide."""
        generator = generator_of("half and half", seed, epoch)
        wanted = len(self._special)
        special = self._special[torch.randperm(wanted, generator=generator)]
        turns = [
            torch.randperm(len(self._others), generator=generator)
            for _ in range(-(-wanted // len(self._others)))
        ]
        others = self._others[torch.cat(turns)[:wanted]]
        return torch.stack([special, others], dim=1).flatten()


def first_weights(
    generalist: Mapping[str, Tensor], head: tuple[str, str], special: SpecialClasses
) -> dict[str, Tensor]:
    """Return the tensors that a specialist starts with: the generalist's, with a last layer of its own.

    Args:
        generalist: tensors of one net.
        head: names of the last layer's weight and bias.
        special: the specialist's classes.
    """
    weight, bias = special.first_head(generalist[head[0]], generalist[head[1]])
    tensors = {name: tensor.clone() for name, tensor in generalist.items()}
    return {**tensors, head[0]: weight, head[1]: bias}
