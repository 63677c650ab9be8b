"""What can be refused of jobs of kind `transfer_set`, and of their children."""

from shared.contracts.datasets import DatasetView
from shared.contracts.specs import TransferSetJobSpec, TransferSetShardsSpec
from shared.contracts.teachers import TeacherDescription
from shared.jobs.checks.common import dataset_of, need_fit
from shared.jobs.checks.transfer_set import check_asking, check_transfer_set
from shared.jobs.ports import Catalogue


def check(spec: TransferSetJobSpec | TransferSetShardsSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well. Labels are not needed.

    Raises:
        DatasetNotFound: there is no such dataset.
        TeacherNotFound: there is no such teacher.
        ClassMismatch, InputMismatch: the teacher does not answer for the dataset's classes or images.
        OmitAndOnly, UnknownClass, LabelsMissing, EmptyTransferSet: the transfer set cannot be drawn.
        AskingImpossible: it cannot be come by so.
    """
    check_set(spec, dataset_of(spec.dataset, catalogue), catalogue.teacher(spec.teacher))


def check_set(
    spec: TransferSetJobSpec | TransferSetShardsSpec, dataset: DatasetView, teacher: TeacherDescription
) -> None:
    """Raise where the teacher cannot be asked for such a set."""
    if isinstance(spec, TransferSetJobSpec):
        check_asking(spec.asking, spec.kind)
    if dataset.manifest is not None:
        need_fit(spec.dataset, dataset.manifest, spec.teacher, teacher)
    check_transfer_set(spec, dataset.manifest)
