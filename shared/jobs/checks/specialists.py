"""What can be refused of a job of kind `specialists`."""

from shared.contracts.specs import SpecialistsSpec
from shared.jobs.checks.common import dataset_of, need_fit, need_labels
from shared.jobs.ports import Catalogue


def check(spec: SpecialistsSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        TeacherNotFound: there is no such generalist.
        ClassMismatch, InputMismatch: the generalist does not answer for the dataset's classes or images.
    """
    dataset = dataset_of(spec.dataset, catalogue)
    generalist = catalogue.teacher(spec.generalist)
    if dataset.manifest is not None:
        need_labels(spec.dataset, dataset.manifest, "the training of specialists")
        need_fit(spec.dataset, dataset.manifest, spec.generalist, generalist)
