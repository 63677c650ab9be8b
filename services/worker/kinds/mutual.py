"""A job of kind `mutual`: cohorts whose members teach each other at every step (arXiv:1706.00384).

A cohort a seed. Its first member starts with the weights of the untaught twin, which trains beside it: these
two are compared. Stages: check, train, evaluate, export, report.
"""

from pydantic import JsonValue

from services.worker.stages import outcomes
from services.worker.stages.check import check_order
from services.worker.stages.conclusion import TAUGHT, UNTAUGHT, conclude
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.training import labelled_examples, preprocessing_of, train_nets
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import MutualReport
from shared.contracts.specs import MutualSpec
from shared.contracts.training import Objective
from shared.distillation.cohort import Net
from shared.jobs.checks.peers import check_peers

_GROUP = "cohort"


def learn_mutually(context: JobContext, spec: MutualSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    manifest = check_order(context, spec.dataset, lambda view: check_peers(spec, view))
    preprocessing = preprocessing_of(manifest)
    objective = Objective(
        temperature=spec.temperature, soft_weight=spec.soft_weight, hard_weight=spec.hard_weight
    )
    inputs: dict[str, JsonValue] = {
        "dataset": manifest.digest,
        "spec": spec.model_dump(mode="json", exclude={"name"}),
        "preprocessing": preprocessing.model_dump(mode="json"),
    }
    nets = [
        Net(arm_of(member), seed, objective, member=member, group=_GROUP)
        for seed in spec.seeds
        for member in range(spec.members)
    ]
    trained_at = train_nets(
        context,
        inputs,
        architecture=spec.network,
        nets=nets + [Net(UNTAUGHT, seed) for seed in spec.seeds],
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
        outcomes.load_nets(trained_at),
        MutualReport,
        trained=[trained_at.name],
        objective=objective,
        seconds={Stage.TRAIN: seconds_of(trained_at)},
    )


def arm_of(member: int) -> str:
    """Return what a member is called in the report: the first stands for the cohort."""
    return TAUGHT if member == 0 else f"member-{member}"
