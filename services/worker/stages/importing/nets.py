"""Nets on PyTorch: of an architecture of ours, of Hugging Face `transformers`, of `timm`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from services.worker.stages.importing.draft import Read
from services.worker.stages.importing.said import (
    Said,
    class_names,
    need_count,
    preprocessing_of,
    preprocessor,
    read_json,
)
from services.worker.stages.importing.weights import SHOWN, as_float32, need_fit, read_weights
from shared.artefacts.model_files import CONFIG, WEIGHTS
from shared.contracts.architectures import Architecture, Timm, Transformers
from shared.contracts.datasets import DatasetManifest
from shared.contracts.images import ImageInput
from shared.contracts.teacher_sources import SafetensorsSource, TeacherSource, TimmSource, TransformersSource
from shared.contracts.teachers import Nets
from shared.contracts.transformers_configs import check_transformers_config
from shared.distillation.findings import warning
from shared.errors import InvalidModelFiles
from shared.models.checkpoints import net_tensors, stack, to_arrays
from shared.models.extras import imported
from shared.models.foreign import ForeignNet
from shared.models.network import Network
from shared.models.seeds import generator_of
from shared.models.signature import image_seen

SAME: Final = 1e-4
"""Largest difference between our answer and the library's, over the largest logit or 1: float32 adds up
otherwise where tensors lie otherwise, by a tenth of this."""

_PROBE_IMAGES: Final = 4
_FOREIGN: Final = "net."
"""Before the names of another library's tensors in `shared.models.foreign.ForeignNet`."""
_NOT_OF_THE_NET: Final = (
    "id2label", "label2id", "num_labels", "architectures", "transformers_version", "dtype", "torch_dtype",
    "_name_or_path", "auto_map", "problem_type",
)  # fmt: skip
"""In a `config.json`: about the file, the training or the classes, and no part of the architecture."""


def read_safetensors(source: SafetensorsSource, folder: Path, dataset: DatasetManifest | None) -> Read:
    """Read weights of a registered architecture, named as we name them.

    Raises:
        InvalidModelFiles: the weights are not those of the architecture at this size.
        ExtraMissing, ArchitectureInvalid: the architecture is of a library that is not here, or makes no net.
    """
    seen = source.input or (dataset.input if dataset is not None else None)
    if seen is None:
        raise InvalidModelFiles(
            "nothing says which images the net takes", remedy="Give `input`, or the dataset to check it with."
        )
    classes = class_names(source, folder)
    network = Network(source.architecture, seen, len(classes))
    tensors = need_fit(read_weights(folder / WEIGHTS), network, WEIGHTS)
    return _nets(source, source.architecture, tensors, classes, seen, Said(), dataset, "safetensors")


def read_transformers(source: TransformersSource, folder: Path, dataset: DatasetManifest | None) -> Read:
    """Read a Hugging Face image classifier; nothing is fetched, and no code of the folder is run.

    Raises:
        InvalidModelFiles: the library does not read it, weights are missing, or our net of its configuration
            answers otherwise.
        ExtraMissing: `transformers` is not installed.
        ArchitectureInvalid: its head is no linear layer, which we need; it is of a family that is not taken,
            or names what lies outside of it.
    """
    check_transformers_config(read_json(folder / CONFIG))
    library = imported("transformers")
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = library.AutoConfig.from_pretrained(folder, **local)
        net, loading = library.AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **local,
        )
    except Exception as error:
        # Foreign code, told what to read by a foreign file: say what it says.
        raise InvalidModelFiles(
            f"transformers does not read it: {_first_line(error)}",
            remedy="Send config.json and safetensors of a model for image classification, as save_pretrained "
            "writes them.",
        ) from error
    # The library draws what it does not find from a seed, and goes on.
    lacking = sorted({*loading["missing_keys"], *(str(one) for one in loading["mismatched_keys"])})
    if lacking:
        raise InvalidModelFiles(
            f"{len(lacking)} tensors of the net are missing or of another shape: "
            f"{', '.join(lacking[:SHOWN])}",
            remedy="Send the weights of the whole classifier, its head among them.",
        )
    said = preprocessor(folder)
    # What a file calls the classes is in the raw file; the library fills in LABEL_0 where it says nothing.
    classes = class_names(source, folder, config.id2label)
    need_count(classes, config.num_labels, "the net")
    seen = _seen_of(config, said, source, dataset)
    said = _with_size_told(_with_rest_told(said, sorted(loading["unexpected_keys"])), seen)
    raw = json.loads(config.to_json_string(use_diff=False))
    architecture = Transformers(
        config={name: value for name, value in raw.items() if name not in _NOT_OF_THE_NET}
    )
    network = Network(architecture, seen, len(classes))
    tensors = need_fit(as_float32(net_tensors(ForeignNet(net))), network, WEIGHTS)
    need_same_answers(net.eval(), network, tensors, seen)
    name = f"transformers, {type(net).__name__}"
    return _nets(source, architecture, tensors, classes, seen, said, dataset, name)


def read_timm(source: TimmSource, folder: Path, dataset: DatasetManifest | None) -> Read:
    """Read weights of a net of `timm` by its name.

    Raises:
        InvalidModelFiles: the weights are not those of the net at this size.
        ExtraMissing: `timm`, or the torchvision that it needs, is not installed.
        ArchitectureInvalid: it knows no such net, or its head is no linear layer.
    """
    library = imported("timm")
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    try:
        said, channels = _preset(config.get("pretrained_cfg") or _known_of_timm(library, source.model))
        labels = dict(enumerate(config.get("label_names") or ()))
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidModelFiles(f"it does not say what the net sees: {error}", file=CONFIG) from error
    classes = class_names(source, folder, labels)
    need_count(classes, config.get("num_classes"), "the net")
    seen = _sized(said, channels, source, dataset)
    architecture = Timm(model=source.model)
    network = Network(architecture, seen, len(classes))
    theirs = {_FOREIGN + name: tensor for name, tensor in read_weights(folder / WEIGHTS).items()}
    tensors = need_fit(theirs, network, WEIGHTS)
    return _nets(source, architecture, tensors, classes, seen, said, dataset, f"timm, {source.model}")


def need_same_answers(
    theirs: nn.Module, network: Network, tensors: dict[str, Tensor], seen: ImageInput
) -> None:
    """Raise where our network of these tensors does not answer as the library's own net.

    Raises:
        InvalidModelFiles: the configuration alone does not make the net that was sent.
    """
    shape = (_PROBE_IMAGES, seen.channels, seen.height, seen.width)
    images = torch.randn(shape, generator=generator_of("probe of an import", 0))
    with torch.inference_mode():
        expected = theirs(images).logits
        found = network.logits(stack([tensors]), images.unsqueeze(0)).squeeze(0)
    difference = float((found - expected).abs().max())
    if not difference <= SAME * max(1.0, float(expected.abs().max())):
        raise InvalidModelFiles(
            f"a net made of its configuration answers otherwise than the one that was sent: {difference:.2e}",
            remedy="Report this with its config.json; export it to ONNX in the meantime.",
        )


def _nets(
    source: TeacherSource,
    architecture: Architecture,
    tensors: dict[str, Tensor],
    classes: tuple[str, ...],
    seen: ImageInput,
    said: Said,
    dataset: DatasetManifest | None,
    words: str,
) -> Read:
    preprocessing, findings = preprocessing_of(source, said, seen, dataset, normalised=True)
    return Read(
        model=Nets(architecture=architecture),
        tensors=to_arrays(stack([tensors])),
        classes=classes,
        preprocessing=preprocessing,
        source=words,
        findings=findings,
    )


def _seen_of(config: Any, said: Said, source: TeacherSource, dataset: DatasetManifest | None) -> ImageInput:
    """Return what a net of transformers sees: by its configuration, where that says it."""
    channels = int(getattr(config, "num_channels", None) or 3)
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return image_seen(size, size, channels)
    if isinstance(size, list | tuple):
        return image_seen(int(size[0]), int(size[1]), channels)
    return _sized(said, channels, source, dataset)


def _with_rest_told(said: Said, names: list[str]) -> Said:
    """Return what files say with a finding where the weights hold more than the net."""
    if not names:
        return said
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    told = warning(
        "tensors", f"{len(names)} are no part of the net and left out: {', '.join(names[:SHOWN])}{more}"
    )
    return replace(said, findings=(*said.findings, told))


def _with_size_told(said: Said, seen: ImageInput) -> Said:
    """Return what files say with a finding where they resize to another size than the net takes."""
    if said.height is None or (said.height, said.width) == (seen.height, seen.width):
        return said
    told = warning(
        "image size",
        f"preprocessor_config.json resizes to {said.height} x {said.width}, and the net takes "
        f"{seen.height} x {seen.width}: that is what images are resized to",
    )
    return replace(said, findings=(*said.findings, told))


def _sized(said: Said, channels: int, source: TeacherSource, dataset: DatasetManifest | None) -> ImageInput:
    """Return what a net sees that takes images of any size: what it was trained at, else as they come."""
    if said.height is not None and said.width is not None:
        return image_seen(said.height, said.width, channels)
    given = dataset.input if dataset is not None else source.input
    if given is None:
        raise InvalidModelFiles(
            "nothing says which size of images the net takes",
            remedy="Give `input`, or the dataset to check it with, or send preprocessor_config.json.",
        )
    return image_seen(given.height, given.width, channels)


def _preset(known: dict[str, Any]) -> tuple[Said, int]:
    """Return what `timm` knows of a net's images, and how many channels they have."""
    channels, height, width = known.get("input_size") or (3, None, None)
    return Said(
        height=height,
        width=width,
        mean=_tuple(known.get("mean")),
        std=_tuple(known.get("std")),
        resample="bicubic" if known.get("interpolation") == "bicubic" else "bilinear",
    ), channels


def _known_of_timm(library: Any, model: str) -> dict[str, Any]:
    known = library.get_pretrained_cfg(model)
    return {} if known is None else dict(known.to_dict())


def _tuple(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]
