"""Which code reads which kind of source."""

from services.worker.stages.context import JobContext
from services.worker.stages.importing.draft import Read
from services.worker.stages.importing.nets import read_safetensors, read_timm, read_transformers
from services.worker.stages.importing.server import read_server
from services.worker.stages.importing.wholes import read_ensemble, read_onnx
from shared.artefacts.incoming import Incoming
from shared.artefacts.model_files import check_model_folder
from shared.contracts.datasets import DatasetManifest
from shared.contracts.specs import TeacherImportSpec
from shared.contracts.teacher_sources import (
    EnsembleSource,
    OipSource,
    OnnxSource,
    SafetensorsSource,
    SentFiles,
    TransformersSource,
)


def read_source(context: JobContext, spec: TeacherImportSpec, dataset: DatasetManifest | None) -> Read:
    """Return what the source of a teacher is, read into main memory where it is made of weights.

    Raises:
        IncomingNotFound: its files are not there, or not there any more.
        PickleRefused, InvalidModelFiles: they are not what a source of its kind has.
        DistillationError: what the code of its kind says.
    """
    source = spec.source
    if isinstance(source, EnsembleSource):
        return read_ensemble(source, context.store.teachers)
    if isinstance(source, OipSource):
        return read_server(source, spec.name, dataset, context.settings.oip_hosts)
    folder = incoming_of(context).folder(source.files)
    check_model_folder(folder, source.kind)
    if isinstance(source, SafetensorsSource):
        return read_safetensors(source, folder, dataset)
    if isinstance(source, TransformersSource):
        return read_transformers(source, folder, dataset)
    if isinstance(source, OnnxSource):
        return read_onnx(source, folder, dataset)
    return read_timm(source, folder, dataset)


def discard_upload(context: JobContext, spec: TeacherImportSpec) -> None:
    """Remove what was uploaded for the job; a folder that somebody put into the store stays."""
    sent: SentFiles | None = getattr(spec.source, "files", None)
    if sent is not None:
        incoming_of(context).discard(sent)


def incoming_of(context: JobContext) -> Incoming:
    """Return where files of teachers arrive."""
    return Incoming(context.store.root / "incoming")
