"""What a caller asked for cannot be, whatever the state of the system."""

from shared.errors.root import DistillationError


class InvalidRequest(DistillationError):
    """What was asked cannot be done, whatever the state of the system."""


class InvalidTemperature(InvalidRequest):
    """A temperature that is not a finite number above 0."""

    remedy = "Give a finite number above 0, such as 4 for small students or 20 for wide ones."

    def __init__(self, temperature: object) -> None:
        super().__init__(f"temperature must be a finite number above 0, got {temperature!r}")
        self.temperature = temperature


class TemperatureTooLow(InvalidRequest):
    """A temperature so low that logits divided by it leave the range of the numbers asked for."""

    remedy = "Ask at a higher temperature, or for float32."

    def __init__(self, temperature: float, dtype: str) -> None:
        super().__init__(f"logits divided by the temperature {temperature!r} do not fit {dtype}")
        self.temperature = temperature


class InvalidWeights(InvalidRequest):
    """Loss weights that are negative, not finite, or both zero."""

    remedy = "Give two finite weights of 0 or more, at least one of them above 0."

    def __init__(self, soft_weight: object, hard_weight: object) -> None:
        super().__init__(
            "soft_weight and hard_weight must be finite, not negative and not both zero, "
            f"got soft_weight={soft_weight!r} and hard_weight={hard_weight!r}"
        )
        self.soft_weight = soft_weight
        self.hard_weight = hard_weight


class HeadUntaught(InvalidRequest):
    """An objective of hints or attention alone: the student's last layer would stay as it was drawn."""

    remedy = "Give a soft or hard weight as well."

    def __init__(self, term: str) -> None:
        super().__init__(f"{term} does not train the last layer, and no other term has weight")
        self.term = term


class DecoupledNeedsClasses(InvalidRequest):
    """Decoupled distillation of two classes: among "the others" there is one, and nothing to learn."""

    remedy = "Leave `decoupled` out, or use data of three classes or more."

    def __init__(self, classes: int) -> None:
        super().__init__(f"decoupled distillation needs more than two classes, got {classes}")
        self.classes = classes


class AlternationNeedsBoth(InvalidRequest):
    """Alternating steps of teacher and labels, and one of the two has no weight."""

    remedy = "Give both a hard weight and a term of the teacher, or leave `alternate` out."

    def __init__(self, lacking: str) -> None:
        super().__init__(f"teacher and labels are to take turns, and there is no weight for {lacking}")
        self.lacking = lacking


class ViewsBelongToTransferSet(InvalidRequest):
    """A student is to be shown shifted or mirrored images that its teacher was never asked about."""

    remedy = "Set `views`, `jitter_px` and `flip` of `transfer_set` instead: both then see the same views."

    def __init__(self, option: str) -> None:
        super().__init__(
            f"`{option}` of the student's regularisation would show it views that the teacher never saw"
        )
        self.option = option


class InvalidPrior(InvalidRequest):
    """Shares of classes that are not one a class or do not sum to 1."""

    remedy = "Give a share for each class of the dataset, in its order, with sum 1; or leave `prior` out."


class LayersDoNotJoin(InvalidRequest):
    """A student's layer is to be led to a teacher's of a shape that no regressor bridges."""

    remedy = "Name layers of the same number of rows and columns, or of none."

    def __init__(
        self,
        student_layer: str,
        student_shape: tuple[int, ...],
        teacher_layer: str,
        teacher_shape: tuple[int, ...],
    ) -> None:
        super().__init__(
            f"the student's layer {student_layer!r} of shape {_shape(student_shape)} cannot be joined to the "
            f"teacher's {teacher_layer!r} of shape {_shape(teacher_shape)}"
        )
        self.student_shape = student_shape
        self.teacher_shape = teacher_shape


class TeacherNotLoadable(InvalidRequest):
    """A job looks into the teacher's layers, and the worker cannot run this teacher itself."""

    remedy = "Name a teacher of one net that was trained or stored here, or leave hints and attention out."

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"the worker would have to load teacher {name!r} by itself, as hints, attention and specialists "
            f"need its layers: {reason}"
        )
        self.name = name


class UnknownArchitecture(InvalidRequest):
    """An architecture that is not registered."""

    def __init__(self, architecture: object, known: tuple[str, ...]) -> None:
        super().__init__(
            f"architecture {architecture!r} is not known",
            remedy=f"Use one of: {', '.join(known)}.",
        )
        self.architecture = architecture


class ArchitectureInvalid(InvalidRequest):
    """A configuration or name of which a library makes no net for these images and classes."""

    remedy = "Give a configuration or name that the library takes for images of this size; it says why above."

    def __init__(self, library: str, reason: str) -> None:
        super().__init__(f"{library} makes no net of this architecture here: {reason}")
        self.library = library
        self.reason = reason


class UnknownLayer(InvalidRequest):
    """A layer that a net does not have."""

    def __init__(self, layer: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"the net has no layer {layer!r}",
            remedy=f"Use one of: {', '.join(known)}." if known else "This net names no layers.",
        )
        self.layer = layer
        self.known = known


class ClassMismatch(InvalidRequest):
    """Teacher, student or dataset disagree about the classes or their order."""

    remedy = "Teacher, dataset and student must name the same classes in the same order."

    def __init__(
        self, left: str, left_classes: tuple[str, ...], right: str, right_classes: tuple[str, ...]
    ) -> None:
        super().__init__(
            f"classes differ: {left} has {_shorten(left_classes)}, {right} has {_shorten(right_classes)}"
        )
        self.left_classes = left_classes
        self.right_classes = right_classes


class InputMismatch(InvalidRequest):
    """Images of another size or channel count than the model takes."""

    remedy = "Send images of the size and channels that the model's description states."


class LabelsMissing(InvalidRequest):
    """Labels are asked for and the dataset has none."""

    remedy = "Add labels: a verdict is reached against a net that learns from them."

    def __init__(self, dataset: str, needed_for: str) -> None:
        super().__init__(f"dataset {dataset!r} has no labels, which {needed_for} needs")
        self.dataset = dataset


class MadeByAnotherJob(InvalidRequest):
    """A job of a kind that only other jobs make, as their children."""

    def __init__(self, kind: str, parent_kind: str) -> None:
        super().__init__(
            f"jobs of kind {kind!r} are made by jobs of kind {parent_kind!r}",
            remedy=f"Submit a job of kind {parent_kind!r}.",
        )
        self.kind = kind


class UnknownClass(InvalidRequest):
    """Classes are named that the dataset does not have."""

    def __init__(self, asked_by: str, unknown: tuple[str, ...], known: tuple[str, ...]) -> None:
        names = ", ".join(repr(name) for name in unknown[:12])
        super().__init__(f"{asked_by} names classes that do not exist: {names}")
        self.remedy = f"The classes are: {_shorten(known)}."
        self.unknown = unknown
        self.known = known


class OmitAndOnly(InvalidRequest):
    """A transfer set is to leave classes out and to take classes alone, at the same time."""

    remedy = "Give `omit` (all classes but these) or `only` (these alone)."

    def __init__(self, omit: tuple[str, ...], only: tuple[str, ...]) -> None:
        super().__init__(
            f"a transfer set takes `omit` or `only`, got both: omit {_shorten(omit)}, only {_shorten(only)}"
        )
        self.omit = omit
        self.only = only


class EmptyTransferSet(InvalidRequest):
    """Nothing is left of a transfer set after what was to be left out."""

    remedy = "Omit fewer classes, or take a larger share."


class NoLabelsLeft(InvalidRequest):
    """So small a share of the labels may be used that none is left, and something needs one."""

    remedy = "Give a larger label_share."

    def __init__(self, needed_for: str, label_share: float) -> None:
        super().__init__(f"a label_share of {label_share:g} leaves no label for {needed_for}")
        self.label_share = label_share


class AskingImpossible(InvalidRequest):
    """A transfer set is to be asked for in a way that this kind of job, or another option, does not allow."""


class TooManyChildren(InvalidRequest):
    """A job that would have to make more child jobs than one may."""

    remedy = "Ask for fewer sets, networks, members or seeds."

    def __init__(self, asked: int, most: int) -> None:
        super().__init__(f"the job would make {asked:,} child jobs; one may make {most:,}")
        self.asked = asked


class InvalidRange(InvalidRequest):
    """A range of a sweep that holds nothing to choose from, or cannot be read."""

    remedy = "Give `values`, a list of different numbers, or `low` below `high` (above 0 where `log` is set)."

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class TooManyTrials(InvalidRequest):
    """A sweep of more trials than were asked for, or than one job should train."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)


class TeacherDoesNotTemper(InvalidRequest):
    """Several temperatures are asked for, and what the teacher says at one says nothing about another."""

    remedy = "Take a single net or a geometric ensemble as the teacher, or sweep at one temperature."

    def __init__(self, teacher: str) -> None:
        super().__init__(
            f"teacher {teacher!r} is an arithmetic ensemble: its soft targets at one temperature do not "
            "follow from those at another"
        )
        self.teacher = teacher


class InvalidEnsemble(InvalidRequest):
    """Teachers that cannot answer together."""

    remedy = "Name two teachers or more that are here already, and give the ensemble a name of its own."


class InvalidSpecialistPlan(InvalidRequest):
    """Sets of classes that no specialists can be trained for."""

    remedy = "Give sets that cover every class together and not one alone, or fewer or smaller ones to find."


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _shorten(classes: tuple[str, ...], most: int = 12) -> str:
    shown = ", ".join(classes[:most])
    return f"{len(classes)} classes ({shown}{', …' if len(classes) > most else ''})"
