"""Dividing images into train, validation and test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.artefacts.datasets import Split
from shared.datasets.splits import complete, stratified


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200), st.sampled_from([(0.1,), (0.1, 0.1), (0.2, 0.1)])
)
def test_parts_are_disjoint_complete_and_hold_every_class_that_is_large_enough(
    labels: list[int], shares: tuple[float, ...]
) -> None:
    array = np.array(labels)
    parts = stratified(array, shares)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for label in set(labels):
        present = [bool((array[part] == label).any()) for part in parts]
        expected = [labels.count(label) > len(shares)] * len(shares) + [True]
        assert present == expected


def test_sizes_come_out_right_though_each_class_is_rounded() -> None:
    """Ten classes of 44 to 53 rows: 10 % of each is no whole number, 10 % of all 485 is 48 or 49."""
    labels = np.repeat(np.arange(10), np.arange(44, 54))
    first, second, rest = stratified(labels, (0.1, 0.1))
    assert (len(first), len(second), len(rest)) in {
        (48, 48, 389),
        (49, 49, 387),
        (48, 49, 388),
        (49, 48, 388),
    }


def test_the_same_seed_draws_the_same_rows_and_another_seed_others() -> None:
    labels = np.arange(100) % 4
    for a, b in zip(stratified(labels, (0.1, 0.1)), stratified(labels, (0.1, 0.1)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert stratified(labels, (0.1,))[0].tolist() != stratified(labels, (0.1,), seed=1)[0].tolist()


def split_of(n: int, *, labelled: bool = True) -> Split:
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    return Split(images, np.arange(n) % 2 if labelled else None)


@pytest.mark.parametrize(
    ("given_splits", "sizes"),
    [
        ({"train": 100}, {"train": 80, "validation": 10, "test": 10}),
        ({"train": 100, "test": 7}, {"train": 90, "validation": 10, "test": 7}),
        ({"train": 100, "validation": 7}, {"train": 90, "validation": 7, "test": 10}),
        ({"train": 100, "validation": 7, "test": 8}, {"train": 100, "validation": 7, "test": 8}),
    ],
)
def test_splits_that_are_missing_take_a_tenth_of_train_each(
    given_splits: dict[str, int], sizes: dict[str, int]
) -> None:
    completed = complete({name: split_of(n) for name, n in given_splits.items()})
    assert {name: len(split) for name, split in completed.items()} == sizes


def test_images_keep_their_labels() -> None:
    for split in complete({"train": split_of(100)}).values():
        assert split.labels is not None
        np.testing.assert_array_equal(split.labels, split.images[:, 0, 0, 0] % 2)


def test_unlabelled_training_images_are_left_alone() -> None:
    completed = complete({"train": split_of(100, labelled=False), "test": split_of(10)})
    assert {name: len(split) for name, split in completed.items()} == {"train": 100, "test": 10}
