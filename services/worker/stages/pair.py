"""The check of the pair: is this teacher fit to teach, and can it help this student at all? Before training.

The first complaint of distillation's users is a student no better than an untaught one. Where the teacher
itself is no better than that on the validation split, there is little to pass on. It is a warning and no
refusal: the soft targets of a poor teacher may still regularise. What makes the job senseless is refused.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ValidationError

from services.worker.stages import outcomes
from services.worker.stages.asking import ask_all
from services.worker.stages.context import JobContext, seconds_of
from shared.adapters.teacher_client import TeacherClient
from shared.contracts.datasets import DatasetManifest
from shared.contracts.findings import Finding
from shared.contracts.jobs import Stage
from shared.contracts.reports import REPORT_JSON, DistillationReport, PairCheck, TrainingCurve
from shared.contracts.specs import DistillationSpec
from shared.contracts.teachers import TeacherDescription
from shared.distillation.findings import in_words, unfit, with_outcome
from shared.distillation.teacher_trial import judge_answers, judge_description

log = logging.getLogger(__name__)


SENSELESS: Final = ("class names", "logits are finite", "logits, not probabilities")
"""Checks without which no student can be taught; where another fails, somebody may still want one."""


class _Found(BaseModel):
    pair: PairCheck
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class CheckedPair:
    """What the check found, what it warns of, and what it cost."""

    check: PairCheck
    findings: tuple[Finding, ...]
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
        TeacherUnfit: no student can be taught by it; the checks that it failed are named.
        TeacherChanged: the teacher is not the one that the job was checked with.
        TeacherUnavailable: it does not answer.
        TeacherAnswerInvalid: what it answers cannot be logits.
    """
    temperature = spec.objective.temperature if spec.objective.needs_logits else None

    def ask(directory: Path) -> None:
        validation = context.store.datasets.load(spec.dataset, "validation")
        assert validation.labels is not None, "checked before"
        logits = ask_all(context, client, teacher, validation.images)
        judged = judge_answers(
            logits, np.array(validation.labels), manifest.classes, centred=True, temperature=temperature
        )
        known = best_untaught(spec, manifest, _earlier_reports(context))
        untaught, job_id = known if known is not None else (None, None)
        pair = PairCheck(
            images=len(logits),
            teacher_accuracy=judged.accuracy or 0.0,
            untaught_accuracy=untaught,
            untaught_job=job_id,
        )
        findings = (*judge_description(teacher, manifest), *judged.findings)
        outcomes.save(directory / "pair.json", _Found(pair=pair, findings=findings))

    path = context.once(
        Stage.CHECK,
        {"dataset": manifest.digest, "teacher": teacher.digest, "temperature": temperature},
        ask,
    )
    found = outcomes.load(path / "pair.json", _Found)
    pair = found.pair
    if any(one.check in SENSELESS for one in with_outcome(found.findings, "failed")):
        raise unfit(spec.teacher, found.findings)
    warnings = warnings_of(pair, found.findings)
    if pair.untaught_accuracy is None:
        context.note(
            "no untaught student of this network is known on this dataset yet: whether the teacher helps is "
            "compared after training"
        )
    for warning in warnings:
        context.note(warning)
    return CheckedPair(pair, found.findings, warnings, seconds_of(path), pair.images)


def warnings_of(pair: PairCheck, findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return what speaks against the teacher, in words."""
    warnings = [in_words(one) for one in findings if one.outcome in ("failed", "warning")]
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
    if not manifest.labelled:
        return None  # the twins there learned what their teachers named
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
