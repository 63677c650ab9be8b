"""What can be refused of jobs whose nets teach themselves or each other."""

from shared.contracts.datasets import DatasetView
from shared.contracts.specs import (
    CodistillationMemberSpec,
    CodistillationSpec,
    MutualSpec,
    SelfDistillationSpec,
)
from shared.errors import (
    DecoupledNeedsClasses,
    InvalidRequest,
    TeacherNotLoadable,
    ViewsBelongToTransferSet,
)
from shared.jobs.checks.common import dataset_of, need_few_children, need_labels
from shared.jobs.checks.transfer_set import check_no_choice, check_transfer_set
from shared.jobs.ports import Catalogue


def check(
    spec: SelfDistillationSpec | MutualSpec | CodistillationSpec | CodistillationMemberSpec,
    catalogue: Catalogue,
) -> None:
    """Raise where the job cannot end well.

    Raises:
        DatasetNotFound, LabelsMissing, InvalidDataset: the dataset does not do.
        OmitAndOnly, UnknownClass, EmptyTransferSet, NoLabelsLeft: the transfer set cannot be drawn.
        AskingImpossible: images are to be chosen by the answers of a teacher.
        ViewsBelongToTransferSet: later generations are to see other views than earlier ones spoke of.
        DecoupledNeedsClasses, TeacherNotLoadable, InvalidRequest: the options do not go together.
    """
    order = spec.order if isinstance(spec, CodistillationMemberSpec) else spec
    check_peers(order, dataset_of(spec.dataset, catalogue))


def check_peers(spec: SelfDistillationSpec | MutualSpec | CodistillationSpec, dataset: DatasetView) -> None:
    """Raise where nets cannot teach themselves or each other on the dataset."""
    if dataset.manifest is not None:
        need_labels(spec.dataset, dataset.manifest, "the untaught twin")
    if isinstance(spec, SelfDistillationSpec):
        _check_generations(spec, dataset)
        return
    if isinstance(spec, CodistillationSpec):
        _check_exchange(spec)


def _check_generations(spec: SelfDistillationSpec, dataset: DatasetView) -> None:
    rule, objective = spec.regularisation, spec.objective
    for option, asked in (("jitter_px", rule.jitter_px), ("flip", rule.flip)):
        if asked:
            raise ViewsBelongToTransferSet(option)
    if objective.needs_features:
        raise TeacherNotLoadable(spec.name, "it is the generation before, and no teacher of the store")
    if not objective.needs_logits:
        raise InvalidRequest(
            "no term of the objective learns from the generation before",
            remedy="Set soft_weight or logit_weight above 0, or name `decoupled`.",
        )
    manifest = dataset.manifest
    if objective.decoupled is not None and manifest is not None and len(manifest.classes) <= 2:
        raise DecoupledNeedsClasses(len(manifest.classes))
    check_no_choice(spec.transfer_set, "the first generation has no teacher that could be asked")
    check_transfer_set(spec, manifest, labels_for="the untaught twin")


def _check_exchange(spec: CodistillationSpec) -> None:
    need_few_children(spec.members)
    if spec.regularisation.jitter_px or spec.regularisation.flip:
        raise InvalidRequest(
            "jitter and flips would show a member other views than the others' copies answer for",
            remedy="Leave jitter_px and flip out, or submit a job of kind 'mutual'.",
        )
    if spec.burn_in_epochs >= spec.budget.epochs:
        raise InvalidRequest(
            f"burn_in_epochs is {spec.burn_in_epochs} and the budget has {spec.budget.epochs} epochs: "
            "no copy would ever count",
            remedy="Set burn_in_epochs below the budget's epochs.",
        )
