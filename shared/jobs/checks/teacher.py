"""What can be refused of a job of kind `teacher`, and of every other training on labels alone."""

from typing import Protocol

from shared.contracts.datasets import DatasetView
from shared.contracts.specs import SelfDistillationSpec
from shared.jobs.checks.common import dataset_of, need_labels
from shared.jobs.checks.transfer_set import check_transfer_set
from shared.jobs.ports import Catalogue


class LearnsFromLabels(Protocol):
    """The order of a job that trains nets on a dataset's labels."""

    @property
    def kind(self) -> str:
        """Of the job."""

    @property
    def dataset(self) -> str:
        """By its name."""


def check(spec: LearnsFromLabels, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        OmitAndOnly, UnknownClass, EmptyTransferSet, NoLabelsLeft: the transfer set of a self-distillation
            cannot be drawn.
    """
    check_teacher(spec, dataset_of(spec.dataset, catalogue))


def check_teacher(spec: LearnsFromLabels, dataset: DatasetView) -> None:
    """Raise where nets cannot be trained on the dataset's labels."""
    if dataset.manifest is not None:
        need_labels(spec.dataset, dataset.manifest, f"a job of kind {spec.kind!r}")
    if isinstance(spec, SelfDistillationSpec):
        check_transfer_set(spec, dataset.manifest, labels_for="generation 0")
