"""What was sent is broken, too large, or in no form that is read."""

from shared.errors.requests import InvalidRequest


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


class BodyDamaged(InvalidRequest):
    """The body is not the one whose digest the request names: it was changed on its way."""

    remedy = "Send it again; Content-Digest (RFC 9530) is the SHA-256 of the body as it is sent."

    def __init__(self) -> None:
        super().__init__("the body does not have the SHA-256 that Content-Digest names")


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
