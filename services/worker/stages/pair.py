"""The check of the pair: can this teacher help this student at all? Asked before training, answered in words.

The first complaint of distillation's users is a student no better than an untaught one. Where the teacher
itself is no better than that on the validation split, there is little to pass on. It is a warning and no
refusal: the soft targets of a poor teacher may still regularise.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from services.worker.stages import outcomes
from services.worker.stages.asking import ask_all
from services.worker.stages.context import JobContext, seconds_of
from shared.adapters.teacher_client import TeacherClient
from shared.contracts.datasets import DatasetManifest
from shared.contracts.evaluation import Evaluation
from shared.contracts.jobs import Stage
from shared.contracts.reports import REPORT_JSON, DistillationReport, PairCheck, TrainingCurve
from shared.contracts.specs import DistillationSpec
from shared.contracts.teachers import TeacherDescription
from shared.distillation.evaluation import evaluate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedPair:
    """What the check found, what it warns of, and what it cost."""

    check: PairCheck
    warnings: tuple[str, ...]
    seconds: float
    teacher_rows: int


def check_pair(
    context: JobContext,
    spec: DistillationSpec,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
) -> CheckedPair:
    """Ask the teacher about the validation split and say in notes what speaks against the pair.

    Raises:
        TeacherChanged: the teacher is not the one that the job was checked with.
        TeacherUnavailable: it does not answer.
        TeacherAnswerInvalid: what it answers cannot be logits.
    """

    def ask(directory: Path) -> None:
        validation = context.store.datasets.load(spec.dataset, "validation")
        assert validation.labels is not None, "checked before"
        logits = torch.from_numpy(ask_all(context, client, teacher, validation.images))
        found = evaluate(logits, outcomes.tensor(validation.labels), manifest.classes)
        known = best_untaught(spec, manifest, _earlier_reports(context))
        untaught, job_id = known if known is not None else (None, None)
        pair = PairCheck(
            images=found.examples,
            teacher_accuracy=found.accuracy,
            untaught_accuracy=untaught,
            untaught_job=job_id,
        )
        outcomes.save(directory / "teacher.json", found)
        outcomes.save(directory / "pair.json", pair)

    path = context.once(Stage.CHECK, {"dataset": manifest.digest, "teacher": teacher.digest}, ask)
    pair = outcomes.load(path / "pair.json", PairCheck)
    warnings = warnings_of(pair, outcomes.load(path / "teacher.json", Evaluation))
    if pair.untaught_accuracy is None:
        context.note(
            "no untaught student of this network is known on this dataset yet: whether the teacher helps is "
            "compared after training"
        )
    for warning in warnings:
        context.note(warning)
    return CheckedPair(pair, warnings, seconds_of(path), pair.images)


def warnings_of(pair: PairCheck, teacher: Evaluation) -> tuple[str, ...]:
    """Return what speaks against the teacher, given its figures on the validation split."""
    warnings = []
    of_class = [sum(row) for row in teacher.confusion]
    most_frequent = max(of_class) / teacher.examples
    if teacher.accuracy_interval[0] <= most_frequent:
        warnings.append(
            f"the teacher is near chance: it is right on {_percent(teacher.accuracy)} of the validation "
            f"images, and always naming the most frequent class would be on {_percent(most_frequent)}"
        )
    never = [
        name
        for name, images, named in zip(
            teacher.errors_by_class, of_class, map(sum, zip(*teacher.confusion, strict=True)), strict=True
        )
        if images and not named
    ]
    if never:
        shown = ", ".join(never[:5]) + (", …" if len(never) > 5 else "")
        warnings.append(f"the teacher never names {len(never)} of the classes: {shown}")
    if pair.untaught_accuracy is not None and pair.teacher_accuracy <= pair.untaught_accuracy:
        warnings.append(no_better(pair.teacher_accuracy, pair.untaught_accuracy))
    return tuple(warnings)


def warnings_after(pair: CheckedPair, curves: Iterable[TrainingCurve]) -> tuple[str, ...]:
    """Return the warnings of a finished job: where nothing was known before, its own twins now say it."""
    known, reached = pair.check.untaught_accuracy, untaught_accuracy(curves)
    if known is not None or reached is None or pair.check.teacher_accuracy > reached:
        return pair.warnings
    return (*pair.warnings, no_better(pair.check.teacher_accuracy, reached))


def no_better(teacher: float, untaught: float) -> str:
    """Return the warning that the teacher is no better than an untaught student, given both accuracies."""
    return (
        f"the teacher is no better than an untaught student: {_percent(teacher)} against "
        f"{_percent(untaught)} of the validation images; it is not expected to help"
    )


def untaught_accuracy(curves: Iterable[TrainingCurve]) -> float | None:
    """Return the best validation accuracy of the untaught nets, each in the epoch that was kept."""
    kept = [
        point.validation_accuracy
        for curve in curves
        if curve.arm == "untaught"
        for point in curve.points
        if point.epoch == curve.best_epoch and point.validation_accuracy is not None
    ]
    return max(kept, default=None)


def best_untaught(
    spec: DistillationSpec, manifest: DatasetManifest, reports: Iterable[DistillationReport]
) -> tuple[float, str] | None:
    """Return the best validation accuracy of an untaught net like this job's, and its job; None if unknown.

    Like this job's: of the same network, on the same images and labels of the same dataset.
    """
    best: tuple[float, str] | None = None
    for report in reports:
        if report.dataset_digest != manifest.digest or _likeness(report.spec) != _likeness(spec):
            continue
        reached = untaught_accuracy(report.curves)
        if reached is not None and (best is None or reached > best[0]):
            best = reached, report.job_id
    return best


def _likeness(spec: DistillationSpec) -> tuple[object, ...]:
    images = spec.transfer_set
    return (spec.student.network, set(images.omit), set(images.only), images.share, images.label_share)


def _earlier_reports(context: JobContext) -> Iterator[DistillationReport]:
    """Yield the reports of distillations in the store; one that cannot be read is passed over and logged."""
    for path in sorted(context.files.directory.parent.glob(f"*/{REPORT_JSON}")):
        data = path.read_bytes()
        if b'"kind": "distillation"' not in data:
            continue
        try:
            yield DistillationReport.model_validate_json(data)
        except ValidationError as error:
            log.warning("report passed over", extra={"path": str(path), "reason": str(error)})


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
