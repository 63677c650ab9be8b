"""A job of kind `specialist`: one net for one set of classes, made by a job of kind `specialists`.

Stages: check, transfer_set (which the parent has built), train, export. The net starts as a copy of its
generalist with a last layer of its own; what it leaves is corrected for the sampling and ready to answer.
"""

from dataclasses import replace
from pathlib import Path

import torch
from pydantic import BaseModel, JsonValue

from services.worker.stages import outcomes
from services.worker.stages.asking import teacher_client
from services.worker.stages.check import check_order
from services.worker.stages.context import JobContext
from services.worker.stages.training import labelled_examples, train_nets
from services.worker.stages.transfer_sets.examples import taught_examples
from services.worker.stages.transfer_sets.stage import ask_teacher
from shared.contracts.datasets import DatasetView
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.specs import SpecialistSpec, SpecialistTraining
from shared.contracts.training import Asking, Objective
from shared.distillation.cohort import Net, TrainedNet
from shared.distillation.examples import Examples
from shared.distillation.specialists import HalfAndHalf, SpecialClasses, first_weights, special_classes
from shared.jobs.checks.common import need_fit
from shared.models.checkpoints import from_arrays, unstack
from shared.models.network import Network

ARM = "specialist"
_ROWS = 8192


class Specialist(BaseModel):
    """What a specialist's job leaves beside its net: how it was sampled, and what was done about it."""

    classes: tuple[str, ...]
    dustbin: bool
    share: float
    correction: float


def train_specialist(context: JobContext, spec: SpecialistSpec) -> JobResult:
    """Run the job; its result names the folder that `load_specialist` reads."""
    generalist = context.store.teachers.described(spec.generalist, spec.generalist_digest)

    def fits(view: DatasetView) -> None:
        assert view.manifest is not None, "imported before it is checked"
        need_fit(spec.dataset, view.manifest, spec.generalist, generalist)

    manifest = check_order(context, spec.dataset, fits)
    with teacher_client(context) as client:
        transfer_set = ask_teacher(
            context,
            spec.transfer_set,
            spec.dataset,
            manifest,
            generalist,
            client,
            temperature=1.0,
            asking=Asking(rescored_rows=0),  # the parent has compared
        )
    stored = context.transfer_sets.open(transfer_set.digest)
    examples = taught_examples(labelled_examples(context, spec.dataset), stored, temperature=1.0)
    labels = examples.labels
    assert labels is not None, "checked before"
    indices = [generalist.classes.index(name) for name in spec.classes]
    special = special_classes(
        labels,
        indices,
        total=len(generalist.classes),
        dustbin=spec.training.rest == "dustbin",
    )
    # In place of the old ones: of a large set the logits over all classes are let go here.
    examples = special_examples(examples, special, soft=_needs_soft(spec.training), seed=spec.seed)
    architecture = generalist.one_net.architecture
    network = Network(architecture, generalist.preprocessing.seen, special.answers)
    (tensors,) = unstack(from_arrays(context.store.teachers.load(generalist)))
    inputs: dict[str, JsonValue] = {
        "generalist": generalist.digest,
        "transfer_set": transfer_set.digest,
        "dataset": manifest.digest,
        "spec": spec.model_dump(mode="json", exclude={"name", "generalist", "dataset"}),
    }
    trained_at = train_nets(
        context,
        inputs,
        architecture=architecture,
        nets=[Net(ARM, spec.seed, objective_of(spec.training))],
        examples=examples,
        manifest=manifest,
        preprocessing=generalist.preprocessing,
        budget=spec.training.budget,
        regularisation=spec.training.regularisation,
        classes=special.answers,
        initial={(ARM, spec.seed): first_weights(tensors, network.head, special)},
        rows_of_epoch=HalfAndHalf(labels, indices).rows_of_epoch,
    )

    def correct(directory: Path) -> None:
        (trained,) = outcomes.load_nets(trained_at)
        _, bias = network.head
        corrected = {**trained.tensors, bias: special.corrected(trained.tensors[bias])}
        outcomes.save_nets(directory, (replace(trained, tensors=corrected),))
        outcomes.save(
            directory / "specialist.json",
            Specialist(
                classes=spec.classes,
                dustbin=special.dustbin,
                share=special.share,
                correction=special.correction,
            ),
        )

    context.progress(Stage.EXPORT, 0, 1, "files")
    exported_at = context.once(Stage.EXPORT, {"train": trained_at.name}, correct)
    context.progress(Stage.EXPORT, 1, 1, "files")
    return JobResult(artefact=exported_at.name)


def load_specialist(directory: Path) -> tuple[Specialist, TrainedNet]:
    """Read what a specialist's job left; the net is corrected for the sampling."""
    (net,) = outcomes.load_nets(directory)
    return outcomes.load(directory / "specialist.json", Specialist), net


def objective_of(training: SpecialistTraining) -> Objective:
    """Return what a specialist minimises on the targets that `special_examples` gives it."""
    if training.rest == "soft_targets":
        # Hard and soft targets alike are in the logits that it is taught.
        return Objective(temperature=1.0, soft_weight=1.0, hard_weight=0.0)
    return Objective(
        temperature=training.temperature,
        soft_weight=training.soft_weight,
        hard_weight=training.hard_weight,
    )


def special_examples(examples: Examples, special: SpecialClasses, *, soft: bool, seed: int) -> Examples:
    """Return examples with the targets of one specialist, and validation images that are half special too.

    Args:
        examples: with labels, and the generalist's logits for every view.
        special: the specialist's classes.
        soft: whether it is taught by logits at all.
        seed: chooses which other validation images stand beside the special ones.
    """
    assert examples.labels is not None
    assert examples.teacher_logits is not None
    assert examples.validation_images is not None
    assert examples.validation_labels is not None
    logits = None
    if soft:
        views, images = examples.teacher_logits.shape[:2]
        logits = torch.empty(views, images, special.answers, dtype=torch.float16)
        for view in range(views):
            for start in range(0, images, _ROWS):  # float32 of a piece only: a transfer set is large
                part = slice(start, start + _ROWS)
                said = examples.teacher_logits[view, part].float()
                logits[view, part] = (
                    special.soft_targets(said)
                    if special.dustbin
                    else special.full_targets(said, examples.labels[part])
                )
    rows = validation_rows(examples.validation_labels, special, seed=seed)
    return replace(
        examples,
        labels=special.labels(examples.labels),
        teacher_logits=logits,
        validation_images=examples.validation_images[rows],
        validation_labels=special.labels(examples.validation_labels[rows]),
    )


def validation_rows(labels: torch.Tensor, special: SpecialClasses, *, seed: int) -> torch.Tensor:
    """Return validation rows of which half are special, as in training; all where one kind is missing."""
    marks = torch.isin(labels, torch.tensor(special.classes))
    if marks.all() or not marks.any():
        return torch.arange(len(labels))
    return HalfAndHalf(labels, special.classes).rows_of_epoch(seed, 0)


def _needs_soft(training: SpecialistTraining) -> bool:
    return training.rest == "soft_targets" or training.soft_weight > 0
