"""The train stage, the same for teachers and students, and what both need around it."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import JsonValue

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext
from shared.artefacts.files import digest_of
from shared.contracts.architectures import Architecture
from shared.contracts.datasets import DatasetManifest
from shared.contracts.images import Preprocessing
from shared.contracts.jobs import Stage
from shared.contracts.reports import Cost
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import Budget, Regularisation
from shared.distillation.cohort import Initial, Net, Refresh, RowsOfEpoch, train_cohort
from shared.distillation.examples import Examples
from shared.distillation.hints import TeacherFeatures
from shared.errors import TeacherNotFound, TeacherNotLoadable
from shared.models.checkpoints import from_arrays
from shared.models.devices import torch_device


def train_nets(
    context: JobContext,
    inputs: dict[str, JsonValue],
    *,
    architecture: Architecture,
    nets: Sequence[Net],
    examples: Examples,
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    budget: Budget,
    regularisation: Regularisation | None = None,
    classes: int | None = None,
    initial: Initial | None = None,
    teacher: TeacherFeatures | None = None,
    refresh: Refresh | None = None,
    rows_of_epoch: RowsOfEpoch | None = None,
) -> Path:
    """Train the nets unless that was done before; return the stage's output, for `outcomes.load_nets`.

    Training goes on from the newest checkpoint of an earlier attempt.

    Args:
        context: of the job.
        inputs: all that the outcome follows from; names the stage's output.
        architecture: of the nets.
        nets: what to train.
        examples: on what.
        manifest: of the dataset.
        preprocessing: from its pixels to what the nets see.
        budget: how long and how fast.
        regularisation: of all nets; None is none.
        classes: of the nets, where they are not the dataset's.
        initial: first weights of nets by (arm, seed), in place of those of the seed.
        teacher: whose layers the objectives look into: `features_of_teacher`.
        refresh: asked for new teacher logits each epoch; see `train_cohort`.
        rows_of_epoch: which rows an epoch shows; see `train_cohort`.
    """
    device = torch_device(context.settings.device)

    def on_epoch(done: int, total: int, metrics: dict[str, float]) -> None:
        context.progress(Stage.TRAIN, done, total, "epochs", metrics, may_stop=False)

    def build(directory: Path) -> None:
        context.progress(Stage.TRAIN, 0, budget.epochs, "epochs")
        trained = train_cohort(
            architecture,
            nets,
            examples,
            classes=classes if classes is not None else len(manifest.classes),
            preprocessing=preprocessing,
            budget=budget,
            regularisation=regularisation,
            device=device,
            initial=initial,
            teacher=teacher,
            refresh=refresh,
            rows_of_epoch=rows_of_epoch,
            checkpoints=context.files.checkpoints / digest_of(inputs)[:16],
            checkpoint_every_s=context.settings.checkpoint_s,
            on_epoch=on_epoch,
            should_stop=context.stop.is_set,
        )
        outcomes.save_nets(directory, trained)

    return context.once(Stage.TRAIN, inputs, build)


def features_of_teacher(
    context: JobContext, description: TeacherDescription, *, precision: str = "float32"
) -> TeacherFeatures:
    """Return the teacher, loaded here from the store, for objectives that look into its layers.

    Args:
        context: of the job.
        description: of the teacher.
        precision: of its products, "float32" or "bfloat16".

    Raises:
        TeacherNotLoadable: it is an ensemble, or its weights are not in this store.
        Corrupt: its weights are not what the description says.
    """
    try:
        arrays = context.store.teachers.load(description)
    except TeacherNotFound:
        raise TeacherNotLoadable(description.name, "its weights are not in the store") from None
    return TeacherFeatures(
        description,
        from_arrays(arrays),
        device=torch_device(context.settings.device),
        bf16=precision == "bfloat16",
    )


def labelled_examples(context: JobContext, dataset: str) -> Examples:
    """Return a dataset's training and validation splits as tensors; labels None where training has none."""
    train = context.store.datasets.load(dataset, "train")
    validation = context.store.datasets.load(dataset, "validation")
    assert validation.labels is not None, "checked before"
    return Examples(
        images=outcomes.tensor(train.images),
        labels=outcomes.tensor(train.labels) if train.labels is not None else None,
        validation_images=outcomes.tensor(validation.images),
        validation_labels=outcomes.tensor(validation.labels),
    )


def held_out(context: JobContext, dataset: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the test images (uint8, N x H x W x C) and labels (int64, N)."""
    test = context.store.datasets.load(dataset, "test")
    assert test.labels is not None, "checked before"
    return outcomes.tensor(test.images), outcomes.tensor(test.labels)


def preprocessing_of(manifest: DatasetManifest) -> Preprocessing:
    """Return how pixels of this dataset become what a net sees: mean 0 and deviation 1 a channel."""
    # A channel that never varies would otherwise be divided by 0.
    std = tuple(max(deviation, 1e-3) for deviation in manifest.pixel_std)
    return Preprocessing(input=manifest.input, mean=manifest.pixel_mean, std=std)


def cost_of(
    context: JobContext, seconds: Mapping[Stage, float], *, teacher_rows: int, cached_rows: int = 0
) -> Cost:
    """Return what the job cost and where it ran."""
    device = torch_device(context.settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return Cost(
        seconds={stage.value: round(value, 3) for stage, value in seconds.items()},
        teacher_rows=teacher_rows,
        cached_rows=cached_rows,
        device=f"{device.type} ({name})",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        imago=version("imago"),
    )


def _processor() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores"
