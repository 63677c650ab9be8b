"""A job of kind `codistillation`: members on several workers, taught by stale copies (arXiv:1804.03235).

Each member is a child job. The last member stands for the cohort in the verdict: where one worker trains one
member after another, it alone has had copies of all others. Its untaught twin starts with the same weights.
Stages: check, train (the members by child jobs, then the twins), evaluate, export, report.
"""

from dataclasses import replace

from pydantic import JsonValue

from services.worker.kinds.codistillation_member import MemberOutcome, arm_of, objective_of
from services.worker.stages import outcomes
from services.worker.stages.check import check_order
from services.worker.stages.conclusion import TAUGHT, UNTAUGHT, conclude
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.training import labelled_examples, preprocessing_of, train_nets
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import CodistillationReport
from shared.contracts.specs import CodistillationMemberSpec, CodistillationSpec
from shared.distillation.cohort import Net, TrainedNet
from shared.jobs.checks.peers import check_peers


def codistil(context: JobContext, spec: CodistillationSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    manifest = check_order(context, spec.dataset, lambda view: check_peers(spec, view))
    preprocessing = preprocessing_of(manifest)
    children = context.children(
        [
            CodistillationMemberSpec(
                name=spec.name, dataset=spec.dataset, cohort=context.job_id, member=member, order=spec
            )
            for member in range(spec.members)
        ]
    )
    last = spec.members - 1
    nets: list[TrainedNet] = []
    members: list[MemberOutcome] = []
    for child in children:
        assert child.result is not None, "it succeeded"
        assert child.result.artefact is not None, "it names what it left"
        path = context.child_files(child).directory / child.result.artefact
        members.append(outcomes.load(path / "member.json", MemberOutcome))
        nets += [_named(net, TAUGHT) if net.arm == arm_of(last) else net for net in outcomes.load_nets(path)]
    inputs: dict[str, JsonValue] = {
        "dataset": manifest.digest,
        "spec": spec.model_dump(mode="json", exclude={"name"}),
        "preprocessing": preprocessing.model_dump(mode="json"),
    }
    twins_at = train_nets(
        context,
        inputs,
        architecture=spec.network,
        nets=[Net(UNTAUGHT, seed, member=last) for seed in spec.seeds],
        examples=labelled_examples(context, spec.dataset),
        manifest=manifest,
        preprocessing=preprocessing,
        budget=spec.budget,
        regularisation=spec.regularisation,
    )
    return conclude(
        context,
        spec,
        manifest,
        nets + outcomes.load_nets(twins_at),
        CodistillationReport,
        trained=[child.result.artefact or "" for child in children if child.result] + [twins_at.name],
        objective=objective_of(spec),
        seconds={Stage.TRAIN: seconds_of(twins_at) + sum(member.seconds for member in members)},
        more={
            "members": tuple(child.id for child in children),
            "exchanges": tuple(figures for member in members for figures in member.exchanges),
        },
    )


def _named(net: TrainedNet, arm: str) -> TrainedNet:
    return replace(net, arm=arm, curve=net.curve.model_copy(update={"arm": arm}))
