"""What can be refused of a job of kind `distillation`."""

import math
from typing import Final

from shared.contracts.datasets import DatasetManifest, DatasetView
from shared.contracts.specs import DistillationSpec
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import BiasRepair, Objective
from shared.errors import (
    ClassMismatch,
    DecoupledNeedsClasses,
    InvalidPrior,
    LabelsMissing,
    ViewsBelongToTransferSet,
)
from shared.jobs.checks.common import dataset_of, need_fit, need_held_out
from shared.jobs.checks.transfer_set import check_asking, check_transfer_set
from shared.jobs.ports import Catalogue

_PRIOR_TOLERANCE: Final = 1e-3
"""Shares that people write down are rounded; they are scaled to sum 1 exactly when they are used."""


def check(spec: DistillationSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        TeacherNotFound: there is no such teacher.
        ClassMismatch: teacher, dataset and student do not name the same classes in the same order.
        InputMismatch: the dataset's images are not what the teacher takes.
        OmitAndOnly, UnknownClass, EmptyTransferSet, NoLabelsLeft: the transfer set cannot be drawn.
        ViewsBelongToTransferSet: the student alone is to see jittered or mirrored images.
        DecoupledNeedsClasses, TeacherNotLoadable: the objective is not for this teacher.
        AskingImpossible: the transfer set cannot be come by so.
        InvalidPrior: the shares for the repair of biases are not one a class, or do not sum to 1.
    """
    check_distillation(spec, dataset_of(spec.dataset, catalogue), catalogue.teacher(spec.teacher))


def check_distillation(spec: DistillationSpec, dataset: DatasetView, teacher: TeacherDescription) -> None:
    """Raise where the student cannot be taught by the teacher on the dataset."""
    rule = spec.student.regularisation
    for option, asked in (("jitter_px", rule.jitter_px), ("flip", rule.flip)):
        if asked:
            raise ViewsBelongToTransferSet(option)
    check_objective(spec.objective, spec.teacher, teacher)
    check_asking(spec.asking, spec.kind, may_be_live=True)
    if spec.bias_repair is not None:
        check_repair(spec.bias_repair, teacher.classes)
    wanted = spec.student.classes
    if wanted is not None and wanted != teacher.classes:
        raise ClassMismatch("the student", wanted, f"teacher {spec.teacher!r}", teacher.classes)
    if dataset.manifest is not None:
        _need_labels(spec, dataset.manifest)
        need_fit(spec.dataset, dataset.manifest, spec.teacher, teacher)
    # Where nothing is labelled the twin learns what the teacher names; where labels are, it needs some.
    unlabelled = dataset.manifest is not None and not dataset.manifest.labelled
    check_transfer_set(spec, dataset.manifest, labels_for=None if unlabelled else "the untaught twin")


def _need_labels(spec: DistillationSpec, manifest: DatasetManifest) -> None:
    """Raise where labels are missing that the objective needs, or that validate and test."""
    if not manifest.labelled and spec.objective.needs_labels:
        raise LabelsMissing(spec.dataset, "the objective's hard labels")
    need_held_out(spec.dataset, manifest, "a distillation")


def check_objective(objective: Objective, name: str, teacher: TeacherDescription) -> None:
    """Raise where the teacher cannot give what the objective asks for.

    Raises:
        DecoupledNeedsClasses: decoupled distillation of two classes.
        TeacherNotLoadable: layers are asked for of a teacher that is more than one net.
    """
    if objective.decoupled is not None and len(teacher.classes) <= 2:
        raise DecoupledNeedsClasses(len(teacher.classes))
    if objective.needs_features:
        _ = teacher.one_net


def check_repair(repair: BiasRepair, classes: tuple[str, ...]) -> None:
    """Raise `InvalidPrior` where the shares given are not one a class, or do not sum to 1."""
    if repair.prior is None:
        return
    if len(repair.prior) != len(classes):
        raise InvalidPrior(
            f"`prior` of the bias repair has {len(repair.prior)} shares, and there are {len(classes)} classes"
        )
    total = math.fsum(repair.prior)
    if abs(total - 1) > _PRIOR_TOLERANCE:
        raise InvalidPrior(f"`prior` of the bias repair must sum to 1, got {total:g}")
