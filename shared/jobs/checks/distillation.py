"""What can be refused of a job of kind `distillation`."""

from shared.contracts.datasets import DatasetView
from shared.contracts.specs import DistillationSpec
from shared.contracts.teachers import TeacherDescription
from shared.errors import ClassMismatch
from shared.jobs.checks.common import dataset_of, need_fit, need_labels
from shared.jobs.checks.transfer_set import check_transfer_set
from shared.jobs.ports import Catalogue


def check(spec: DistillationSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        TeacherNotFound: there is no such teacher.
        ClassMismatch: teacher, dataset and student do not name the same classes in the same order.
        InputMismatch: the dataset's images are not what the teacher takes.
        OmitAndOnly, UnknownClass, EmptyTransferSet, NoLabelsLeft: the transfer set cannot be drawn.
    """
    check_distillation(spec, dataset_of(spec.dataset, catalogue), catalogue.teacher(spec.teacher))


def check_distillation(spec: DistillationSpec, dataset: DatasetView, teacher: TeacherDescription) -> None:
    """Raise where the student cannot be taught by the teacher on the dataset."""
    wanted = spec.student.classes
    if wanted is not None and wanted != teacher.classes:
        raise ClassMismatch("the student", wanted, f"teacher {spec.teacher!r}", teacher.classes)
    if dataset.manifest is not None:
        need_labels(spec.dataset, dataset.manifest, "the untaught twin")
        need_fit(spec.dataset, dataset.manifest, spec.teacher, teacher)
    check_transfer_set(spec, dataset.manifest, labels_for="the untaught twin")
