"""Makes the order for a teacher of what the options of `imago teachers add` say."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from services.cli import hub
from services.cli.errors import CommandFailed
from services.cli.model_folders import Recognised, onnx_file, recognise, timm_weights

_SIZE = re.compile(r"([0-9]{1,4})x([0-9]{1,4})x([1-4])")


@dataclass(frozen=True)
class Sources:
    """Where the teacher comes from; exactly one of them is given."""

    folder: Path | None = None
    architecture: str | None = None
    timm: str | None = None
    weights: Path | None = None
    onnx: Path | None = None
    oip: str | None = None
    model: str | None = None
    version: str | None = None
    ensemble: str | None = None
    merge: str | None = None
    hub: str | None = None


@dataclass(frozen=True)
class Said:
    """What the owner says of it; what is left out is read from files, or is the dataset's."""

    classes: str | None = None
    input: str | None = None
    mean: str | None = None
    std: str | None = None
    resample: str | None = None
    precision: str | None = None
    output: str | None = None
    layout: str | None = None
    answers: str | None = None


@dataclass(frozen=True)
class Order:
    """A source as JSON values, the files that go with it, and in words what it is."""

    source: dict[str, Any]
    files: dict[str, Path]
    words: str


def order_of(sources: Sources, said: Said) -> Order:
    """Return the order; the gateway judges what is in it.

    Raises:
        typer.BadParameter: not exactly one source, or an option without the one that it belongs to.
        CommandFailed: the files are no model.
    """
    _need_one(sources)
    if sources.oip is not None:
        source: dict[str, Any] = {"kind": "oip", "url": sources.oip, "model": sources.model}
        source |= _given(version=sources.version)
        made = Order(source, {}, f"the model {sources.model} behind {sources.oip}")
    elif sources.ensemble is not None:
        members = _parts(sources.ensemble)
        source = {"kind": "ensemble", "members": members} | _given(merge=sources.merge)
        made = Order(source, {}, f"an ensemble of {', '.join(members)}")
    else:
        found = _files(sources)
        made = Order({"kind": found.kind} | found.said, found.files, found.words)
    return Order(made.source | _words(said), made.files, made.words)


def _files(sources: Sources) -> Recognised:
    if sources.onnx is not None:
        return onnx_file(sources.onnx)
    if sources.timm is not None:
        assert sources.weights is not None
        return timm_weights(sources.timm, sources.weights)
    folder = hub.fetch(sources.hub) if sources.hub is not None else sources.folder
    assert folder is not None
    return recognise(folder, sources.architecture)


def _need_one(sources: Sources) -> None:
    kinds = ("folder", "timm", "onnx", "oip", "ensemble", "hub")
    given = [f"--{kind}" for kind in kinds if getattr(sources, kind) is not None]
    if len(given) != 1:
        raise typer.BadParameter(
            f"give one of {', '.join(f'--{kind}' for kind in kinds)}, got {' and '.join(given) or 'none'}"
        )
    for option, belongs in (
        ("weights", "timm"), ("model", "oip"), ("version", "oip"), ("merge", "ensemble"),
        ("architecture", "folder"),
    ):  # fmt: skip
        if getattr(sources, option) is not None and getattr(sources, belongs) is None:
            raise typer.BadParameter(f"--{option} belongs to --{belongs}")
    for kind, needed in (("timm", "weights"), ("oip", "model")):
        if getattr(sources, kind) is not None and getattr(sources, needed) is None:
            raise typer.BadParameter(f"--{kind} needs --{needed}")


def _words(said: Said) -> dict[str, Any]:
    words = _given(
        resample=said.resample, precision=said.precision, output=said.output, layout=said.layout,
        answers=said.answers,
    )  # fmt: skip
    if said.classes is not None:
        words["classes"] = class_names(said.classes)
    if said.input is not None:
        found = _SIZE.fullmatch(said.input)
        if found is None:
            raise typer.BadParameter(
                f"--input is height x width x channels, such as 32x32x3, got {said.input!r}"
            )
        words["input"] = dict(zip(("height", "width", "channels"), map(int, found.groups()), strict=True))
    for option in ("mean", "std"):
        text = getattr(said, option)
        if text is not None:
            words[option] = _numbers(option, text)
    return words


def class_names(text: str) -> list[str]:
    """Return class names: from `a,b,c`, or from `@FILE` with a line each, or a JSON list.

    Raises:
        CommandFailed: the file cannot be read.
    """
    if not text.startswith("@"):
        return _parts(text)
    try:
        content = Path(text[1:]).read_text(encoding="utf-8-sig")
        if content.lstrip().startswith("["):
            return [str(name) for name in json.loads(content)]
    except (OSError, ValueError) as error:
        raise CommandFailed(
            "classes-not-readable", f"{text[1:]}: {error}", "Give a file with a name a line, or a JSON list."
        ) from error
    return content.strip().splitlines()


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in _parts(text)]
    except ValueError as error:
        raise typer.BadParameter(f"--{option} takes numbers with commas between, got {text!r}") from error


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def size_of(files: Sequence[Path]) -> int:
    """Return the bytes of all files together."""
    return sum(path.stat().st_size for path in files)
