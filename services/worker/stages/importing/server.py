"""A model on a server that speaks the Open Inference Protocol, as the server itself describes it."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray

from services.worker.stages.importing.draft import Read
from services.worker.stages.importing.said import Said, class_names, need_count, preprocessing_of
from services.worker.stages.importing.wholes import seen_by
from shared.adapters.oip import OipModel, OipServer
from shared.adapters.oip_hosts import AllowedHosts
from shared.adapters.oip_models import find_model
from shared.contracts.datasets import DatasetManifest
from shared.contracts.teacher_sources import OipSource
from shared.contracts.teachers import TeacherDescription
from shared.models.probes import PROBE, make_probe
from shared.models.remote import RemoteTeacher


def read_server(source: OipSource, name: str, dataset: DatasetManifest | None, allowed: AllowedHosts) -> Read:
    """Read what a server says of a model, and keep what it answers about a few images as its probe.

    Args:
        source: of the teacher.
        name: of the teacher.
        dataset: whose images it will be asked about, where there is one.
        allowed: the servers that may be asked.

    Raises:
        OipHostNotAllowed: the server is not among them.
        TeacherUnavailable: it does not answer, or not in time.
        TeacherAnswerInvalid: it has no such model, or what it answers are no logits of these classes.
        ModelUnfit: the model's tensors are not one batch of images in, a number a class out.
        InvalidModelFiles: nothing says its classes or its image size.
    """
    server = OipServer(source.url, allowed)
    try:
        model, takes, answered = find_model(
            server,
            url=source.url.rstrip("/"),
            model=source.model,
            version=source.version,
            image=source.input or (dataset.input if dataset is not None else None),
            output=source.output,
            layout=source.layout,
            answers=source.answers,
        )
        platform = server.model(model.model, model.version).platform or server.metadata().name
    finally:
        server.close()
    classes = class_names(source)
    need_count(classes, answered, f"the server's output {model.output!r}")
    seen = seen_by(takes, Said(), source, dataset)
    preprocessing, findings = preprocessing_of(
        source, Said(), seen, dataset, normalised=model.datatype != "uint8"
    )
    unproven = TeacherDescription(
        name=name,
        digest="0" * 64,
        model=model,
        classes=classes,
        preprocessing=preprocessing,
        created_at=datetime.now(UTC),
    )
    asked = OipModel(model, allowed)
    try:
        probe = make_probe(_asking(RemoteTeacher(unproven, asked, None)), preprocessing.input)
    finally:
        asked.close()
    return Read(
        model=model,
        files={PROBE: probe},
        classes=classes,
        preprocessing=preprocessing,
        source=f"{source.model} on {model.url}" + (f" ({platform})" if platform else ""),
        findings=findings,
    )


def _asking(teacher: RemoteTeacher) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    def ask(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = teacher.member_logits(torch.from_numpy(images)).squeeze(0).numpy()
        return logits

    return ask
