"""What can be refused of jobs of the kinds `teacher_import` and `teacher_check`, before anything is read.

What only shows when files are read or a model is asked is found by the worker.
"""

from shared.contracts.datasets import DatasetManifest
from shared.contracts.images import ImageInput
from shared.contracts.specs import TeacherCheckSpec, TeacherImportSpec
from shared.contracts.teacher_sources import EnsembleSource
from shared.contracts.teachers import TeacherDescription
from shared.errors import ClassMismatch, InputMismatch, InvalidEnsemble, TeacherDoesNotTemper
from shared.jobs.checks.common import dataset_of, need_fit
from shared.jobs.ports import Catalogue


def check_import(spec: TeacherImportSpec, catalogue: Catalogue) -> None:
    """Raise where the source cannot become a teacher, or not one for the dataset.

    Raises:
        DatasetNotFound: there is no such dataset.
        TeacherNotFound: an ensemble names a teacher that is not here.
        ClassMismatch, InputMismatch: the dataset, the source and the members of an ensemble disagree.
        InvalidEnsemble, TeacherDoesNotTemper: these teachers cannot answer together.
    """
    manifest = dataset_of(spec.dataset, catalogue).manifest if spec.dataset is not None else None
    classes, image = spec.source.classes, spec.source.input
    if isinstance(spec.source, EnsembleSource):
        first = _need_members(spec.name, spec.source, catalogue)
        if classes is not None and classes != first.classes:
            raise ClassMismatch("the order", classes, f"teacher {first.name!r}", first.classes)
        if manifest is not None and spec.dataset is not None:
            need_fit(spec.dataset, manifest, first.name, first)
    elif manifest is not None:
        _need_said(spec, manifest)
    if manifest is not None and image is not None and image != manifest.input:
        raise InputMismatch(
            f"the order says images of {_size(image)}, dataset {spec.dataset!r} has {_size(manifest.input)}",
            remedy="Leave `input` out: it is the dataset's then; the net's own size is read from its files.",
        )


def check_check(spec: TeacherCheckSpec, catalogue: Catalogue) -> None:
    """Raise where there is nothing to try; that the two do not fit is a finding, and no refusal.

    Raises:
        DatasetNotFound, TeacherNotFound: it is not here.
    """
    dataset_of(spec.dataset, catalogue)
    catalogue.teacher(spec.name)


def _need_said(spec: TeacherImportSpec, manifest: DatasetManifest) -> None:
    """Compare the classes that the order gives; those in files are compared by the worker."""
    given = spec.source.classes
    if given is not None and manifest.classes and given != manifest.classes:
        raise ClassMismatch("the order", given, f"dataset {spec.dataset!r}", manifest.classes)


def _need_members(name: str, source: EnsembleSource, catalogue: Catalogue) -> TeacherDescription:
    """Return the first member; all of them take the same images and name the same classes."""
    if name in source.members:
        raise InvalidEnsemble(f"an ensemble cannot be called {name!r} like one of its members")
    first, *others = map(catalogue.teacher, source.members)
    for member in (first, *others):
        if not member.tempers:
            raise TeacherDoesNotTemper(member.name)
        if member.classes != first.classes:
            raise ClassMismatch(
                f"teacher {first.name!r}", first.classes, f"teacher {member.name!r}", member.classes
            )
        one, other = first.preprocessing.input, member.preprocessing.input
        if one != other:
            raise InputMismatch(
                f"teacher {first.name!r} is asked about images of {_size(one)}, teacher {member.name!r} of "
                f"{_size(other)}",
                remedy="Add the teachers for the same images: give `input` or the dataset with each.",
            )
    return first


def _size(image: ImageInput) -> str:
    return f"{image.height} x {image.width} x {image.channels}"
