"""Teachers of every kind: described, and published in a store."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.artefacts.store import ArtefactStore
from shared.contracts.images import Preprocessing
from shared.contracts.teachers import (
    MemberTeacher,
    MixedEnsemble,
    OnnxModel,
    TeacherDescription,
    TeacherModel,
)
from shared.models.onnx_facts import inspect_onnx, onnx_model_of
from tests.support.onnx_graphs import linear_graph
from tests.support.teachers import CLASSES, PREPROCESSING

CREATED_AT = datetime(2026, 1, 1, tzinfo=UTC)


def described(model: TeacherModel, **fields: Any) -> TeacherDescription:
    """Return the description of a teacher that is not in a store."""
    values: dict[str, Any] = {
        "name": "shapes",
        "digest": "0" * 64,
        "model": model,
        "classes": CLASSES,
        "preprocessing": PREPROCESSING,
        "created_at": CREATED_AT,
    }
    return TeacherDescription(**values | fields)


def publish_model(
    store: Path,
    name: str,
    model: TeacherModel,
    files: dict[str, bytes | Path] | None = None,
    *,
    preprocessing: Preprocessing = PREPROCESSING,
    classes: tuple[str, ...] = CLASSES,
    **fields: Any,
) -> TeacherDescription:
    """Publish a teacher of any kind in the store under `store` and let it answer under its name."""
    teachers = ArtefactStore(store).teachers
    published = teachers.publish(
        name=name,
        model=model,
        files=files or {},
        classes=classes,
        preprocessing=preprocessing,
        test_accuracy=None,
        job_id=None,
        created_at=CREATED_AT,
        **fields,
    )
    teachers.make_current(name, published.digest)
    return published


def publish_onnx(store: Path, name: str = "graph", **options: Any) -> TeacherDescription:
    """Publish a linear classifier as ONNX; the options are those of `linear_graph`."""
    store.mkdir(parents=True, exist_ok=True)
    graph = linear_graph(store / f"{name}.onnx", **options)
    answers = "probabilities" if options.get("probabilities") else "logits"
    model: OnnxModel = onnx_model_of(inspect_onnx(graph), answers=answers)[0]  # type: ignore[arg-type]
    return publish_model(store, name, model, {"model.onnx": graph})


def publish_mixed(
    store: Path, members: list[TeacherDescription], name: str = "mixed", *, merge: str = "geometric"
) -> TeacherDescription:
    """Publish an ensemble of teachers that are in the store."""
    parts = tuple(MemberTeacher(name=member.name, digest=member.digest) for member in members)
    return publish_model(store, name, MixedEnsemble(members=parts, merge=merge))  # type: ignore[arg-type]
