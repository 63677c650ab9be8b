"""Tries a teacher on images: in this process before it is published, or where it answers already."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from services.worker.stages.context import JobContext
from shared.contracts.datasets import DatasetManifest
from shared.contracts.findings import Finding
from shared.contracts.images import Preprocessing
from shared.contracts.teachers import MixedEnsemble, TeacherDescription
from shared.distillation import teacher_checks
from shared.distillation.findings import failed, skipped
from shared.distillation.teacher_checks import PROBE_IMAGES, SAMPLE_IMAGES
from shared.distillation.teacher_trial import (
    judge_answers,
    judge_description,
    other_normalisations,
    takes_pixels,
)
from shared.errors import InvalidRequest, TeacherAnswerInvalid, TeacherUnavailable
from shared.models.probes import probe_images

Images = NDArray[np.uint8]
Ask = Callable[[Images], NDArray[np.float32]]
"""Gives logits at T = 1, N x classes, for uint8 N x H x W x C."""

ALTERNATIVE_IMAGES: Final = 200
"""Of the sample, shown in other ways too: a swap of channels that costs ten points or more is seen."""

NO_ANSWER: Final = (TeacherUnavailable, TeacherAnswerInvalid, InvalidRequest)
"""What a model raises that cannot be asked; a finding here, with the words of the error."""


@dataclass(frozen=True)
class Sample:
    """Images to ask about, and their labels where there are any."""

    images: Images
    labels: NDArray[np.int64] | None


class Trial(BaseModel):
    """What was found, as a stage keeps it."""

    findings: tuple[Finding, ...]
    images: int
    accuracy: float | None = None
    suggested_temperature: float | None = None


def sample_of(context: JobContext, dataset: str, manifest: DatasetManifest) -> Sample:
    """Return up to `SAMPLE_IMAGES` of the validation split, or of the training split where it is empty.

    Spread evenly: a split may be sorted by class.
    """
    split = context.store.datasets.load(dataset, "validation" if manifest.counts.validation else "train")
    rows = np.unique(np.linspace(0, len(split) - 1, SAMPLE_IMAGES).astype(np.int64))
    labels = split.labels if manifest.classes else None
    return Sample(np.array(split.images[rows]), None if labels is None else np.array(labels[rows]))


def try_teacher(
    teacher: TeacherDescription,
    manifest: DatasetManifest | None,
    sample: Sample | None,
    load: Callable[[], Ask],
    *,
    centred: bool,
    claimed: float | None,
    as_if: Callable[[Preprocessing], Ask] | None = None,
) -> Trial:
    """Return what is found of a teacher, in the order in which a person reads it.

    Args:
        teacher: what is asked.
        manifest: of the dataset; None where there is none.
        sample: of the dataset; None asks about made-up images alone.
        load: makes the teacher ready and gives what asks it.
        centred: whether its rows come with zero mean, or as the model gives them.
        claimed: accuracy that it is said to have.
        as_if: gives the same teacher with another mean and std, where that can be had.
    """
    findings = list(judge_description(teacher, manifest))
    if any(one.outcome == "failed" for one in findings if one.check in ("class names", "input size")):
        findings.append(skipped("answers", "it does not fit the dataset, so nothing was asked"))
        return Trial(findings=tuple(findings), images=0)
    probe = probe_images(teacher.preprocessing.input) if sample is None else sample.images[:PROBE_IMAGES]
    asked = _Counted(load)
    try:
        once = asked(probe)
        finite = teacher_checks.check_finite(once)
        if finite.outcome == "failed":
            return Trial(findings=(*findings, finite), images=asked.images)
        findings.append(_repeatable(teacher, probe, once, asked))
        if sample is None:
            findings += [finite, teacher_checks.check_alike(once)]
            findings.append(skipped("accuracy", "no dataset to try it on"))
            return Trial(findings=tuple(findings), images=asked.images)
        rest = sample.images[len(probe) :]
        logits = np.concatenate([once, asked(rest)]) if len(rest) else once
        judged = judge_answers(logits, sample.labels, teacher.classes, centred=centred, claimed=claimed)
        findings += judged.findings
        if sample.labels is not None and judged.accuracy is not None:
            findings.append(_alternatives(teacher, manifest, sample, logits, asked, as_if))
    except NO_ANSWER as error:
        findings.append(failed("answers", str(error), error.remedy))
        return Trial(findings=tuple(findings), images=asked.images)
    return Trial(
        findings=tuple(findings),
        images=asked.images,
        accuracy=judged.accuracy,
        suggested_temperature=judged.suggested_temperature,
    )


class _Counted:
    """A teacher that is loaded when it is first asked, and how many images it has answered."""

    def __init__(self, load: Callable[[], Ask]) -> None:
        self._load = load
        self._ask: Ask | None = None
        self.images = 0

    def __call__(self, images: Images) -> NDArray[np.float32]:
        if self._ask is None:
            self._ask = self._load()
        return self.answered_by(self._ask, images)

    def answered_by(self, ask: Ask, images: Images) -> NDArray[np.float32]:
        """Return what another way of asking it gives, counted too."""
        logits = ask(images)
        self.images += len(images)
        return logits


def _repeatable(teacher: TeacherDescription, probe: Images, once: NDArray[np.float32], ask: Ask) -> Finding:
    again = ask(probe)
    alone = np.concatenate([ask(image[None]) for image in probe])
    return teacher_checks.check_repeatable(once, again, alone, precision=teacher.precision)


def _alternatives(
    teacher: TeacherDescription,
    manifest: DatasetManifest | None,
    sample: Sample,
    logits: NDArray[np.float32],
    asked: _Counted,
    as_if: Callable[[Preprocessing], Ask] | None,
) -> Finding:
    """Show some of the images in other ways, where another could be better."""
    assert sample.labels is not None, "asked only where there are labels"
    rows = np.unique(np.linspace(0, len(sample.images) - 1, ALTERNATIVE_IMAGES).astype(np.int64))
    images, labels = sample.images[rows], sample.labels[rows]

    def right(answers: NDArray[np.float32]) -> int:
        return int((answers.argmax(-1) == labels).sum())

    now, tried = right(logits[rows]), {}
    if teacher_checks.may_be_beaten(now, len(rows)):
        tried["inverted pixels"] = right(asked(255 - images))
        if images.shape[-1] == 3:
            tried["red and blue swapped"] = right(asked(np.ascontiguousarray(images[..., ::-1])))
        if as_if is not None and not takes_pixels(teacher) and not isinstance(teacher.model, MixedEnsemble):
            for words, preprocessing in other_normalisations(teacher.preprocessing, manifest).items():
                tried[words] = right(asked.answered_by(as_if(preprocessing), images))
    return teacher_checks.check_alternatives(now, len(rows), tried)
