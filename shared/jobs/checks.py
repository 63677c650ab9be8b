"""What can be refused before a job costs anything: at submission, and again in the job's check stage."""

from shared.contracts.datasets import DatasetManifest, DatasetView
from shared.contracts.specs import DistillationSpec, JobSpec, TeacherSpec
from shared.contracts.teachers import TeacherDescription
from shared.errors import ClassMismatch, DatasetNotFound, InputMismatch, InvalidDataset, LabelsMissing
from shared.jobs.ports import Catalogue


def check(spec: JobSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    A built-in dataset that was never used has no manifest yet; what depends on one is checked by the worker,
    which has made it by then.

    Raises:
        DatasetNotFound: no such dataset, or a built-in one whose files are not here.
        TeacherNotFound: a distillation names a teacher that does not exist.
        ClassMismatch: teacher, dataset and student do not name the same classes in the same order.
        InputMismatch: the dataset's images are not what the teacher takes.
        LabelsMissing: labels are needed and there are none.
        InvalidDataset: there is no image to validate or to test on.
    """
    dataset = catalogue.dataset(spec.dataset)
    if not dataset.available:
        error = DatasetNotFound(spec.dataset)
        error.remedy = f"Its files are not here: {dataset.description}."
        raise error
    if isinstance(spec, TeacherSpec):
        check_teacher(spec, dataset)
    elif isinstance(spec, DistillationSpec):
        check_distillation(spec, dataset, catalogue.teacher(spec.teacher))


def check_teacher(spec: TeacherSpec, dataset: DatasetView) -> None:
    """Raise where a teacher cannot be trained on the dataset."""
    if dataset.manifest is not None:
        _need_labels(spec.dataset, dataset.manifest, "the training of a teacher")


def check_distillation(spec: DistillationSpec, dataset: DatasetView, teacher: TeacherDescription) -> None:
    """Raise where the student cannot be taught by the teacher on the dataset."""
    ours = f"teacher {spec.teacher!r}"
    wanted = spec.student.classes
    if wanted is not None and wanted != teacher.classes:
        raise ClassMismatch("the student", wanted, ours, teacher.classes)
    manifest = dataset.manifest
    if manifest is None:
        return
    _need_labels(spec.dataset, manifest, "the untaught twin")
    if manifest.classes != teacher.classes:
        raise ClassMismatch(f"dataset {spec.dataset!r}", manifest.classes, ours, teacher.classes)
    given, taken = manifest.input, teacher.preprocessing.input
    if given != taken:
        raise InputMismatch(
            f"dataset {spec.dataset!r} has images of {given.height} x {given.width} x {given.channels}, "
            f"{ours} takes {taken.height} x {taken.width} x {taken.channels}"
        )


def _need_labels(name: str, manifest: DatasetManifest, needed_for: str) -> None:
    if not manifest.labelled or not manifest.classes:
        raise LabelsMissing(name, needed_for)
    for split, count in (("validation", manifest.counts.validation), ("test", manifest.counts.test)):
        if count < 1:
            raise InvalidDataset(f"dataset {name!r} has no {split} images, which {needed_for} needs")
