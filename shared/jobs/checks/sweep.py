"""What can be refused of a job of kind `sweep`."""

from shared.contracts.specs import SweepSpec
from shared.jobs.checks.common import dataset_of, need_fit, need_labels
from shared.jobs.ports import Catalogue


def check(spec: SweepSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        TeacherNotFound: there is no such teacher.
        ClassMismatch, InputMismatch: the teacher does not answer for the dataset's classes or images.
    """
    dataset = dataset_of(spec.dataset, catalogue)
    teacher = catalogue.teacher(spec.teacher)
    if dataset.manifest is not None:
        need_labels(spec.dataset, dataset.manifest, "a trial's accuracy")
        need_fit(spec.dataset, dataset.manifest, spec.teacher, teacher)
