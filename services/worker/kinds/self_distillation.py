"""A job of kind `self_distillation`: a net teaches the same net, generation by generation (arXiv:1805.04770).

Generation 0 learns from hard labels and is the untaught twin; generation k starts with the same weights and
is taught by generation k - 1 of its seed. Stages: check, then train for each generation, with a transfer_set
stage a seed in between, then evaluate, export, report.
"""

from dataclasses import replace
from pathlib import Path

import torch
from pydantic import JsonValue

from services.worker.stages import outcomes
from services.worker.stages.check import check_order
from services.worker.stages.conclusion import TAUGHT, UNTAUGHT, conclude
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.training import labelled_examples, preprocessing_of, train_nets
from shared.artefacts.tensors import read_tensors, write_tensors
from shared.contracts.datasets import DatasetManifest
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import SelfDistillationReport
from shared.contracts.specs import SelfDistillationSpec
from shared.distillation.cohort import Net, TrainedNet
from shared.distillation.examples import Examples
from shared.distillation.losses import UNLABELLED
from shared.distillation.peers import stored_logits
from shared.jobs.checks.peers import check_peers
from shared.models.devices import torch_device
from shared.models.network import Network
from shared.transfer_set.selection import select_rows
from shared.transfer_set.views import ViewParameters, apply_views, view_parameters


def distil_itself(context: JobContext, spec: SelfDistillationSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    manifest = check_order(context, spec.dataset, lambda view: check_peers(spec, view))
    job = _Generations(context, spec, manifest)
    trained_at = job.train([Net(UNTAUGHT, seed) for seed in spec.seeds], job.examples, taught_by=None)
    nets = outcomes.load_nets(trained_at)
    teachers = {net.seed: (net, trained_at) for net in nets}
    for generation in range(1, spec.generations + 1):
        arm = TAUGHT if generation == spec.generations else f"generation-{generation}"
        for seed, (teacher, taught_at) in teachers.copy().items():
            context.note(f"generation {generation} of {spec.generations}, seed {seed}")
            answers_at = job.ask(teacher, taught_at)
            answers, _ = read_tensors(answers_at / "logits.safetensors")
            taught = replace(job.examples, teacher_logits=outcomes.tensor(answers["logits"]))
            trained_at = job.train([Net(arm, seed, spec.objective)], taught, taught_by=answers_at.name)
            (net,) = outcomes.load_nets(trained_at)
            teachers[seed] = (net, trained_at)
            nets.append(net)
    return conclude(
        context,
        spec,
        manifest,
        nets,
        SelfDistillationReport,
        trained=[path.name for path in job.trained_at],
        objective=spec.objective,
        seconds={
            Stage.TRANSFER_SET: sum(map(seconds_of, job.answers_at)),
            Stage.TRAIN: sum(map(seconds_of, job.trained_at)),
        },
    )


class _Generations:
    """The stages of one job."""

    def __init__(self, context: JobContext, spec: SelfDistillationSpec, manifest: DatasetManifest) -> None:
        self.context = context
        self.spec = spec
        self.manifest = manifest
        self.preprocessing = preprocessing_of(manifest)
        self.network = Network(spec.network, manifest.input, len(manifest.classes))
        self.examples = _examples(context, spec, manifest)
        self.trained_at: list[Path] = []
        self.answers_at: list[Path] = []

    def train(self, nets: list[Net], examples: Examples, taught_by: str | None) -> Path:
        """Train nets of one generation, unless that was done before."""
        spec = self.spec
        inputs: dict[str, JsonValue] = {
            "dataset": self.manifest.digest,
            "spec": spec.model_dump(mode="json", exclude={"name", "generations", "objective", "seeds"}),
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "nets": [[net.arm, net.seed, net.objective.model_dump(mode="json")] for net in nets],
            "taught_by": taught_by,
        }
        trained_at = train_nets(
            self.context,
            inputs,
            architecture=spec.network,
            nets=nets,
            examples=examples,
            manifest=self.manifest,
            preprocessing=self.preprocessing,
            budget=spec.budget,
            regularisation=spec.regularisation,
        )
        self.trained_at.append(trained_at)
        return trained_at

    def ask(self, teacher: TrainedNet, trained_at: Path) -> Path:
        """Let a net say what it thinks of every view of every image, unless that was done before."""
        inputs: dict[str, JsonValue] = {"net": trained_at.name, "seed": teacher.seed}

        def build(aside: Path) -> None:
            parameters = self.examples.parameters
            assert parameters is not None, "made with the examples"
            device = torch_device(self.context.settings.device)
            images, views = self.examples.images.numpy(), self.examples.views
            logits = []
            for view in range(views):
                self.context.progress(Stage.TRANSFER_SET, view, views, "views")
                shown = torch.from_numpy(apply_views(images, parameters[view]))
                logits.append(stored_logits(self.network, teacher.tensors, shown, self.preprocessing, device))
            self.context.progress(Stage.TRANSFER_SET, views, views, "views")
            write_tensors(aside / "logits.safetensors", {"logits": torch.stack(logits).numpy()})

        answers_at = self.context.once(Stage.TRANSFER_SET, inputs, build)
        self.answers_at.append(answers_at)
        return answers_at


def _examples(context: JobContext, spec: SelfDistillationSpec, manifest: DatasetManifest) -> Examples:
    """Return the images that the transfer set takes, in its views, without anybody's answers yet."""
    whole, wanted = labelled_examples(context, spec.dataset), spec.transfer_set
    assert whole.labels is not None, "checked before"
    selection = select_rows(
        wanted, whole.labels.numpy(), manifest.classes, images=whole.rows, dataset=spec.dataset
    )
    rows = torch.from_numpy(selection.rows)
    height, width = whole.images.shape[1:3]
    parameters = [view_parameters(wanted, whole.rows, view, (height, width)) for view in range(wanted.views)]
    return replace(
        whole,
        images=whole.images[rows],
        labels=whole.labels[rows].masked_fill(~torch.from_numpy(selection.labelled), UNLABELLED),
        parameters=ViewParameters.stack([view.take(selection.rows) for view in parameters]),
    )
