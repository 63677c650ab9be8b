"""Files of models that come from outside: which names are taken, and what can be seen without running them.

Names are of a closed list for each kind of source, so that nothing that a library might unpickle or import
is ever stored. Contents are looked at from the outside only: the header of a safetensors file must describe
every byte of it, JSON must parse, an ONNX file must be one protobuf message from its first byte to its last.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeGuard, get_args

from shared.contracts.transformers_configs import check_transformers_config
from shared.errors import InvalidModelFiles, PickleRefused

FilesKind = Literal["safetensors", "transformers", "timm", "onnx"]
"""The kinds of sources that are made of files."""

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
GRAPH: Final = "model.onnx"
CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
CLASSES: Final = "classes.json"
LABELS: Final = "labels.txt"

ALLOWED: Final[dict[FilesKind, tuple[str, ...]]] = {
    "safetensors": (WEIGHTS, CLASSES, LABELS),
    "transformers": (CONFIG, WEIGHTS, INDEX, PREPROCESSOR, CLASSES, LABELS),
    "timm": (WEIGHTS, CONFIG, CLASSES, LABELS),
    "onnx": (GRAPH, CONFIG, PREPROCESSOR, CLASSES, LABELS),
}
"""Names of files by kind; beside them `transformers` takes shards, `model-00001-of-00002.safetensors`."""

_NEEDED: Final[dict[FilesKind, tuple[str, ...]]] = {
    "safetensors": (WEIGHTS,),
    "transformers": (CONFIG,),
    "timm": (WEIGHTS,),
    "onnx": (GRAPH,),
}
_SHARD: Final = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
_PICKLES: Final = re.compile(r"\.(pt|pth|bin|ckpt|pkl|pickle|joblib|npy|npz|mar|dill)$", re.IGNORECASE)
_PICKLE_PROTOCOLS: Final = (2, 3, 4, 5)

LARGEST_TEXT_BYTES: Final = 4 * 2**20
_LARGEST_HEADER_BYTES: Final = 2**20
"""About 100 bytes a tensor. What is parsed takes up to twenty times the memory of its text."""
_LARGEST_GRAPH_BYTES: Final = 2**31 - 1
"""Protobuf's own limit of a message."""
_MOST_DIMENSIONS: Final = 16
_MOST_FRAMES: Final = 100_000
_MODEL_GRAPH: Final = 7
"""The number of the field `graph` in ONNX's ModelProto."""

_DTYPE_BYTES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


# --- names -------------------------------------------------------------------------------------------------


def refuse_pickle_name(name: str) -> None:
    """Raise `PickleRefused` where files of this name are pickles, or may hold one."""
    found = _PICKLES.search(name)
    if found:
        raise PickleRefused(_shown(name), f"a {found[0].lower()} file may hold a pickle, which can run code")


def checked_name(given: str, kind: FilesKind) -> str:
    """Return the name under which a file that was sent is kept: its last part, where that is on the list.

    Raises:
        PickleRefused: by its name it is a pickle.
        InvalidModelFiles: sources of this kind have no file of this name.
    """
    name = given.replace("\\", "/").rpartition("/")[2]
    refuse_pickle_name(name)
    if name in ALLOWED[kind] or (kind == "transformers" and _SHARD.fullmatch(name)):
        return name
    listed = ", ".join(ALLOWED[kind]) + (
        ", model-00001-of-00002.safetensors and so on" if kind == "transformers" else ""
    )
    raise InvalidModelFiles(
        f"no file of a source of kind {kind!r} has this name",
        file=_shown(name),
        remedy=f"Send it under one of these names, or leave it out: {listed}.",
    )


def taken_names(names: Iterable[str], kind: FilesKind) -> list[str]:
    """Return those of the names that a source of this kind takes, sorted."""
    known = set(ALLOWED[kind])
    return sorted(
        name for name in names if name in known or (kind == "transformers" and _SHARD.fullmatch(name))
    )


def _shown(name: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", name)[:100] or "a file without a name"


# --- a whole folder ----------------------------------------------------------------------------------------


def check_model_folder(directory: Path, kind: FilesKind) -> None:
    """Look at the files of a model as far as that goes without running it. Other files are not looked at.

    Raises:
        PickleRefused: a file is a pickle, whatever its name; or there are pickles and nothing else.
        InvalidModelFiles: one that is needed is missing, or one is damaged.
        ArchitectureInvalid: the configuration is of a family of `transformers` that is not taken, or names
            what lies outside of it.
    """
    present = sorted(path.name for path in directory.iterdir() if path.is_file())
    names = taken_names(present, kind)
    weights = [name for name in names if name.endswith(".safetensors")]
    if kind != "onnx" and not weights:
        for name in present:
            refuse_pickle_name(name)
        raise InvalidModelFiles(f"there is no {WEIGHTS}")
    for needed in _NEEDED[kind]:
        if needed not in names:
            raise InvalidModelFiles(f"there is no {needed}, which a source of kind {kind!r} needs")
    for name in names:
        check_model_file(directory / name)
    if kind == "transformers":
        check_transformers_config(_json_object(CONFIG, (directory / CONFIG).read_bytes()))
    if INDEX in names:
        _check_index(directory / INDEX, weights)
    elif kind == "transformers" and WEIGHTS not in names:
        raise InvalidModelFiles(f"weights in several files need {INDEX}, which says what lies where")


def check_model_file(path: Path, name: str | None = None) -> None:
    """Look at one file, by what its name says it is; `name` where it is to have another than it has.

    Raises:
        PickleRefused: it is a pickle, or the zip that `torch.save` writes.
        InvalidModelFiles: it is not whole, or not what its name says.
    """
    name = name or path.name
    with path.open("rb") as file:
        _refuse_pickle(name, file.read(16))
        size = path.stat().st_size
        file.seek(0)
        if name.endswith(".safetensors"):
            _check_safetensors(name, file, size)
        elif name.endswith(".onnx"):
            _check_onnx(name, file, size)
        else:
            _check_text(name, file, size)


def _refuse_pickle(name: str, start: bytes) -> None:
    # The length of a safetensors header may begin with the same two bytes; its JSON begins with a brace.
    if start[:1] == b"\x80" and start[1:2] and start[1] in _PICKLE_PROTOCOLS and start[8:9] != b"{":
        raise PickleRefused(name, "it begins as a pickle does, whatever its name")
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        raise PickleRefused(name, "it is a zip, as torch.save writes one around a pickle")


# --- each kind of file -------------------------------------------------------------------------------------


def _check_safetensors(name: str, file: BinaryIO, size: int) -> None:
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > min(_LARGEST_HEADER_BYTES, size - 8):
        raise InvalidModelFiles("it is no safetensors file, or it is cut short", file=name)
    header = _json_object(name, file.read(length))
    header.pop("__metadata__", None)
    if not header:
        raise InvalidModelFiles("it holds no tensors", file=name)
    end = 0
    for tensor, (begin, stop) in sorted(
        ((tensor, _extent(name, tensor, entry)) for tensor, entry in header.items()), key=lambda one: one[1]
    ):
        if begin != end:
            raise InvalidModelFiles(f"{tensor[:100]!r} is not where the one before it ends", file=name)
        end = stop
    if 8 + length + end != size:
        raise InvalidModelFiles(
            f"its header describes {8 + length + end:,} bytes, and it has {size:,}", file=name
        )


def _extent(name: str, tensor: str, entry: Any) -> tuple[int, int]:
    """Return from where to where a tensor lies behind the header, after comparing that with its shape."""
    described = entry if isinstance(entry, dict) else {}
    dtype, shape, place = (described.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (_whole_numbers(shape) and _whole_numbers(place) and len(place) == 2):
        raise InvalidModelFiles(f"{tensor[:100]!r} is not described as a tensor", file=name)
    if dtype not in _DTYPE_BYTES:
        raise InvalidModelFiles(f"{tensor[:100]!r} is of an unknown kind of number", file=name)
    begin, stop = place
    if stop - begin != math.prod(shape) * _DTYPE_BYTES[dtype]:
        raise InvalidModelFiles(f"{tensor[:100]!r} has another length than its shape says", file=name)
    return begin, stop


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    """Tell whether it is a list of sizes or places; bounded, so that a product of them is no work."""
    return (
        isinstance(value, list)
        and len(value) <= _MOST_DIMENSIONS
        and all(type(one) is int and 0 <= one < 2**48 for one in value)
    )


def _check_onnx(name: str, file: BinaryIO, size: int) -> None:
    """Walk over the outermost fields of the message, without reading what is in them."""
    if size > _LARGEST_GRAPH_BYTES:
        raise InvalidModelFiles(
            f"a graph with its weights has at most {_LARGEST_GRAPH_BYTES:,} bytes", file=name
        )
    seen = set()
    for _ in range(_MOST_FRAMES):
        if file.tell() >= size:
            break
        field, wire = divmod(_varint(name, file), 8)
        seen.add(field)
        if wire == 0:
            _varint(name, file)
        elif wire in (1, 2, 5):
            file.seek({1: 8, 5: 4}.get(wire) or _varint(name, file), 1)
        else:
            break
    if file.tell() != size or _MODEL_GRAPH not in seen or 0 in seen:
        raise InvalidModelFiles("it is no ONNX model, or it is cut short", file=name)


def _varint(name: str, file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return min(value, _LARGEST_GRAPH_BYTES)
    raise InvalidModelFiles("it is no ONNX model, or it is cut short", file=name)


def _check_text(name: str, file: BinaryIO, size: int) -> None:
    if size > LARGEST_TEXT_BYTES:
        raise InvalidModelFiles(f"it has more than {LARGEST_TEXT_BYTES:,} bytes", file=name)
    data = file.read()
    if name == LABELS:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise InvalidModelFiles("it is no text in UTF-8", file=name) from error
    elif name == CLASSES:
        _json(name, data)
    else:
        _json_object(name, data)


def _check_index(path: Path, weights: list[str]) -> None:
    places = _json_object(path.name, path.read_bytes()).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InvalidModelFiles("it has no `weight_map`", file=path.name)
    missing = {str(place) for place in places.values()} - set(weights)
    if missing:
        raise InvalidModelFiles(f"it names {min(missing)[:100]!r}, which is not there", file=path.name)


def _json_object(name: str, data: bytes) -> dict[str, Any]:
    value = _json(name, data)
    if not isinstance(value, dict):
        raise InvalidModelFiles("it holds something else than one JSON object", file=name)
    return value


def _json(name: str, data: bytes) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise InvalidModelFiles("it is no JSON, or it says something twice", file=name) from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in one JSON object")
    return made


def is_files_kind(kind: str) -> TypeGuard[FilesKind]:
    """Return whether sources of this kind are made of files."""
    return kind in get_args(FilesKind)
