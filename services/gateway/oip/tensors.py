"""The tensors of a student as the protocol names them, and how numbers and strings lie in them."""

import base64
import binascii
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from shared.contracts.images import ImageInput
from shared.contracts.oip import ModelMetadata, TensorMetadata
from shared.contracts.students import StudentCard
from shared.errors import InvalidInference

PIXELS: Final = "images"
ENCODED: Final = "encoded"
PROBABILITIES: Final = "probabilities"
LOGITS: Final = "logits"
PREDICTED: Final = "predicted"

INPUTS: Final = (PIXELS, ENCODED)
OUTPUTS: Final = (PROBABILITIES, LOGITS, PREDICTED)
DATATYPES: Final = {
    PIXELS: "UINT8",
    ENCODED: "BYTES",
    PROBABILITIES: "FP32",
    LOGITS: "FP32",
    PREDICTED: "BYTES",
}
PLATFORM: Final = "imago_onnxruntime"

_LENGTH: Final = struct.Struct("<I")
"""Before each element of a BYTES tensor in binary."""


def described(card: StudentCard, versions: Sequence[str]) -> ModelMetadata:
    """Return what the protocol says of a student.

    Args:
        card: of the student.
        versions: all that there are of its name.
    """
    classes = len(card.classes)
    return ModelMetadata(
        name=card.name,
        versions=tuple(versions),
        platform=PLATFORM,
        inputs=(
            _tensor(PIXELS, shape_of(card.preprocessing.input)),
            # Said to be optional, so that clients that look for the one input that must be given find it.
            _tensor(ENCODED, (), {"optional": True, "content": "PNG, JPEG or WebP", "instead_of": PIXELS}),
        ),
        outputs=(
            _tensor(PROBABILITIES, (classes,), {"temperature": 1.0}),
            _tensor(LOGITS, (classes,)),
            _tensor(PREDICTED, ()),
        ),
        parameters={"version": card.version, "classes": list(card.classes)},
    )


def shape_of(size: ImageInput) -> tuple[int, int, int]:
    """Return the shape of one image: height, width, channels."""
    return size.height, size.width, size.channels


def _tensor(name: str, row: tuple[int, ...], parameters: dict[str, Any] | None = None) -> TensorMetadata:
    return TensorMetadata(name=name, datatype=DATATYPES[name], shape=(-1, *row), parameters=parameters)


# --- from requests -----------------------------------------------------------------------------------------


def numbers(data: object, shape: Sequence[int]) -> bytes:
    """Return the values of a UINT8 tensor that came as JSON.

    Args:
        data: a list in row-major order, flat or nested as the shape is.
        shape: that the request states.

    Raises:
        InvalidInference: it is something else, or a value is no whole number from 0 to 255.
    """
    flat = _flat(data, shape, PIXELS)
    # All at once: a look at each value would cost more than the student does.
    if set(map(type, flat)) == {int}:
        try:
            return bytes(flat)
        except ValueError:
            pass
    raise InvalidInference(f"{PIXELS} is UINT8: its data are whole numbers from 0 to 255")


def files(data: object, shape: Sequence[int]) -> list[bytes]:
    """Return the elements of a BYTES tensor that came as JSON, each a string in base64.

    Raises:
        InvalidInference: it is something else.
    """
    found = []
    for number, text in enumerate(_flat(data, shape, ENCODED)):
        try:
            if not isinstance(text, str):
                raise ValueError
            found.append(base64.b64decode(text, validate=True))
        except (ValueError, binascii.Error):
            raise InvalidInference(
                f"element {number} of {ENCODED} is no file in base64, as JSON needs it"
            ) from None
    return found


def _flat(data: object, shape: Sequence[int], name: str) -> list[Any]:
    """Return the values of a JSON tensor in row-major order, as many as the shape says."""
    if not isinstance(data, list):
        raise InvalidInference(f"the data of {name} are no list")
    if data and isinstance(data[0], list):
        level = [data]
        for length in shape:
            if set(map(type, level)) != {list} or set(map(len, level)) != {length}:
                raise InvalidInference(f"the data of {name} are not nested as its shape {list(shape)} says")
            level = list(chain.from_iterable(level))
        return level
    values = 1
    for length in shape:
        values *= length
    if len(data) != values:
        raise InvalidInference(
            f"{name} has {len(data)} values, and its shape {list(shape)} makes it {values}"
        )
    return data


def elements(data: memoryview, count: int) -> list[bytes]:
    """Return the elements of a BYTES tensor that came in binary: each its length in 4 bytes, and itself.

    Raises:
        InvalidInference: it does not hold exactly `count` whole elements.
    """
    found: list[bytes] = []
    place = 0
    while place < len(data):
        start = place + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, place)[0] if start <= len(data) else len(data) + 1
        if end > len(data):
            raise InvalidInference(f"element {len(found)} of {ENCODED} is cut off")
        if len(found) == count:
            break
        found.append(bytes(data[start:end]))
        place = end
    if place != len(data) or len(found) != count:
        raise InvalidInference(f"{ENCODED} does not hold the {count} elements that its shape says")
    return found


# --- for answers -------------------------------------------------------------------------------------------


def lengthened(texts: Sequence[bytes]) -> bytes:
    """Return a BYTES tensor in binary."""
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
