"""What the files beside a model say of it: class names, image size, how pixels become numbers."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from shared.artefacts.model_files import CLASSES, LABELS, PREPROCESSOR
from shared.contracts.base import Classes
from shared.contracts.datasets import DatasetManifest
from shared.contracts.findings import Finding
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teacher_sources import TeacherSource
from shared.distillation.findings import warning
from shared.errors import InputMismatch, InvalidModelFiles

Resample = Literal["bilinear", "bicubic"]

_CLASSES: Final = TypeAdapter(Classes)
_NAMELESS: Final = re.compile(r"LABEL_\d+")
_GIVE_CLASSES: Final = (
    "Give `classes` in the order of the model's outputs, or send them as classes.json, a list of names, or "
    "as labels.txt, a name a line."
)
_MEAN_AND_STD: Final = {"image_mean": 0.0, "image_std": 1.0}
"""What they are where a preprocessor does not normalise."""
_RESAMPLES: Final[Mapping[int, Resample]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers; 1 is Lanczos, which is nearest to bicubic, 0 takes one pixel."""


@dataclass(frozen=True)
class Said:
    """What files say; None where they say nothing."""

    height: int | None = None
    width: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resample: Resample | None = None
    findings: tuple[Finding, ...] = field(default=())


def class_names(
    source: TeacherSource, folder: Path | None = None, id2label: Mapping[Any, str] | None = None
) -> tuple[str, ...]:
    """Return the class names in the order of the outputs: as given, else of a file, else of a configuration.

    Args:
        source: of the teacher.
        folder: of its files.
        id2label: of a configuration, by the number of the output.

    Raises:
        InvalidModelFiles: nothing names the classes, or what names them is damaged.
    """
    if source.classes is not None:
        return source.classes
    if folder is not None and (folder / CLASSES).is_file():
        listed = read_json(folder / CLASSES)
        if isinstance(listed, dict):
            listed = _in_order(listed, CLASSES)
        return _named(listed, CLASSES)
    if folder is not None and (folder / LABELS).is_file():
        return _named((folder / LABELS).read_text(encoding="utf-8-sig").strip().splitlines(), LABELS)
    if id2label:
        names = _named(_in_order(id2label, "config.json"), "config.json")
        if not all(_NAMELESS.fullmatch(name) for name in names):
            return names
        raise InvalidModelFiles(
            f"the classes are called {names[0]}, {names[1]} and so on, which names none of them"
            if len(names) > 1
            else f"the class is called {names[0]}, which names none",
            file="config.json",
            remedy=_GIVE_CLASSES,
        )
    raise InvalidModelFiles("nothing says what the model's outputs stand for", remedy=_GIVE_CLASSES)


def need_count(classes: Sequence[str], answered: int | None, what: str) -> None:
    """Raise where another number of classes is named than the model answers.

    Raises:
        InvalidModelFiles: the two numbers differ.
    """
    if answered is not None and answered != len(classes):
        raise InvalidModelFiles(
            f"{len(classes)} classes are named, and {what} answers {answered} numbers an image",
            remedy="Name a class for each output, in their order.",
        )


def preprocessor(folder: Path) -> Said:
    """Return what `preprocessor_config.json` says, as `transformers` reads it; nothing where there is none.

    Raises:
        InvalidModelFiles: it cannot be read so.
    """
    path = folder / PREPROCESSOR
    if not path.is_file():
        return Said()
    try:
        return _preprocessor(read_json(path))
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise InvalidModelFiles(
            f"it does not say how images are resized and normalised: {error}", file=PREPROCESSOR
        ) from error


def preprocessing_of(
    source: TeacherSource, said: Said, seen: ImageInput, dataset: DatasetManifest | None, *, normalised: bool
) -> tuple[Preprocessing, tuple[Finding, ...]]:
    """Return how images of the dataset become what the net sees, and what ought to be known of that.

    Args:
        source: of the teacher; what it gives comes before what files say.
        said: by the files.
        seen: what the net takes.
        dataset: whose images it will be asked about; without one, those that the source gives, or `seen`.
        normalised: whether mean and std are used: not where a graph takes pixels.

    Raises:
        InputMismatch: such images cannot become what the net sees.
        InvalidModelFiles: mean and std are not one number a channel, or a std is not above 0.
    """
    images = dataset.input if dataset is not None else source.input or seen
    if (images.channels, seen.channels) not in {(1, 3), (seen.channels, seen.channels)}:
        raise InputMismatch(
            f"the net sees {seen.channels} channels, and images of {images.channels} cannot become such",
            remedy="Take a dataset of as many channels, or of one where the net sees three.",
        )
    findings = list(said.findings)
    mean, std = source.mean or said.mean, source.std or said.std
    if normalised and (mean is None or std is None):
        findings.append(
            warning(
                "mean and std",
                "nothing says how pixels are normalised: from 0 to 1 is taken",
                "Give `mean` and `std` as in training, a channel, for pixels from 0 to 1.",
            )
        )
    try:
        return Preprocessing(
            input=images,
            mean=_a_channel(mean, seen.channels, 0.0),
            std=_a_channel(std, seen.channels, 1.0),
            net=seen if seen != images else None,
            resample=source.resample or said.resample or "bilinear",
        ), tuple(findings)
    except ValidationError as error:
        reason = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
        raise InvalidModelFiles(reason, remedy="Give `mean` and `std`, a number a channel.") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        InvalidModelFiles: it is none.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidModelFiles("it is no JSON", file=path.name) from error


def _named(listed: Any, file: str) -> tuple[str, ...]:
    try:
        names: tuple[str, ...] = _CLASSES.validate_python(
            tuple(str(name).strip() for name in listed) if isinstance(listed, list) else listed
        )
    except ValidationError as error:
        raise InvalidModelFiles(
            f"it is no list of different class names: {error.errors()[0]['msg']}", file=file
        ) from error
    if len(names) < 2 or not all(names):
        raise InvalidModelFiles(f"it names {len(names)} classes, or one without a name", file=file)
    return names


def _in_order(names: Mapping[Any, str], file: str) -> list[str]:
    try:
        numbered = {int(number): name for number, name in names.items()}
        return [numbered[number] for number in range(len(numbered))]
    except (AttributeError, ValueError, KeyError) as error:
        raise InvalidModelFiles("the numbers of its classes are not 0, 1 and so on", file=file) from error


def _a_channel(values: tuple[float, ...] | None, channels: int, without: float) -> tuple[float, ...]:
    if values is None:
        return (without,) * channels
    return values * channels if len(values) == 1 else values


def _preprocessor(config: Mapping[str, Any]) -> Said:
    size, findings = _size(config.get("size")), []
    crop = _size(config.get("crop_size")) if config.get("do_center_crop") else None
    if config.get("do_resize", True) is False:
        size = crop
    if crop is not None and size is not None and crop != size:
        findings.append(
            warning(
                "image size",
                f"preprocessor_config.json resizes to {size[0]} x {size[1]} and then cuts the middle "
                f"{crop[0]} x {crop[1]} out: here whole images are resized to the latter",
                "Objects look smaller to the net by that ratio; the accuracy below says what it costs.",
            )
        )
    size = crop or size
    if isinstance(config.get("crop_pct"), float) and crop is None and size is not None and size[0] < 384:
        findings.append(
            warning(
                "image size",
                f"preprocessor_config.json takes the middle {config['crop_pct']:.0%}: here whole images are "
                "resized",
                "Objects look smaller to the net by that ratio; the accuracy below says what it costs.",
            )
        )
    resample = config.get("resample")
    if resample is not None and resample not in _RESAMPLES:
        findings.append(
            warning("resizing", f"filter {resample} of Pillow is not known here: bicubic is taken")
        )
    # Pixels times the factor, not pixels / 255, are what mean and std are meant for.
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    scale = 255 * float(factor)
    normalises = config.get("do_normalize", True)
    mean, std = (_numbers(config.get(name) if normalises else one) for name, one in _MEAN_AND_STD.items())
    return Said(
        height=size[0] if size else None,
        width=size[1] if size else None,
        mean=None if mean is None else tuple(value / scale for value in mean),
        std=None if std is None else tuple(value / scale for value in std),
        resample=None if resample is None else _RESAMPLES.get(resample, "bicubic"),
        findings=tuple(findings),
    )


def _size(given: Any) -> tuple[int, int] | None:
    """Return rows and columns of `224`, `{"height": …, "width": …}` or `{"shortest_edge": …}`."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        if "shortest_edge" in given:
            return int(given["shortest_edge"]), int(given["shortest_edge"])
        return int(given["height"]), int(given["width"])
    if isinstance(given, list):
        return int(given[0]), int(given[1])
    return int(given), int(given)


def _numbers(given: Any) -> tuple[float, ...] | None:
    if given is None:
        return None
    return tuple(map(float, given)) if isinstance(given, list) else (float(given),)
