"""What can be refused of a job of kind `specialists`."""

from shared.contracts.datasets import DatasetView
from shared.contracts.specs import SpecialistPlan, SpecialistsSpec, SpecialistTraining
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import TransferSetSpec
from shared.errors import InvalidSpecialistPlan, InvalidWeights, TeacherNotLoadable, UnknownClass
from shared.jobs.checks.common import dataset_of, need_few_children, need_fit, need_labels
from shared.jobs.checks.transfer_set import check_asking, check_no_choice, check_transfer_set
from shared.jobs.ports import Catalogue


def check(spec: SpecialistsSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        TeacherNotFound: there is no such generalist.
        ClassMismatch, InputMismatch: the generalist does not answer for the dataset's classes or images.
        UnknownClass: a set names a class that does not exist.
        InvalidSpecialistPlan: the sets, or the generalist, do not do; the transfer set leaves classes out.
        InvalidWeights: a specialist would learn from nothing.
        AskingImpossible: the transfer set cannot be come by so.
        TooManyChildren: sets times seeds are more than one job may make.
        EmptyTransferSet, NoLabelsLeft: the transfer set cannot be drawn.
    """
    check_specialists(spec, dataset_of(spec.dataset, catalogue), catalogue.teacher(spec.generalist))


def check_specialists(spec: SpecialistsSpec, dataset: DatasetView, generalist: TeacherDescription) -> None:
    """Raise where no specialists can be trained for the generalist on the dataset."""
    if dataset.manifest is not None:
        need_labels(spec.dataset, dataset.manifest, "the training of specialists")
        need_fit(spec.dataset, dataset.manifest, spec.generalist, generalist)
    _check_generalist(spec, generalist)
    check_plan(spec.plan, generalist.classes)
    if spec.top_n > len(generalist.classes):
        raise InvalidSpecialistPlan(
            f"top_n is {spec.top_n}, and there are {len(generalist.classes)} classes",
            remedy="Give a smaller top_n, such as 1.",
        )
    _check_training(spec.training)
    sets = spec.plan.sets if spec.plan.classes is None else len(spec.plan.classes)
    need_few_children(sets * len(spec.seeds))
    _check_classes_taken(spec.transfer_set)
    check_asking(spec.asking, spec.kind)
    check_no_choice(spec.transfer_set, "specialists need images of all classes in their natural shares")
    check_transfer_set(spec, dataset.manifest, labels_for="the training of specialists")


def check_plan(plan: SpecialistPlan, classes: tuple[str, ...]) -> None:
    """Raise where no specialists can be trained for the sets of classes, or no such sets found.

    Raises:
        UnknownClass: a set names a class that does not exist.
        InvalidSpecialistPlan: there are more sets than classes, a set has no class, one twice or all of them,
            or a class is in no set.
    """
    if plan.classes is None:
        _check_counts(plan.sets, plan.size, len(classes))
        return
    unknown = tuple(dict.fromkeys(name for one in plan.classes for name in one if name not in classes))
    if unknown:
        raise UnknownClass("the plan of specialists", unknown, classes)
    _check_number(len(plan.classes), len(classes))
    for number, one in enumerate(plan.classes, start=1):
        if len(set(one)) != len(one):
            raise InvalidSpecialistPlan(f"set {number} of the plan names a class twice: {', '.join(one)}")
        if not 0 < len(one) < len(classes):
            has = "has no class" if not one else f"has all {len(classes)} classes"
            raise InvalidSpecialistPlan(f"set {number} of the plan {has}")
    left = [name for name in classes if all(name not in one for one in plan.classes)]
    if left:
        raise InvalidSpecialistPlan(f"classes are in no set of the plan: {', '.join(left[:12])}")


def _check_counts(sets: int, size: int, classes: int) -> None:
    _check_number(sets, classes)
    if size >= classes:
        raise InvalidSpecialistPlan(
            f"sets of {size} classes are asked for, and of {classes} one at least has to be left to the "
            "dustbin"
        )


def _check_number(sets: int, classes: int) -> None:
    if not 0 < sets <= classes:
        raise InvalidSpecialistPlan(f"{sets} sets are asked for, and there are {classes} classes")


def _check_generalist(spec: SpecialistsSpec, generalist: TeacherDescription) -> None:
    try:
        _ = generalist.one_net
    except TeacherNotLoadable as error:
        raise InvalidSpecialistPlan(
            f"specialists start as copies of their generalist, and {error}",
            remedy="Name a teacher of one net, or distil this one into a student first.",
        ) from error
    if generalist.preprocessing.seen != generalist.preprocessing.input:
        raise InvalidSpecialistPlan(
            f"generalist {spec.generalist!r} is given images that were brought to another size or more "
            "channels, which the files that an ensemble of specialists is served from cannot do",
            remedy="Distil this teacher into a student of the images' own size first.",
        )
    if spec.name == spec.generalist:
        raise InvalidSpecialistPlan(
            f"the ensemble is to be called {spec.name!r} as its own generalist is, and would replace it",
            remedy="Choose another name.",
        )


def _check_classes_taken(transfer_set: TransferSetSpec) -> None:
    """Raise where the transfer set leaves classes out.

    The share of a specialist's classes would not be nature's, its dustbin would be corrected by a wrong
    number, and a specialist for missing classes would be trained on nothing.
    """
    for option, names in (("omit", transfer_set.omit), ("only", transfer_set.only)):
        if names:
            raise InvalidSpecialistPlan(
                f"specialists need images of all classes in their natural shares, and transfer_set.{option} "
                f"names {len(names)}",
                remedy="Give neither transfer_set.omit nor transfer_set.only; transfer_set.share takes fewer "
                "images of every class.",
            )


def _check_training(training: SpecialistTraining) -> None:
    if training.rest == "dustbin" and not (training.soft_weight or training.hard_weight):
        raise InvalidWeights(training.soft_weight, training.hard_weight)
    if training.regularisation.jitter_px or training.regularisation.flip:
        raise InvalidSpecialistPlan(
            "a specialist would be shown other views of an image than its generalist was asked about",
            remedy="Give jitter and flips in transfer_set, and none in training.regularisation.",
        )
