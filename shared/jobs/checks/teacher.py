"""What can be refused of a job of kind `teacher`, and of every other training on labels alone."""

from shared.contracts.datasets import DatasetView
from shared.contracts.specs import JobSpec
from shared.jobs.checks.common import dataset_of, need_labels
from shared.jobs.ports import Catalogue


def check(spec: JobSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well: DatasetNotFound, LabelsMissing, InvalidDataset."""
    check_teacher(spec, dataset_of(spec.dataset, catalogue))


def check_teacher(spec: JobSpec, dataset: DatasetView) -> None:
    """Raise where nets cannot be trained on the dataset's labels."""
    if dataset.manifest is not None:
        need_labels(spec.dataset, dataset.manifest, f"a job of kind {spec.kind!r}")
