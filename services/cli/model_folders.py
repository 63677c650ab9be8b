"""Recognises what a folder or a file of a model holds, before anything of it is sent.

The same checks that the gateway makes are made here first: a wrong file is told at once, not after an upload.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from services.cli.errors import CommandFailed
from shared.artefacts.model_files import (
    CLASSES,
    CONFIG,
    GRAPH,
    INDEX,
    LABELS,
    WEIGHTS,
    FilesKind,
    check_model_file,
    refuse_pickle_name,
    taken_names,
)
from shared.contracts.architectures import ARCHITECTURES, Architecture, ResNetName
from shared.contracts.teachers import Nets, TeacherDescription
from shared.errors import DistillationError

OURS: Final = "teacher.json"
_ARCHITECTURE: TypeAdapter[Architecture] = TypeAdapter(Architecture)


@dataclass(frozen=True)
class Recognised:
    """What a model was taken for."""

    kind: FilesKind
    files: dict[str, Path]
    """What is sent, by the name under which it is."""
    words: str
    said: dict[str, Any] = field(default_factory=dict)
    """What the files say that belongs into the order: the architecture, the name in timm, the mean."""


def recognise(folder: Path, architecture: str | None = None) -> Recognised:
    """Return what a folder holds, by its files.

    Args:
        folder: of Hugging Face, of timm on the hub, with an ONNX file, or with weights of a registered net.
        architecture: of the latter, where the folder does not say it: a name such as `resnet20`, or JSON.

    Raises:
        CommandFailed: it holds none of these, or pickles, or a file is damaged.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = [name for name in names if name.endswith(".safetensors")]
    graphs = [name for name in names if name.endswith(".onnx")]
    config = _json(folder / CONFIG) if CONFIG in names else {}
    if architecture is not None or (OURS in names and weights):
        return _registered(folder, weights, architecture)
    if weights and "model_type" in config:
        return _checked(_transformers(folder, names, config))
    if weights and isinstance(config.get("architecture"), str):
        return _checked(_of_timm(folder, weights, config))
    if len(graphs) == 1 and not weights:
        beside = [folder / name for name in taken_names(names, "onnx") if name != GRAPH]
        return onnx_file(folder / graphs[0], beside)
    with _told():
        for name in names:
            refuse_pickle_name(name)
    if weights:
        raise CommandFailed(
            "model-not-recognised",
            f"{folder} has weights, and nothing that says of which net",
            "Give --architecture (resnet20, or JSON) for a registered net, or --timm MODEL --weights FILE.",
        )
    raise CommandFailed(
        "model-not-recognised",
        f"{folder} holds no safetensors and no ONNX file",
        "Name a Hugging Face folder, or one with model.safetensors or model.onnx; docs/teachers.md has each.",
    )


def onnx_file(path: Path, beside: list[Path] | None = None) -> Recognised:
    """Return an ONNX file with the texts that lie beside it, such as `labels.txt`."""
    texts = beside if beside is not None else _texts(path.parent, (CLASSES, LABELS))
    files = {GRAPH: path, **{text.name: text for text in texts}}
    return _checked(Recognised("onnx", files, f"an ONNX file, {path.name}"))


def timm_weights(model: str, path: Path) -> Recognised:
    """Return the weights of a net of timm with the texts that lie beside them."""
    files = {WEIGHTS: path, **{text.name: text for text in _texts(path.parent, (CLASSES, LABELS))}}
    return _checked(Recognised("timm", files, f"weights of {model} of timm", {"model": model}))


# --- the kinds of folders ----------------------------------------------------------------------------------


def _transformers(folder: Path, names: list[str], config: dict[str, Any]) -> Recognised:
    taken = taken_names(names, "transformers")
    if WEIGHTS not in taken and INDEX not in taken:
        raise CommandFailed(
            "model-not-recognised",
            f"{folder} is a Hugging Face folder without {WEIGHTS}",
            "Write it anew: from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True).",
        )
    return Recognised(
        "transformers",
        {name: folder / name for name in taken},
        f"a Hugging Face folder of a {config['model_type']}",
    )


def _of_timm(folder: Path, weights: list[str], config: dict[str, Any]) -> Recognised:
    model, preset = config["architecture"], config.get("pretrained_cfg")
    preset = preset if isinstance(preset, dict) else {}
    said = {"model": model} | {key: preset[key] for key in ("mean", "std") if preset.get(key)}
    if preset.get("interpolation") in ("bilinear", "bicubic"):
        said["resample"] = preset["interpolation"]
    files = {WEIGHTS: _only(folder, weights), CONFIG: folder / CONFIG}
    files |= {text.name: text for text in _texts(folder, (CLASSES, LABELS))}
    return Recognised("timm", files, f"a folder of timm, {model}", said)


def _registered(folder: Path, weights: list[str], architecture: str | None) -> Recognised:
    said: dict[str, Any] = {}
    if architecture is not None:
        said["architecture"] = architecture_of(architecture)
    else:
        said |= _described(folder / OURS)
    files = {WEIGHTS: _only(folder, weights)}
    files |= {text.name: text for text in _texts(folder, (CLASSES, LABELS))}
    name = said["architecture"]["architecture"]
    return _checked(Recognised("safetensors", files, f"weights of a registered net, {name}", said))


def _described(path: Path) -> dict[str, Any]:
    """Return what the description of a teacher of ours says, of one net."""
    try:
        teacher = TeacherDescription.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CommandFailed(
            "model-not-recognised", f"{path} describes no teacher of this version", "Give --architecture."
        ) from error
    model, preprocessing = teacher.model, teacher.preprocessing
    if not isinstance(model, Nets) or model.members != 1 or model.specialists is not None:
        raise CommandFailed(
            "model-not-recognised",
            f"{path} describes a teacher that is not one net",
            "Bring its members one by one, then --ensemble.",
        )
    return {
        "architecture": model.architecture.model_dump(mode="json"),
        "classes": list(teacher.classes),
        "input": preprocessing.input.model_dump(),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "resample": preprocessing.resample,
        "precision": teacher.precision,
    }


def architecture_of(text: str) -> dict[str, Any]:
    """Return an architecture as JSON values, from its name alone or from JSON.

    Raises:
        CommandFailed: it is none, or one that needs more than its name.
    """
    known: tuple[str, ...] = (*ResNetName.__args__, "mlp", "cnn")  # type: ignore[attr-defined]
    value = {"architecture": text} if text in known else text
    try:
        made = (
            _ARCHITECTURE.validate_python(value)
            if isinstance(value, dict)
            else _ARCHITECTURE.validate_json(value)
        )
    except ValidationError as error:
        raise CommandFailed(
            "unknown-architecture",
            f"{text[:100]!r} is no registered architecture",
            f'Give JSON such as {{"architecture": "mlp", "hidden_units": [800, 800]}}, of one of: '
            f"{', '.join(ARCHITECTURES)}.",
        ) from error
    return made.model_dump(mode="json")


# --- helpers -----------------------------------------------------------------------------------------------


def _checked(found: Recognised) -> Recognised:
    with _told():
        for name, path in found.files.items():
            refuse_pickle_name(path.name)
            check_model_file(path, name)
    return found


def _only(folder: Path, weights: list[str]) -> Path:
    """Return the file of the weights: the one of the usual name, or the only one there is."""
    if WEIGHTS in weights:
        return folder / WEIGHTS
    if len(weights) != 1:
        raise CommandFailed(
            "model-not-recognised",
            f"{folder} has {len(weights)} safetensors files, and none is called {WEIGHTS}",
            "Leave one.",
        )
    return folder / weights[0]


def _texts(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _json(path: Path) -> dict[str, Any]:
    with _told():
        check_model_file(path)
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


@contextmanager
def _told() -> Iterator[None]:
    """Turn a refusal of the core into one of a command, with the same code and remedy."""
    try:
        yield
    except DistillationError as error:
        raise CommandFailed(error.code, str(error), error.remedy) from error
    except OSError as error:
        raise CommandFailed("file-not-readable", f"{error.filename}: {error.strerror}") from error
