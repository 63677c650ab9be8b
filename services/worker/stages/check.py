"""The check stage: everything that can be found wrong before the job costs anything."""

from collections.abc import Callable

import torch

from services.worker.stages.context import JobContext
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetManifest, DatasetView
from shared.contracts.jobs import Stage
from shared.datasets.builtin import ensure
from shared.errors import DeviceMissing
from shared.jobs.checks import check_teacher
from shared.jobs.checks.teacher import LearnsFromLabels


def check_order(
    context: JobContext, dataset: str, fits: Callable[[DatasetView], None] | None = None
) -> DatasetManifest:
    """Return the dataset's manifest where the job can end well; a built-in dataset is imported first.

    Args:
        context: of the job.
        dataset: its name.
        fits: told the dataset, raises where it does not do for the job.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        DeviceMissing: CUDA is asked for by setting and there is none.
    """
    context.progress(Stage.CHECK, 0, 1, "checks")
    check_device(context)
    view = dataset_of(context, dataset)
    if fits is not None:
        fits(view)
    context.progress(Stage.CHECK, 1, 1, "checks")
    return _manifest(view)


def check_teacher_order(context: JobContext, spec: LearnsFromLabels) -> DatasetManifest:
    """Return the dataset's manifest where nets can be trained on its labels; see `check_order`."""
    return check_order(context, spec.dataset, lambda view: check_teacher(spec, view))


def dataset_of(context: JobContext, name: str) -> DatasetView:
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


def check_device(context: JobContext) -> None:
    """Raise `DeviceMissing` where CUDA is asked for by setting and there is none."""
    if context.settings.device == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing(context.settings.device)
