"""What the checks of several kinds ask: is the dataset there, is it labelled, does it fit the teacher."""

from shared.contracts.datasets import DatasetManifest, DatasetView
from shared.contracts.jobs import MOST_CHILDREN
from shared.contracts.teachers import TeacherDescription
from shared.errors import (
    ClassMismatch,
    DatasetNotFound,
    InputMismatch,
    InvalidDataset,
    LabelsMissing,
    TooManyChildren,
)
from shared.jobs.ports import Catalogue


def dataset_of(name: str, catalogue: Catalogue) -> DatasetView:
    """Return the dataset; its manifest is None where it is built in and was never used.

    Raises:
        DatasetNotFound: no such dataset, or a built-in one whose files are not here.
    """
    dataset = catalogue.dataset(name)
    if not dataset.available:
        error = DatasetNotFound(name)
        error.remedy = f"Its files are not here: {dataset.description}."
        raise error
    return dataset


def need_labels(name: str, manifest: DatasetManifest, needed_for: str) -> None:
    """Raise where the dataset has no labels, or no images to validate or to test on.

    Raises:
        LabelsMissing: there are no labels, or no names of classes.
        InvalidDataset: the validation or the test split is empty.
    """
    if not manifest.labelled:
        raise LabelsMissing(name, needed_for)
    need_held_out(name, manifest, needed_for)


def need_held_out(name: str, manifest: DatasetManifest, needed_for: str) -> None:
    """Raise where the dataset has no labelled images to validate or to test on; those to train may have none.

    Raises:
        LabelsMissing: there are no names of classes.
        InvalidDataset: the validation or the test split is empty.
    """
    if not manifest.classes:
        raise LabelsMissing(name, needed_for)
    for split, count in (("validation", manifest.counts.validation), ("test", manifest.counts.test)):
        if count < 1:
            raise InvalidDataset(f"dataset {name!r} has no {split} images, which {needed_for} needs")


def need_fit(name: str, manifest: DatasetManifest, teacher_name: str, teacher: TeacherDescription) -> None:
    """Raise where the teacher cannot answer for the dataset's images.

    Raises:
        ClassMismatch: they do not name the same classes in the same order.
        InputMismatch: the images are not what the teacher takes.
    """
    theirs = f"teacher {teacher_name!r}"
    if manifest.classes != teacher.classes:
        raise ClassMismatch(f"dataset {name!r}", manifest.classes, theirs, teacher.classes)
    given, taken = manifest.input, teacher.preprocessing.input
    if given != taken:
        raise InputMismatch(
            f"dataset {name!r} has images of {given.height} x {given.width} x {given.channels}, "
            f"{theirs} takes {taken.height} x {taken.width} x {taken.channels}"
        )


def need_few_children(count: int) -> None:
    """Raise `TooManyChildren` where the job would make more child jobs than one may."""
    if count > MOST_CHILDREN:
        raise TooManyChildren(count, MOST_CHILDREN)
