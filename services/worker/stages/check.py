"""The check stage: everything that can be found wrong before the job costs anything."""

import torch

from services.worker.stages.context import JobContext
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetManifest, DatasetView
from shared.contracts.jobs import Stage
from shared.contracts.specs import DistillationSpec, TeacherSpec
from shared.contracts.teachers import TeacherDescription
from shared.datasets.builtin import ensure
from shared.errors import DeviceMissing
from shared.jobs.checks import check_distillation, check_teacher


def check_teacher_order(context: JobContext, spec: TeacherSpec) -> DatasetManifest:
    """Return the dataset's manifest where a teacher can be trained on it.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        DeviceMissing: CUDA is asked for by setting and there is none.
    """
    context.progress(Stage.CHECK, 0, 1, "checks")
    _check_device(context)
    view = _dataset(context, spec.dataset)
    check_teacher(spec, view)
    context.progress(Stage.CHECK, 1, 1, "checks")
    return _manifest(view)


def check_distillation_order(
    context: JobContext, spec: DistillationSpec
) -> tuple[DatasetManifest, TeacherDescription]:
    """Return the dataset's manifest and the teacher where the student can be distilled from them.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        TeacherNotFound, ClassMismatch, InputMismatch: the teacher does not fit.
        DeviceMissing: CUDA is asked for by setting and there is none.
    """
    context.progress(Stage.CHECK, 0, 1, "checks")
    _check_device(context)
    view = _dataset(context, spec.dataset)
    teacher = context.store.teachers.current(spec.teacher)
    check_distillation(spec, view, teacher)
    context.progress(Stage.CHECK, 1, 1, "checks")
    return _manifest(view), teacher


def _dataset(context: JobContext, name: str) -> DatasetView:
    """Return the dataset, imported into the store first where it is a built-in one."""
    manifest = ensure(context.store.datasets, name, context.settings.data_dir)
    return DatasetView(
        name=name,
        builtin=name in BUILTIN_DATASETS,
        available=True,
        description=manifest.source,
        manifest=manifest,
    )


def _manifest(view: DatasetView) -> DatasetManifest:
    assert view.manifest is not None
    return view.manifest


def _check_device(context: JobContext) -> None:
    if context.settings.device == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing(context.settings.device)
