"""A job of kind `codistillation_member`: one member of a co-distilled cohort (arXiv:1804.03235).

It trains a net a seed, one seed after another. Every so many epochs it leaves a copy in the store and takes
the newest of the others', as many as there are. It never waits: whether the others are ahead, behind, done or
not yet begun, it is taught by what lies there, or by hard labels alone where nothing does.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, JsonValue
from safetensors.torch import load
from torch import Tensor

from services.worker.stages import outcomes
from services.worker.stages.check import check_order
from services.worker.stages.context import JobContext
from services.worker.stages.training import labelled_examples, preprocessing_of, train_nets
from shared.artefacts.copies import CopyExchange
from shared.artefacts.files import write_atomic
from shared.contracts.datasets import DatasetManifest
from shared.contracts.images import Preprocessing
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import ExchangeFigures
from shared.contracts.specs import CodistillationMemberSpec, CodistillationSpec
from shared.contracts.training import Objective
from shared.distillation.cohort import Net
from shared.distillation.examples import Examples
from shared.distillation.peers import mean_of_peers, stored_logits
from shared.jobs.checks.peers import check_peers
from shared.models.checkpoints import to_bytes
from shared.models.devices import torch_device
from shared.models.network import Network


class MemberOutcome(BaseModel):
    """What the parent reads, `member.json`; beside it the member's nets, one a seed."""

    exchanges: tuple[ExchangeFigures, ...]
    seconds: float


def train_member(context: JobContext, spec: CodistillationMemberSpec) -> JobResult:
    """Run the job; seeds that an earlier attempt finished are used as they are."""
    order = spec.order
    manifest = check_order(context, spec.dataset, lambda view: check_peers(order, view))
    preprocessing = preprocessing_of(manifest)
    examples = labelled_examples(context, spec.dataset)
    copies = CopyExchange(context.store.job(spec.cohort).directory / "copies")
    trained_at: list[Path] = []
    exchanges: list[ExchangeFigures] = []
    for seed in order.seeds:
        exchange = _Exchange(context, spec, manifest, preprocessing, examples, copies, seed)
        inputs: dict[str, JsonValue] = {
            "dataset": manifest.digest,
            "spec": spec.model_dump(mode="json"),
            "seed": seed,
            "preprocessing": preprocessing.model_dump(mode="json"),
        }
        path = train_nets(
            context,
            inputs,
            architecture=order.network,
            nets=[Net(arm_of(spec.member), seed, objective_of(order), member=spec.member)],
            examples=examples,
            manifest=manifest,
            preprocessing=preprocessing,
            budget=order.budget,
            regularisation=order.regularisation,
            refresh=exchange.refresh,
        )
        (net,) = outcomes.load_nets(path)
        # Members that come later learn from how this one ended.
        copies.leave(seed, spec.member, order.budget.epochs, to_bytes(net.tensors))
        trained_at.append(path)
        exchanges.append(exchange.figures())

    def gather(aside: Path) -> None:
        nets = tuple(net for path in trained_at for net in outcomes.load_nets(path))
        outcomes.save_nets(aside, nets)
        seconds = sum(net.curve.points[-1].seconds for net in nets)
        outcomes.save(aside / "member.json", MemberOutcome(exchanges=tuple(exchanges), seconds=seconds))

    gathered = context.once(Stage.EVALUATE, {"trained": [path.name for path in trained_at]}, gather)
    return JobResult(artefact=gathered.name)


def arm_of(member: int) -> str:
    """Return what a member is called before the parent chooses which stands for the cohort."""
    return f"member-{member}"


def objective_of(order: CodistillationSpec) -> Objective:
    """Return what each member minimises."""
    return Objective(
        temperature=order.temperature, soft_weight=order.soft_weight, hard_weight=order.hard_weight
    )


class _Exchange:
    """One member's dealings with the others while it trains with one seed."""

    def __init__(
        self,
        context: JobContext,
        spec: CodistillationMemberSpec,
        manifest: DatasetManifest,
        preprocessing: Preprocessing,
        examples: Examples,
        copies: CopyExchange,
        seed: int,
    ) -> None:
        self._order = spec.order
        self._member = spec.member
        self._seed = seed
        self._network = Network(spec.order.network, manifest.input, len(manifest.classes))
        self._preprocessing = preprocessing
        self._examples = examples
        self._copies = copies
        self._device = torch_device(context.settings.device)
        self._taught = False
        # Outlives the attempt: epoch to the epochs of the copies taken then.
        self._log = context.files.directory / f"taken-{seed}.json"

    def refresh(self, epoch: int, nets: Sequence[Mapping[str, Tensor]]) -> Tensor | None:
        """Leave a copy and take the others', where it is time for it; see `train_cohort`."""
        on_time = epoch % self._order.exchange_epochs == 0
        if on_time and epoch > 0:
            self._copies.leave(self._seed, self._member, epoch, to_bytes(nets[0]))
        if epoch < self._order.burn_in_epochs:
            return None
        # After an interruption, or at the end of the burn-in, there is nothing yet to go on with.
        if not on_time and self._taught:
            return None
        found = {
            member: copy
            for member in range(self._order.members)
            if member != self._member and (copy := self._copies.newest(self._seed, member)) is not None
        }
        self._write_down(epoch, [copied for copied, _ in found.values()])
        if not found:
            return None
        self._taught = True
        logits = [
            stored_logits(self._network, load(copy), self._examples.images, self._preprocessing, self._device)
            for _, copy in found.values()
        ]
        return mean_of_peers(logits, self._order.temperature).unsqueeze(0)

    def figures(self) -> ExchangeFigures:
        """Return what was taken over all attempts."""
        taken = self._taken()
        ages = [int(epoch) - copied for epoch, copies in taken.items() for copied in copies]
        return ExchangeFigures(
            member=self._member,
            seed=self._seed,
            exchanges=len(taken),
            found_none=sum(not copies for copies in taken.values()),
            copies=len(ages),
            mean_age_epochs=sum(ages) / len(ages) if ages else None,
        )

    def _taken(self) -> dict[str, list[int]]:
        if not self._log.exists():
            return {}
        taken: dict[str, list[int]] = json.loads(self._log.read_bytes())
        return taken

    def _write_down(self, epoch: int, copies: list[int]) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._log, json.dumps(self._taken() | {str(epoch): copies}).encode())
