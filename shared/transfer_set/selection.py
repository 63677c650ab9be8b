"""Which training images are in a transfer set, and of which the hard label may be used.

The paper leaves classes out (all threes; all but sevens and eights; arXiv:1503.02531, section 3) and most of
the data out (3 %; section 6). Both are drawn here, from the spec's seed alone. Images that are chosen by what
is said of them (`choice`) are chosen among those, and come in as rows.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.contracts.training import TransferSetSpec
from shared.errors import EmptyTransferSet, LabelsMissing, OmitAndOnly, UnknownClass

# Streams of random numbers of a seed; the shifts of view v take [seed, v].
_ROWS: Final = (0, 0, 1)
_LABELS: Final = (0, 0, 2)


class Selection(NamedTuple):
    """The images of a transfer set."""

    rows: NDArray[np.int64]
    """Indices into the training split, rising."""
    labelled: NDArray[np.bool_]
    """Whether the hard label of each of them may be used."""


def select_rows(
    spec: TransferSetSpec,
    labels: NDArray[np.int64] | None,
    classes: Sequence[str],
    *,
    images: int,
    dataset: str = "",
    chosen: NDArray[np.int64] | None = None,
) -> Selection:
    """Return the training images that a transfer set takes.

    A share is drawn a class at a time: each class gives its share, up to one image of rounding, and all
    together give exactly the share. A smaller share is a part of a larger one of the same seed, of images and
    of labels alike.

    Args:
        spec: what is left out.
        labels: the class of each training image, -1 where one has none; None where none has one. Where
            classes are left out, images without a label are left out as well.
        classes: names in the order of the labels.
        images: how many training images there are.
        dataset: its name, for errors.
        chosen: which rows of the training split `spec.choose` takes, rising; None takes all that the other
            options leave.

    Raises:
        UnknownClass, OmitAndOnly, EmptyTransferSet: as `check_selection`; also where no training image is of
            the classes that are left.
        LabelsMissing: classes are left out of images that have no labels.
        ValueError: rows are chosen that the other options leave out, or not as many as the share.
    """
    check_selection(spec, classes, labelled=labels is not None, images=images, dataset=dataset)
    rows = np.arange(images, dtype=np.int64)
    if labels is not None and (spec.omit or spec.only):
        left = _classes_left(spec, classes)
        rows = rows[np.isin(labels, [index for index, name in enumerate(classes) if name in left])]
    rows = rows[_draw(rows, labels, spec.share, (spec.seed, *_ROWS))]
    if not share_of(len(rows), spec.choose.share if spec.choose is not None else 1.0):
        raise EmptyTransferSet(f"the transfer set is empty: {_words(spec)} leaves none of {images:,} images")
    if chosen is not None:
        if spec.choose is None or len(chosen) != share_of(len(rows), spec.choose.share):
            raise ValueError(f"{len(chosen)} of {len(rows)} rows are chosen, and that is not the share")
        if not np.isin(chosen, rows).all():
            raise ValueError("rows are chosen that the transfer set leaves out")
        rows = chosen
    labelled = np.zeros(len(rows), np.bool_)
    if labels is not None:
        labelled[_draw(rows, labels, spec.label_share, (spec.seed, *_LABELS))] = True
        labelled &= labels[rows] >= 0
    return Selection(rows, labelled)


def check_selection(
    spec: TransferSetSpec, classes: Sequence[str], *, labelled: bool, images: int, dataset: str = ""
) -> None:
    """Raise what can be known to be wrong without the labels.

    Raises:
        OmitAndOnly: `omit` and `only` are both given.
        UnknownClass: one of them names a class that does not exist.
        LabelsMissing: one of them is given and the training images have no labels.
        EmptyTransferSet: every class is left out, or the share is so small that no image is left.
    """
    check_options(spec)
    for option, names in (("omit", spec.omit), ("only", spec.only)):
        if unknown := tuple(name for name in names if name not in classes):
            raise UnknownClass(f"`{option}` of the transfer set", unknown, tuple(classes))
        if names and not labelled:
            raise LabelsMissing(dataset, f"`{option}` of the transfer set")
    if classes and not _classes_left(spec, classes):
        raise EmptyTransferSet(f"the transfer set is empty: `omit` names all {len(classes)} classes")
    left = share_of(images, spec.share)
    if spec.choose is not None:
        left = share_of(left, spec.choose.share)
    if not left:
        raise EmptyTransferSet(f"the transfer set is empty: {_words(spec)} leaves none of {images:,} images")


def candidates(spec: TransferSetSpec) -> TransferSetSpec:
    """Return the set among whose images `spec.choose` chooses: all of them as they are, with all logits."""
    taken = {"omit": spec.omit, "only": spec.only, "share": spec.share, "seed": spec.seed}
    return TransferSetSpec.model_validate(taken)


def check_options(spec: TransferSetSpec) -> None:
    """Raise `OmitAndOnly` where both are given: it is plain from the spec alone."""
    if spec.omit and spec.only:
        raise OmitAndOnly(spec.omit, spec.only)


def share_of(rows: int, share: float) -> int:
    """Return how many of the rows a share is: the nearest whole number."""
    return math.floor(rows * share + 0.5)


def _classes_left(spec: TransferSetSpec, classes: Sequence[str]) -> frozenset[str]:
    return frozenset(spec.only or classes) - frozenset(spec.omit)


def _draw(
    rows: NDArray[np.int64], labels: NDArray[np.int64] | None, share: float, seed: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return which of the rows (places in `rows`, rising) are drawn.

    The n rows of a class, in random order, stand at (0 + u) / n, (1 + u) / n, … of a line from 0 to 1; the
    rows that stand first on it are drawn, whatever their class. So any share takes as many of each class as
    it should, up to one, and what rounding keeps from one class goes to another: u, between 0 and 1, differs
    between classes, evenly spread.
    """
    wanted = share_of(len(rows), share)
    if wanted == len(rows):
        return np.arange(len(rows), dtype=np.int64)
    groups = np.zeros(len(rows), np.int64) if labels is None else labels[rows]
    rng = np.random.default_rng(seed)
    present = np.unique(groups)
    stand = np.empty(len(rows))
    for group, turn in zip(present, rng.permutation(len(present)), strict=True):
        places = np.flatnonzero(groups == group)
        u = (turn + 0.5) / len(present)
        stand[rng.permutation(places)] = (np.arange(len(places)) + u) / len(places)
    return np.sort(np.argsort(stand, kind="stable")[:wanted])


def _words(spec: TransferSetSpec) -> str:
    chosen = [f"`only` {', '.join(spec.only)}"] if spec.only else []
    chosen += [f"`omit` {', '.join(spec.omit)}"] if spec.omit else []
    chosen.append(f"a share of {spec.share:g}")
    if spec.choose is not None:
        chosen.append(f"of that a choice of {spec.choose.share:g}")
    return " and ".join(chosen)
