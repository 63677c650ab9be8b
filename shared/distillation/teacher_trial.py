"""The list of checks of a teacher, in the order in which a person reads it: the same in every kind of job."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.contracts.datasets import DatasetManifest
from shared.contracts.findings import Finding
from shared.contracts.images import Preprocessing
from shared.contracts.teachers import MixedEnsemble, OnnxModel, RemoteModel, TeacherDescription
from shared.distillation import target_checks, teacher_checks
from shared.distillation.findings import skipped
from shared.distillation.teacher_checks import Labels, Logits

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Of ImageNet's training images, as nearly every published net for it is given them."""

_LEAST_STD: Final = 1e-3
"""A channel that never varies would otherwise be divided by 0."""


@dataclass(frozen=True)
class Judged:
    """What was found of answers, and the figures that are quoted elsewhere."""

    findings: tuple[Finding, ...]
    accuracy: float | None = None
    suggested_temperature: float | None = None


def takes_pixels(teacher: TeacherDescription) -> bool:
    """Return whether the model is given pixels as they are and normalises them by itself."""
    return isinstance(teacher.model, OnnxModel | RemoteModel) and teacher.model.datatype == "uint8"


def other_normalisations(
    preprocessing: Preprocessing, dataset: DatasetManifest | None
) -> dict[str, Preprocessing]:
    """Return the usual ways to normalise that are not the teacher's, by their words."""
    channels = preprocessing.seen.channels
    usual = {
        "pixels from 0 to 1": ((0.0,) * channels, (1.0,) * channels),
        "pixels from -1 to 1": ((0.5,) * channels, (0.5,) * channels),
        "pixels from 0 to 255": ((0.0,) * channels, (1 / 255,) * channels),
    }
    if channels == len(IMAGENET_MEAN):
        usual["ImageNet's mean and std"] = (IMAGENET_MEAN, IMAGENET_STD)
    if dataset is not None and channels % dataset.input.channels == 0:
        times = channels // dataset.input.channels
        usual["the dataset's mean and std"] = (
            dataset.pixel_mean * times,
            tuple(max(std, _LEAST_STD) for std in dataset.pixel_std) * times,
        )
    return {
        words: preprocessing.model_copy(update={"mean": mean, "std": std})
        for words, (mean, std) in usual.items()
        if (mean, std) != (preprocessing.mean, preprocessing.std)
    }


def judge_description(teacher: TeacherDescription, dataset: DatasetManifest | None) -> tuple[Finding, ...]:
    """Return what can be found before anything is asked.

    Args:
        teacher: what is to be asked.
        dataset: about whose images; None where there is none to compare with.
    """
    if dataset is None:
        findings = [skipped("class names", "no dataset to compare with")]
    else:
        findings = [
            teacher_checks.check_classes(teacher.classes, dataset.classes)
            if dataset.classes
            else skipped("class names", "the dataset names no classes"),
            teacher_checks.check_input(teacher.preprocessing, dataset.input),
        ]
    if isinstance(teacher.model, MixedEnsemble):
        findings.append(skipped("normalisation", "each member has its own"))
    elif takes_pixels(teacher):
        findings.append(skipped("normalisation", "the model takes pixels and normalises them by itself"))
    elif dataset is None or dataset.input != teacher.preprocessing.input:
        findings.append(teacher_checks.check_normalisation(teacher.preprocessing))
    else:
        findings.append(
            teacher_checks.check_normalisation(teacher.preprocessing, dataset.pixel_mean, dataset.pixel_std)
        )
    return tuple(findings)


def judge_answers(
    logits: Logits,
    labels: Labels | None,
    classes: Sequence[str],
    *,
    centred: bool,
    claimed: float | None = None,
    temperature: float | None = 1.0,
) -> Judged:
    """Return what a teacher's answers about a dataset's images say of it.

    Args:
        logits: at T = 1, a row an image.
        labels: of the images, where they have any.
        classes: names, in the order of the logits.
        centred: whether each row was moved to zero mean, or is as the model gave it.
        claimed: accuracy that the teacher is said to have.
        temperature: T at which it is to teach; None where no T matters.
    """
    findings = [teacher_checks.check_finite(logits)]
    if findings[0].outcome == "failed":
        return Judged(tuple(findings))
    is_logits = teacher_checks.check_centred_logits if centred else teacher_checks.check_logits
    found = teacher_checks.evaluation_of(logits, labels, classes) if labels is not None else None
    findings.append(
        skipped("accuracy", "there are no labelled images")
        if found is None
        else teacher_checks.check_accuracy(found, claimed)
    )
    findings.append(is_logits(logits))
    soft = findings[-1].outcome == "ok"
    findings.append(teacher_checks.check_alike(logits))
    findings.append(teacher_checks.check_named(logits, classes, labels))
    if soft:
        if temperature is not None:
            findings.append(target_checks.check_confidence(logits, temperature=temperature))
        findings.append(target_checks.check_smoothing(logits))
        if found is not None:
            findings.append(teacher_checks.check_calibration(found))
    return Judged(
        tuple(findings),
        accuracy=found.accuracy if found is not None else None,
        suggested_temperature=target_checks.suggested_temperature(logits) if soft else None,
    )
