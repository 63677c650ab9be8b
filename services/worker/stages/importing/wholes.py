"""Models that are asked as a whole: a graph, a server, teachers that are here already."""

from pathlib import Path
from typing import Any

from services.worker.stages.importing.draft import Read
from services.worker.stages.importing.said import (
    Said,
    class_names,
    need_count,
    preprocessing_of,
    preprocessor,
    read_json,
)
from shared.artefacts.model_files import CONFIG, GRAPH
from shared.artefacts.teachers import TeacherStore
from shared.contracts.datasets import DatasetManifest
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teacher_sources import EnsembleSource, OnnxSource, TeacherSource
from shared.contracts.teachers import MemberTeacher, MixedEnsemble
from shared.errors import InvalidModelFiles
from shared.models.onnx_facts import inspect_onnx, onnx_model_of
from shared.models.signature import ImageTensor, image_seen


def read_onnx(source: OnnxSource, folder: Path, dataset: DatasetManifest | None) -> Read:
    """Read a graph for ONNX Runtime; what nothing else says is as the graph says it.

    Raises:
        InvalidModelFiles: ONNX Runtime does not run it, or nothing says its classes or its image size.
        ModelUnfit: its tensors are not one batch of images in, a number a class out.
    """
    facts = inspect_onnx(folder / GRAPH)
    model, takes, answered = onnx_model_of(
        facts, output=source.output, layout=source.layout, answers=source.answers
    )
    said = preprocessor(folder)
    config: dict[str, Any] = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    classes = class_names(source, folder, config.get("id2label"))
    need_count(classes, answered, f"the graph's output {model.output!r}")
    seen = seen_by(takes, said, source, dataset)
    preprocessing, findings = preprocessing_of(
        source, said, seen, dataset, normalised=model.datatype != "uint8"
    )
    opsets = ", ".join(f"{domain} {version}" for domain, version in facts.opsets.items())
    return Read(
        model=model,
        files={GRAPH: folder / GRAPH},
        classes=classes,
        preprocessing=preprocessing,
        source=f"ONNX graph of {len(facts.operators)} kinds of operators ({opsets})",
        findings=findings,
    )


def read_ensemble(source: EnsembleSource, teachers: TeacherStore) -> Read:
    """Read an ensemble of teachers that are here, as they are now.

    Raises:
        TeacherNotFound, Corrupt: a member is not here, or not whole.
    """
    members = [teachers.current(name) for name in source.members]
    first = members[0]
    channels = first.preprocessing.input.channels
    return Read(
        model=MixedEnsemble(
            members=tuple(MemberTeacher(name=one.name, digest=one.digest) for one in members),
            merge=source.merge,
        ),
        classes=first.classes,
        # Each member has its own mean and std; only the size of the images counts here.
        preprocessing=Preprocessing(
            input=first.preprocessing.input, mean=(0.0,) * channels, std=(1.0,) * channels
        ),
        source=f"ensemble of {', '.join(source.members)}",
    )


def seen_by(
    takes: ImageTensor, said: Said, source: TeacherSource, dataset: DatasetManifest | None
) -> ImageInput:
    """Return what a model sees: by its tensor, else by its files, else images as they come.

    Raises:
        InvalidModelFiles: nothing says the size.
        ModelUnfit: there are no images of that size.
    """
    if takes.image is not None:
        return takes.image
    given = dataset.input if dataset is not None else source.input
    height = takes.height or said.height or (given.height if given is not None else None)
    width = takes.width or said.width or (given.width if given is not None else None)
    if height is None or width is None:
        raise InvalidModelFiles(
            "nothing says which size of images the model takes",
            remedy="Give `input`, or the dataset to check it with, or send preprocessor_config.json.",
        )
    return image_seen(height, width, takes.channels)
