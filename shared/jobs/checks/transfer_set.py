"""What can be refused of the transfer set of a job, before a row of it is drawn or asked for."""

from typing import Protocol

from shared.contracts.base import Name
from shared.contracts.datasets import DatasetManifest
from shared.contracts.training import Asking, TransferSetSpec
from shared.errors import AskingImpossible, NoLabelsLeft
from shared.transfer_set.selection import check_options, check_selection, share_of


class HasTransferSet(Protocol):
    """The specs of all kinds of job that build a transfer set."""

    @property
    def dataset(self) -> Name:
        """Name of the dataset whose training split is thinned out."""

    @property
    def transfer_set(self) -> TransferSetSpec:
        """What of it is taken."""


def check_transfer_set(
    spec: HasTransferSet, manifest: DatasetManifest | None, *, labels_for: str | None = None
) -> None:
    """Raise where the transfer set cannot be drawn from the dataset.

    Counts of single classes are not in a manifest: a class without any training image is found when the rows
    are drawn, still before the teacher is asked.

    Args:
        spec: of the job.
        manifest: of its dataset; None where it is built in and was never used.
        labels_for: what needs hard labels, in words, such as "the untaught twin"; None where nothing does.

    Raises:
        OmitAndOnly: classes are to be left out and alone taken.
        UnknownClass: a class that does not exist is named.
        LabelsMissing: classes are named and the training images have no labels.
        EmptyTransferSet: no image is left.
        NoLabelsLeft: labels are needed and none is left.
    """
    wanted = spec.transfer_set
    check_options(wanted)
    if labels_for is not None and wanted.label_share == 0:
        raise NoLabelsLeft(labels_for, wanted.label_share)
    if manifest is None:
        return
    images = manifest.counts.train
    check_selection(wanted, manifest.classes, labelled=manifest.labelled, images=images, dataset=spec.dataset)
    if labels_for is not None and not share_of(share_of(images, wanted.share), wanted.label_share):
        raise NoLabelsLeft(labels_for, wanted.label_share)


def check_asking(asking: Asking, kind: str, *, may_be_live: bool = False) -> None:
    """Raise `AskingImpossible` where a job of this kind cannot come by its transfer set like that.

    Args:
        asking: how it is to be asked for.
        kind: of the job, for the words.
        may_be_live: whether the kind itself trains on the set, one cohort alone, while it is asked for.
    """
    if not asking.live:
        return
    if not may_be_live:
        raise AskingImpossible(
            f"`asking.live` is for jobs that train on the views themselves; a job of kind {kind!r} needs the "
            "whole transfer set before its next stage",
            remedy="Leave `asking.live` out, or submit a job of kind 'distillation'.",
        )
    if asking.tasks > 1:
        raise AskingImpossible(
            f"`asking.live` asks view after view in the job itself, and `asking.tasks` is {asking.tasks}",
            remedy="Leave one of the two out.",
        )


def check_no_choice(spec: TransferSetSpec, reason: str) -> None:
    """Raise `AskingImpossible` where images are to be chosen by a teacher's answers, and that cannot be."""
    if spec.choose is not None:
        raise AskingImpossible(
            f"`choose` of the transfer set cannot be used here: {reason}",
            remedy="Leave `choose` out; `share` takes a part of the images without asking anybody.",
        )
