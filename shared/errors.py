"""Every error raised on purpose, drawn as a tree.

The root is `DistillationError`. Each error keeps its facts as attributes, says what was wrong and what was
given, and carries a `remedy`: what the caller can do about it. The stable `code` that clients see is the
class name in kebab case (`JobNotFound` is `job-not-found`). Status codes are the business of each service.
"""

import re
from pathlib import PurePath
from typing import Final

_MOST_ROWS: Final = 12
"""Rows that a message names; the error has all."""
_MOST_FILES: Final = 24
"""Files of a bundle that a remedy names."""


class DistillationError(Exception):
    """Root of every deliberate error; `code` is stable, `remedy` says what to do."""

    code: str = "distillation-error"
    remedy: str = ""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy


# --- what a caller asked for cannot be ---------------------------------------------------------------------


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


# --- what was sent is broken -------------------------------------------------------------------------------


class InvalidImage(InvalidRequest):
    """Bytes that are not a complete image in a supported format."""

    remedy = "Send a complete PNG, JPEG or WebP file."

    def __init__(self, reason: str, *, file: str | None = None) -> None:
        super().__init__(f"{file}: {reason}" if file else reason)
        self.reason = reason
        self.file = file


class ImageTooLarge(InvalidRequest):
    """An image over the limit in bytes or pixels, as its header says."""

    remedy = "Send a smaller image."

    def __init__(self, reason: str, *, file: str | None = None) -> None:
        super().__init__(f"{file}: {reason}" if file else reason)
        self.reason = reason
        self.file = file


class InvalidDataset(InvalidRequest):
    """An upload that is no dataset: one class, no images, an unreadable archive, a length mismatch."""

    remedy = (
        "Upload a zip with a folder a class, the four MNIST idx files, or Parquet as the hub lays images out."
    )


class PickleRefused(InvalidRequest):
    """A model as a pickle: reading one runs whatever its maker, or whoever changed it, put into it."""

    remedy = (
        "Where the model is at home, write it anew: "
        "`safetensors.torch.save_file(model.state_dict(), 'model.safetensors')`, or for Hugging Face "
        "`AutoModelForImageClassification.from_pretrained(OLD).save_pretrained(NEW, safe_serialization=True)"
        "`."
    )

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} is not read: {reason}")
        self.file = file
        self.reason = reason


class InvalidModelFiles(InvalidRequest):
    """Files that make no model of the kind they are sent as: another name, one missing, one damaged."""

    remedy = "docs/teachers.md lists the files of each kind; send exactly those, whole."

    def __init__(self, message: str, *, file: str | None = None, remedy: str | None = None) -> None:
        super().__init__(f"{file}: {message}" if file else message, remedy=remedy)
        self.file = file


class ModelUnfit(InvalidRequest):
    """A graph or a server whose tensors are not images in, a number a class out."""

    remedy = "Give a model with one input, a batch of images with 1 to 4 channels, and one output a class."

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)


class OipHostNotAllowed(InvalidRequest):
    """A teacher behind a server that whoever runs Imago has not named."""

    def __init__(self, host: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"{host} is not among the servers that may be asked: {', '.join(allowed) or 'none is allowed'}",
            remedy="Whoever runs Imago adds it to TEACHER_OIP_HOSTS, for all services alike.",
        )
        self.host = host


class BodyTooLarge(InvalidRequest):
    """A request body over the limit."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the request body is larger than {limit_bytes} bytes", remedy="Send less in one request."
        )
        self.limit_bytes = limit_bytes


class TooManyImages(InvalidRequest):
    """More images than one request may carry."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"one request may carry {limit} images", remedy="Spread them over several requests.")
        self.limit = limit


class NoImages(InvalidRequest):
    """A request for answers about images that carries none."""

    remedy = "Send at least one image."


class MalformedBody(InvalidRequest):
    """A body that is not what its media type says."""

    remedy = "Send the body in one of the forms that /docs shows."


class InvalidDeadline(InvalidRequest):
    """A deadline that is no whole number of milliseconds, or not above 0, or too far away."""

    def __init__(self, given: str, most_ms: int) -> None:
        super().__init__(
            f"X-Deadline-Ms is {given!r}",
            remedy=f"Send a whole number of milliseconds from 1 to {most_ms:,}, or leave the header out.",
        )
        self.given = given


class InvalidInference(InvalidRequest):
    """An inference request that cannot be read, or whose tensors are not what the model takes."""

    remedy = "GET /v2/models/{name} describes the tensors, and docs/serving.md shows requests."


class TemperatureNotServed(InvalidRequest):
    """Probabilities at another temperature than 1 are asked for of a student, which is served at 1 alone."""

    remedy = (
        "Leave `temperature` out, or ask the teacher, which answers at any temperature: "
        "POST /v1/teachers/{name}/soft-targets at the teacher service."
    )

    def __init__(self, given: object) -> None:
        super().__init__(f"a student answers at temperature 1, always; got {repr(given)[:40]}")
        self.given = given


class UnsupportedContentEncoding(InvalidRequest):
    """A body that is compressed in a way that is not read here."""

    def __init__(self, given: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"a body with Content-Encoding {given[:40]!r} is not read here",
            remedy=f"Send it as it is, or compressed by one of: {', '.join(known)}.",
        )
        self.given = given


class UnsupportedMediaType(InvalidRequest):
    """A body of a media type that is not read here."""

    def __init__(self, given: str | None, known: tuple[str, ...]) -> None:
        super().__init__(
            f"a body of media type {given!r} is not read here" if given else "the body has no Content-Type",
            remedy=f"Send one of: {', '.join(known)}.",
        )
        self.given = given


class NotAcceptable(InvalidRequest):
    """An answer is asked for in media types that are not given here."""

    def __init__(self, accept: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"nothing that Accept: {accept} names is given here", remedy=f"Accept one of: {', '.join(known)}."
        )
        self.accept = accept


# --- what was named is not there ---------------------------------------------------------------------------


class NotFound(DistillationError):
    """Something was named that does not exist."""


class JobNotFound(NotFound):
    """No job has this id."""

    remedy = "List jobs with GET /v1/jobs."

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class TeacherNotFound(NotFound):
    """No teacher has this name."""

    remedy = "Train one with a job of kind 'teacher', or list them with GET /v1/teachers."

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no teacher {name!r}")
        self.name = name


class IncomingNotFound(NotFound):
    """Neither an upload nor a folder of this name lies in `incoming` of the artefact store."""

    remedy = (
        "Send the files again: an upload is kept for a day. A folder must lie in `incoming` of the store."
    )

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no upload and no folder {name!r} in `incoming`")
        self.name = name


class StudentNotFound(NotFound):
    """No student has this version."""

    remedy = "List students with GET /v1/students."

    def __init__(self, version: str) -> None:
        super().__init__(f"there is no student {version!r}")
        self.version = version


class ModelNotFound(NotFound):
    """The Open Inference Protocol is asked about a model, or a version of it, that is not there.

    `known` are the names and versions that are.
    """

    def __init__(self, name: str, version: str | None, known: dict[str, tuple[str, ...]]) -> None:
        if version is not None:
            message = f"model {name[:64]!r} has no version {version[:128]!r}"
        elif name in known:
            message = f"model {name!r} has versions, and none of them is live"
        else:
            message = f"there is no model {name[:64]!r}"
        listed = "; ".join(_versions(model, versions) for model, versions in list(known.items())[:_MOST_ROWS])
        super().__init__(
            message,
            remedy=f"Name one that there is, at /v2/models/{{name}}/versions/{{version}}: {listed}."
            if known
            else "Promote a student first: POST /v1/students/{version}/promote.",
        )
        self.name = name
        self.version = version
        self.known = known


class DatasetNotFound(NotFound):
    """No dataset has this name."""

    remedy = "Upload it with POST /v1/datasets, or list datasets with GET /v1/datasets."

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no dataset {name!r}")
        self.name = name


class KeptNotFound(NotFound):
    """No images were kept under this name."""

    remedy = "List collections with GET /v1/kept; PUT /v1/traffic with `keeping` begins one."

    def __init__(self, name: str) -> None:
        super().__init__(f"no images are kept under {name!r}")
        self.name = name


class TransferSetNotFound(NotFound):
    """No finished transfer set has this digest."""

    remedy = "List transfer sets with GET /v1/transfer-sets."

    def __init__(self, digest: str) -> None:
        super().__init__(f"there is no transfer set {digest!r}")
        self.digest = digest


class FileNotInBundle(NotFound):
    """A bundle has no file of this name."""

    def __init__(self, bundle: str, name: str, known: tuple[str, ...]) -> None:
        names = ", ".join(known[:_MOST_FILES]) + (", …" if len(known) > _MOST_FILES else "")
        super().__init__(f"{bundle} has no file {name!r}", remedy=f"Its files are: {names}.")
        self.name = name


class ReportNotReady(NotFound):
    """A job has no report yet, or never will."""

    remedy = "Wait until the job's state is 'succeeded'; GET /v1/jobs/{id}/events says how far it is."

    def __init__(self, job_id: str, state: str, *, parent: str | None = None) -> None:
        if parent is None:
            super().__init__(f"job {job_id!r} has no report: its state is '{state}'")
        else:
            super().__init__(
                f"job {job_id!r} has no report of its own: it is part of job {parent!r}",
                remedy=f"Read the report of its parent: GET /v1/jobs/{parent}/report.",
            )
        self.job_id = job_id
        self.parent = parent


# --- the state of things forbids it ------------------------------------------------------------------------


class Conflict(DistillationError):
    """The request is fine, the state of things forbids it."""


class IdempotencyConflict(Conflict):
    """An idempotency key came back with another body."""

    remedy = "Use a new Idempotency-Key for a new request."

    def __init__(self, key: str) -> None:
        super().__init__(f"Idempotency-Key {key!r} was used before with another body")
        self.key = key


class JobAlreadyFinal(Conflict):
    """A finished job cannot change any more."""

    remedy = "Submit a new job."

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"job {job_id!r} is already {state}")
        self.job_id = job_id
        self.state = state


class DatasetExists(Conflict):
    """The name belongs to a dataset with other content."""

    remedy = "Choose another name."

    def __init__(self, name: str) -> None:
        super().__init__(f"there already is a dataset {name!r} with other content")
        self.name = name


class TransferSetInUse(Conflict):
    """A transfer set is to be deleted while jobs that may read it, or are filling it, have not ended."""

    remedy = "Wait for their end, or cancel them with POST /v1/jobs/{id}/cancel; then delete the set again."

    def __init__(self, digest: str, job_ids: tuple[str, ...], most: int = 12) -> None:
        named = ", ".join(job_ids[:most]) + (", …" if len(job_ids) > most else "")
        super().__init__(
            f"transfer set {digest[:12]} cannot be deleted: jobs that may use it have not ended: {named}"
        )
        self.digest = digest
        self.job_ids = job_ids


class StudentInUse(Conflict):
    """A student is to be deleted that answers predictions, or that the traffic policy or a job names."""

    remedy = "Promote another student, take it out of the policy with PUT /v1/traffic, or wait for the jobs."

    def __init__(self, version: str, use: str) -> None:
        super().__init__(f"student {version!r} cannot be deleted: {use}")
        self.version = version
        self.use = use


class TrafficRefused(Conflict):
    """A part of a traffic policy cannot hold with the students that there are."""

    def __init__(self, part: str, reason: str, remedy: str) -> None:
        super().__init__(f"the policy's {part} cannot hold: {reason}", remedy=remedy)
        self.part = part
        self.reason = reason


class RevisionMismatch(Conflict):
    """The traffic policy was changed since the one that is to be replaced was read."""

    remedy = "Read it again with GET /v1/traffic, and send If-Match with its ETag."

    def __init__(self, revision: int, given: str) -> None:
        super().__init__(f"the traffic policy is at revision {revision}, and If-Match is {given[:40]!r}")
        self.revision = revision


class CannotRedistil(Conflict):
    """A student whose order cannot be repeated on kept images."""

    remedy = "Name a student that a job of kind 'distillation' or 'sweep' made."

    def __init__(self, version: str, reason: str, *, remedy: str | None = None) -> None:
        super().__init__(f"student {version!r} cannot be distilled again: {reason}", remedy=remedy)
        self.version = version


class NothingNewKept(Conflict):
    """A collection without any image that a student could learn from and has not learned from yet."""

    remedy = "Let gateways keep more: GET /v1/kept/{collection} tells how many there are."

    def __init__(self, collection: str, reason: str) -> None:
        super().__init__(f"{collection!r} has no image to learn from: {reason}")
        self.collection = collection


class NothingToRollBack(Conflict):
    """No earlier student was ever live."""

    remedy = "Promote a student by its version instead."

    def __init__(self) -> None:
        super().__init__("no student was live before the present one")


class NoLiveStudent(Conflict):
    """Predictions are asked for and no student has been promoted."""

    remedy = "Promote one: POST /v1/students/{version}/promote."

    def __init__(self) -> None:
        super().__init__("no student has been promoted yet")


class StudentUnusable(Conflict):
    """A student's bundle does not load, or does not answer as its card says."""

    remedy = "Promote another version, or run the distillation again."

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"student {version!r} cannot be used: {reason}")
        self.version = version
        self.reason = reason


class NoMeasuredGain(Conflict):
    """Specialists are to go live, and by their report they are no better than their generalist alone."""

    remedy = "Promote a student of the generalist, or train other specialists; the report shows the gain."

    def __init__(self, version: str, gain: float, verdict: str) -> None:
        super().__init__(
            f"student {version!r} would ask its specialists for nothing: their measured gain over the "
            f"generalist is {100 * gain:+.2f} points of accuracy, {verdict}"
        )
        self.version = version
        self.gain = gain


class LeaseLost(Conflict):
    """The holder of a job's lease has been replaced; it may write nothing more."""

    def __init__(self, job_id: str, epoch: int) -> None:
        super().__init__(f"the lease on job {job_id!r} at epoch {epoch} is no longer ours")
        self.job_id = job_id
        self.epoch = epoch


class TeacherChanged(Conflict):
    """The digest is not the one the job was pinned to, or what answers for a teacher is not what it was."""

    remedy = "Submit the job again: it will be pinned to the teacher as it is now."

    def __init__(
        self, name: str, expected: str, found: str, *, reason: str = "", remedy: str | None = None
    ) -> None:
        why = reason or f"expected digest {expected[:12]}, found {found[:12]}"
        super().__init__(f"teacher {name!r} changed: {why}", remedy=remedy)
        self.name = name


# --- a part of the system is not able right now ------------------------------------------------------------


class Unavailable(DistillationError):
    """A part of the system cannot answer now; trying later may help. `retry_after_s` is in seconds."""

    retry_after_s: float = 1.0
    remedy = "Try again after the time in Retry-After."


class QueueFull(Unavailable):
    """More waits than the bounded queue takes."""

    def __init__(self, what: str, limit: int, retry_after_s: float) -> None:
        super().__init__(f"the queue of {what} is full: its limit is {limit}")
        self.retry_after_s = retry_after_s


class JobStoreUnavailable(Unavailable):
    """Redis does not answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the job store does not answer: {reason}")


class TeacherUnavailable(Unavailable):
    """The teacher service does not answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the teacher does not answer: {reason}")


class StoreFull(Unavailable):
    """Nothing more fits where something is to be stored; what is there stays as it is."""

    remedy = "Make room, such as by deleting transfer sets, and submit again: it goes on where it stopped."
    retry_after_s = 60.0

    def __init__(self, path: str) -> None:
        # As of `Corrupt`: the artefact is named, not where this machine keeps it.
        super().__init__(f"there is no room left to store {'/'.join(PurePath(path).parts[-2:])}")
        self.path = path


class TransferSetsUnavailable(Unavailable):
    """The place where transfer sets are kept does not answer, or refuses."""

    remedy = "Look at IMAGO_TRANSFER_SETS_URL and at the credentials in the environment of the service."
    retry_after_s = 10.0

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the transfer sets at {url} cannot be reached: {reason}")
        self.url = url


class StudentNotLoaded(Unavailable):
    """A student is promoted, but this process could not load it and has no earlier one."""

    remedy = "Roll back or promote another version; GET /health/ready says what is wrong with this one."
    retry_after_s = 5.0

    def __init__(self, reason: str) -> None:
        super().__init__(f"the live student is not loaded: {reason}")
        self.reason = reason


class DeadlineExceeded(Unavailable):
    """There was no answer within the time that the client said it would wait."""

    remedy = "Allow more time, or send fewer images in one request."

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"there was no answer within the {1000 * deadline_s:.0f} ms that were given")
        self.deadline_s = deadline_s


class ShuttingDown(Unavailable):
    """The service is draining and takes no new work."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


# --- a stage of a job failed -------------------------------------------------------------------------------


class JobFailed(DistillationError):
    """A stage found that the job cannot end well; the reason is kept in the job record."""


class Diverged(JobFailed):
    """The training loss is not finite any more."""

    remedy = "Lower the learning rate."

    def __init__(self, epoch: int, loss: float, step: int | None = None, *, of: str = "") -> None:
        where = f"epoch {epoch}" if step is None else f"step {step} of epoch {epoch}"
        whose = f" of {of}" if of else ""
        super().__init__(f"the loss{whose} is {loss} in {where}; the last good checkpoint is kept")
        self.epoch = epoch
        self.step = step


class OutOfMemory(JobFailed):
    """Training asked for more memory than the device or the machine has; trying again would ask the same."""

    remedy = "Use a smaller batch, fewer nets together (seeds, members, trials) or smaller nets."

    def __init__(self, reason: str) -> None:
        super().__init__(f"there is not enough memory for this job: {reason}")
        self.reason = reason


class ChildFailed(JobFailed):
    """A child job did not succeed, so its parent cannot. `reason` says how it ended."""

    def __init__(self, job_id: str, kind: str, reason: str, remedy: str) -> None:
        super().__init__(f"child job {job_id!r} of kind {kind!r} {reason}", remedy=remedy)
        self.job_id = job_id


class DeviceMissing(JobFailed):
    """A device is asked for by setting that this machine does not have."""

    remedy = "Set the service's DEVICE setting to 'auto' or 'cpu', or run it where there is a GPU."

    def __init__(self, device: str) -> None:
        super().__init__(f"device {device!r} is asked for, and this machine has none")
        self.device = device


class BiasRepairFailed(JobFailed):
    """No class biases bring the student's mean softmax mass to the shares asked for."""

    remedy = "Look at the prior: every class needs a share, and images of every class should be at hand."

    def __init__(self, reason: str) -> None:
        super().__init__(f"class biases cannot be repaired: {reason}")


class ExtraMissing(JobFailed):
    """An optional library that something asked for needs cannot be imported where the job runs."""

    def __init__(self, library: str, reason: str) -> None:
        extra = {"timm": "timm", "s3fs": "s3", "fsspec": "s3"}.get(library, "transformers")
        also = "; timm also needs the torchvision build that belongs to the installed torch"
        super().__init__(
            f"{library} cannot be imported here: {reason}",
            remedy=f"Install Imago with the extra {extra!r}, such as `pip install imago[worker,{extra}]`"
            f"{also if extra != 's3' else ''}.",
        )
        self.library = library


class ParityFailed(JobFailed):
    """The exported student does not answer as the trained one does."""

    remedy = "Report this with the job's id; the checkpoint is kept."

    def __init__(self, largest_difference: float, tolerance: float) -> None:
        super().__init__(
            f"ONNX and PyTorch logits differ by {largest_difference:.2e}, more than {tolerance:.0e} allows"
        )
        self.largest_difference = largest_difference


class TeacherAnswerInvalid(JobFailed):
    """The teacher answered something that cannot be soft targets.

    `batch` says of which request, counted from 0, where several were sent.
    """

    remedy = "Look at the teacher service's logs."
    batch: int | None = None


class TeacherUnfit(JobFailed):
    """A teacher failed checks without which nothing good can come of it; `failed` are they, in words."""

    def __init__(self, name: str, failed: tuple[str, ...], advice: tuple[str, ...]) -> None:
        super().__init__(
            f"teacher {name!r} failed {len(failed)} of its checks: {'; '.join(failed)}",
            remedy=" ".join(filter(None, advice)),
        )
        self.name = name
        self.failed = failed


class CachedAnswersDiffer(JobFailed):
    """Answers in the store are not what the teacher says now, though its digest is the same.

    `rows` are the numbers of the rows in the transfer set; `largest_difference` is that of two logits.
    """

    remedy = (
        "Find out which is wrong: a teacher that answers by another device, runtime or library, or a stored "
        "set. Delete the transfer sets of this teacher, or give it a new name, and submit the job again."
    )

    def __init__(
        self, asked: int, rows: tuple[int, ...], largest_difference: float, tolerance: float
    ) -> None:
        shown = ", ".join(map(str, rows[:_MOST_ROWS])) + (", …" if len(rows) > _MOST_ROWS else "")
        super().__init__(
            f"{len(rows)} of {asked} cached rows that were asked again are not what the teacher says now: "
            f"they differ by up to {largest_difference:.3g}, where {tolerance:.3g} would be rounding (rows "
            f"{shown})"
        )
        self.asked = asked
        self.rows = rows
        self.largest_difference = largest_difference


class Corrupt(JobFailed):
    """A stored artefact does not have the digest that its manifest states."""

    remedy = "Delete the artefact and run the job again."

    def __init__(self, path: str) -> None:
        # Clients see the message: it names the artefact, not where this machine keeps it.
        artefact = "/".join(PurePath(path).parts[-3:])
        super().__init__(f"{artefact} does not have the digest that its manifest states")
        self.path = path


class WorkerDied(JobFailed):
    """The training process died more often than a job may be attempted."""

    remedy = "Look at the worker's logs; a job that needs more memory than there is dies like this."

    def __init__(self, attempts: int, reason: str) -> None:
        super().__init__(f"the job was given up after {attempts} attempts: {reason}")
        self.attempts = attempts


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _shorten(classes: tuple[str, ...], most: int = 12) -> str:
    shown = ", ".join(classes[:most])
    return f"{len(classes)} classes ({shown}{', …' if len(classes) > most else ''})"


def _versions(model: str, versions: tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(versions[:most])
    return f"{model} ({shown}{', …' if len(versions) > most else ''})"
