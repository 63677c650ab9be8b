"""What can be refused of the transfer set of a job, before a row of it is drawn."""

from typing import Protocol

from shared.contracts.base import Name
from shared.contracts.datasets import DatasetManifest
from shared.contracts.training import TransferSetSpec
from shared.errors import NoLabelsLeft
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
