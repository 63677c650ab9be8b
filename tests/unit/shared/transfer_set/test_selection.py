"""Which images a transfer set takes, and of which the label may be used."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.training import TransferSetSpec
from shared.errors import DistillationError, EmptyTransferSet, LabelsMissing, OmitAndOnly, UnknownClass
from shared.transfer_set.selection import Selection, candidates, check_selection, select_rows, share_of

CLASSES = ("cat", "dog", "owl")
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [200, 90, 10])).astype(np.int64)


def select(labels: np.ndarray | None = LABELS, **spec: object) -> Selection:
    return select_rows(TransferSetSpec.model_validate(spec), labels, CLASSES, images=300, dataset="pets")


def test_by_default_every_image_is_taken_with_its_label() -> None:
    rows, labelled = select()
    np.testing.assert_array_equal(rows, np.arange(300))
    assert labelled.all()


def test_images_without_labels_are_taken_as_unlabelled() -> None:
    rows, labelled = select(labels=None)
    np.testing.assert_array_equal(rows, np.arange(300))
    assert not labelled.any()


def test_images_without_a_label_among_labelled_ones_pass_as_unlabelled() -> None:
    labels = np.where(np.arange(300) % 3 == 0, -1, LABELS)
    rows, labelled = select(labels)
    np.testing.assert_array_equal(rows, np.arange(300))
    np.testing.assert_array_equal(labelled, labels >= 0)


def test_where_classes_are_left_out_so_are_images_of_which_nobody_knows_the_class() -> None:
    labels = np.where(np.arange(300) % 3 == 0, -1, LABELS)
    for spec in ({"omit": ("dog",)}, {"only": ("cat", "owl")}):
        rows, labelled = select(labels, **spec)
        np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(labels, [0, 2])))
        assert labelled.all()


def test_a_share_is_drawn_of_images_without_a_label_as_of_a_class() -> None:
    labels = np.where(np.arange(300) < 100, -1, LABELS)
    rows, labelled = select(labels, share=0.5, label_share=0.5)
    assert abs(int((labels[rows] < 0).sum()) - 50) <= 1
    assert abs(int(labelled.sum()) - 50) <= 1
    assert (labels[rows][labelled] >= 0).all()


@pytest.mark.parametrize(
    ("spec", "left"),
    [({"omit": ("dog",)}, {0, 2}), ({"only": ("dog", "owl")}, {1, 2}), ({"omit": ()}, {0, 1, 2})],
)
def test_classes_are_left_out_or_alone_taken_and_all_their_images_are(
    spec: dict[str, object], left: set[int]
) -> None:
    rows, labelled = select(**spec)
    np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(LABELS, list(left))))
    assert labelled.all()


@pytest.mark.parametrize("share", [0.03, 0.1, 0.5, 0.99])
def test_each_class_gives_its_share(share: float) -> None:
    rows, _ = select(share=share)
    counts = np.bincount(LABELS[rows], minlength=3)
    assert counts.sum() == share_of(300, share)
    assert (abs(counts - share * np.array([200, 90, 10])) <= 1.5).all()


def test_a_small_share_of_many_small_classes_is_exact_though_no_class_can_give_it() -> None:
    """3 % of 200 classes of 13 images: 0.39 of an image each, 78 together."""
    labels = np.repeat(np.arange(200), 13)
    classes = [str(index) for index in range(200)]
    giving = []
    for seed in (1, 2):
        rows, _ = select_rows(TransferSetSpec(share=0.03, seed=seed), labels, classes, images=len(labels))
        assert len(rows) == 78
        assert np.bincount(labels[rows]).max() == 1
        giving.append(labels[rows].tolist())
    assert giving[0] != giving[1]  # which classes give is drawn as well


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 2**31 - 1), st.booleans())
def test_a_smaller_share_is_a_part_of_a_larger_one(one: float, other: float, seed: int, known: bool) -> None:
    small, large = sorted((one, other))
    labels = LABELS if known else None
    few, _ = select(labels, share=small, seed=seed)
    many, _ = select(labels, share=large, seed=seed)
    assert set(few.tolist()) <= set(many.tolist())
    assert (np.diff(few) > 0).all()


def test_chosen_rows_are_taken_and_labels_are_drawn_among_them() -> None:
    spec = TransferSetSpec.model_validate(
        {"omit": ("owl",), "label_share": 0.5, "choose": {"by": "entropy", "share": 0.1}}
    )
    whole = select_rows(candidates(spec), LABELS, CLASSES, images=300).rows
    chosen = whole[5:34]
    rows, labelled = select_rows(spec, LABELS, CLASSES, images=300, chosen=chosen)
    np.testing.assert_array_equal(rows, chosen)
    assert labelled.sum() == 15
    for wrong in (chosen[:-1], np.append(chosen[:-1], np.flatnonzero(LABELS == 2)[0])):
        with pytest.raises(ValueError, match="chosen"):
            select_rows(spec, LABELS, CLASSES, images=300, chosen=wrong)


def test_wholeare_all_that_the_other_options_leave_as_they_are() -> None:
    spec = TransferSetSpec.model_validate(
        {"views": 9, "flip": True, "top_k": 2, "label_share": 0.1, "share": 0.3, "seed": 7, "only": ("cat",)}
        | {"choose": {"by": "entropy", "share": 0.1}}
    )
    assert candidates(spec) == TransferSetSpec(share=0.3, seed=7, only=("cat",))


def test_a_choice_of_too_few_images_is_refused() -> None:
    spec = {"share": 0.05, "choose": {"by": "entropy", "share": 0.01}}
    with pytest.raises(EmptyTransferSet, match=r"choice of 0\.01"):
        select(**spec)
    with pytest.raises(EmptyTransferSet, match=r"choice of 0\.01"):
        check_selection(TransferSetSpec.model_validate(spec), CLASSES, labelled=True, images=300)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_fewer_labels_are_a_part_of_more_and_the_images_stay(share: float) -> None:
    rows, few = select(share=share, label_share=0.1)
    same, more = select(share=share, label_share=0.4)
    np.testing.assert_array_equal(rows, same)
    assert few.sum() == share_of(len(rows), 0.1)
    assert more.sum() == share_of(len(rows), 0.4)
    assert (more | ~few).all()
    by_class = np.bincount(LABELS[rows][more], minlength=3) / np.bincount(LABELS[rows], minlength=3)
    np.testing.assert_allclose(by_class, 0.4, atol=0.15)


def test_labels_are_not_drawn_as_the_images_are() -> None:
    """Else a tenth of the labels would always be of the images that a tenth of the images are."""
    images, _ = select(share=0.1)
    rows, labelled = select(label_share=0.1)
    assert set(images.tolist()) != set(rows[labelled].tolist())


def test_no_label_may_be_used_where_none_is_asked_for() -> None:
    assert not select(label_share=0.0).labelled.any()


def test_the_seed_draws() -> None:
    one, other = (select(share=0.1, seed=seed).rows for seed in (1, 2))
    assert set(one.tolist()) != set(other.tolist())
    np.testing.assert_array_equal(one, select(share=0.1, seed=1).rows)


@pytest.mark.parametrize(
    ("spec", "labels", "error", "words"),
    [
        ({"omit": ("dog", "emu")}, LABELS, UnknownClass, "`omit` .* do not exist: 'emu'"),
        ({"only": ("emu",)}, LABELS, UnknownClass, "`only` .* do not exist: 'emu'"),
        ({"omit": ("dog",), "only": ("cat",)}, LABELS, OmitAndOnly, r"omit 1 classes \(dog\)"),
        ({"omit": CLASSES}, LABELS, EmptyTransferSet, "omit` names all 3 classes"),
        ({"share": 0.001}, LABELS, EmptyTransferSet, "a share of 0.001 leaves none of 300"),
        ({"only": ("owl",), "share": 0.04}, LABELS, EmptyTransferSet, "`only` owl and a share of 0.04"),
        ({"only": ("owl",)}, np.minimum(LABELS, 1), EmptyTransferSet, "`only` owl .* leaves none"),
        ({"omit": ("dog",)}, None, LabelsMissing, "'pets' has no labels, which `omit`"),
        ({"only": ("dog",)}, None, LabelsMissing, "'pets' has no labels, which `only`"),
    ],
)
def test_what_cannot_be_selected_is_refused_with_a_remedy(
    spec: dict[str, object], labels: np.ndarray | None, error: type[DistillationError], words: str
) -> None:
    with pytest.raises(error, match=words) as refusal:
        select(labels, **spec)
    assert refusal.value.remedy


def test_what_needs_no_label_to_be_found_wrong_is_found_without() -> None:
    with pytest.raises(EmptyTransferSet):
        check_selection(TransferSetSpec(omit=CLASSES), CLASSES, labelled=True, images=300)
    check_selection(TransferSetSpec(only=("owl",)), CLASSES, labelled=True, images=300)
