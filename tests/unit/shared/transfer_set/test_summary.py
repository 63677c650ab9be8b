import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.contracts.training import TransferSetSpec
from shared.contracts.transfer_sets import TransferSetCost, TransferSetSummary
from shared.errors import Corrupt
from shared.transfer_set.format import TransferSetManifest
from shared.transfer_set.store import TransferSetStore
from shared.transfer_set.summary import Answers, entropies, summarise, summarise_stored
from tests.support.transfer_sets import LABELS, write_set

DIGEST = "ab" * 32
NAMES = ("ant", "bee", "cat", "dog")


def logits(rows: int, classes: int = 4, *, scale: float = 3.0, seed: int = 0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(rows, classes))).astype(np.float16)


def answers(z: np.ndarray, *, labelled: np.ndarray | None = None, start: int = 0) -> Answers:
    rows = np.arange(start, start + len(z), dtype=np.int64)
    return Answers(rows, np.ones(len(z), np.uint8) if labelled is None else labelled, z)


def test_entropy_is_that_of_the_softened_probabilities():
    z = logits(50)
    for temperature in (0.5, 1.0, 20.0):
        p = np.exp(z.astype(np.float64) / temperature)
        p /= p.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(entropies(z, temperature), -(p * np.log(p)).sum(axis=1), atol=2e-6)


def test_equal_logits_have_the_entropy_of_all_classes_and_one_hot_ones_none():
    z = np.array([[0.0, 0.0, 0.0, 0.0], [3e4, -1e4, -1e4, -1e4]], np.float16)
    assert entropies(z, 1.0) == pytest.approx([math.log(4), 0.0], abs=1e-6)


def test_rows_are_counted_by_hard_label_and_by_the_teachers_choice():
    z = np.array([[5, 0, 0, 0], [5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 5]], np.float16)
    labels = np.array([0, 1, 1, -1])
    found = summarise(DIGEST, NAMES, [answers(z, labelled=np.array([1, 0, 1, 1], np.uint8))], labels)
    assert [(one.name, one.labelled, one.predicted) for one in found.classes] == [
        ("ant", 1, 2),
        ("bee", 1, 1),
        ("cat", 0, 0),
        ("dog", 0, 1),
    ]
    assert (found.rows, found.rows_labelled) == (4, 2)


def test_labels_are_those_of_the_image_whatever_view_it_is():
    views = Answers(np.array([2, 2, 0]), np.ones(3, np.uint8), logits(3))
    found = summarise(DIGEST, NAMES, [views], np.array([1, 0, 3]))
    assert [one.labelled for one in found.classes] == [0, 1, 0, 2]


def test_a_set_without_labels_is_summarised_too():
    found = summarise(DIGEST, NAMES, [answers(logits(8))], None)
    assert found.rows_labelled == 0
    assert sum(one.predicted for one in found.classes) == 8


@pytest.mark.parametrize("scale", [0.01, 3.0, 12.0])
def test_quantiles_are_those_of_all_rows_to_a_thousandth_of_the_most(scale):
    z = logits(20_000, scale=scale)
    parts = [answers(z[start : start + 3000], start=start) for start in range(0, len(z), 3000)]
    found = summarise(DIGEST, NAMES, parts, None)
    assert [one.temperature for one in found.entropy] == [1, 2, 4, 8, 20]
    for one in found.entropy:
        exact = entropies(z, one.temperature).astype(np.float64)
        quantiles = np.quantile(exact, (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0))
        given = (
            one.smallest_nats, one.p05_nats, one.p25_nats, one.median_nats, one.p75_nats, one.p95_nats,
            one.largest_nats,
        )  # fmt: skip
        np.testing.assert_allclose(given, quantiles, atol=1e-3 * math.log(4))
        assert one.mean_nats == pytest.approx(exact.mean(), abs=1e-6)
        assert list(given) == sorted(given)


def test_quantiles_of_a_sure_teacher_are_told_apart():
    """Nearly all of its entropies are far below a thousandth of the most."""
    z = np.zeros((1000, 4), np.float16)
    z[:, 0] = np.linspace(11, 14, 1000)
    (found,) = summarise(DIGEST, NAMES, [answers(z)], None, temperatures=(1.0,)).entropy
    exact = np.quantile(entropies(z, 1.0), (0.05, 0.5, 0.95))
    np.testing.assert_allclose((found.p05_nats, found.median_nats, found.p95_nats), exact, rtol=0.05)


def test_quantiles_at_a_high_temperature_are_told_apart():
    """All entropies are then within a thousandth of the most."""
    z = logits(1000, scale=1.0)
    (found,) = summarise(DIGEST, NAMES, [answers(z)], None, temperatures=(100.0,)).entropy
    exact = math.log(4) - np.quantile(entropies(z, 100.0).astype(np.float64), (0.05, 0.5))
    below = math.log(4) - np.array([found.p05_nats, found.median_nats])
    np.testing.assert_allclose(below, exact, rtol=0.05)


def test_memory_stays_flat_however_many_rows_there_are():
    z = logits(8192, 100)

    def shards(count: int) -> Iterator[Answers]:
        for number in range(count):
            yield answers(z, start=number * len(z))

    def peak(count: int) -> int:
        tracemalloc.start()
        summarise(DIGEST, [str(number) for number in range(100)], shards(count), None, temperatures=(4.0,))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(12) < 1.05 * peak(3)


def test_what_it_cost_stands_in_the_summary_and_all_of_it_survives_json():
    cost = TransferSetCost(job_id="j-1", rows_asked=5, rows_from_cache=3, rows_rescored=2, shards_rebuilt=1)
    found = summarise(DIGEST, NAMES, [answers(logits(8))], None, cost=cost)
    assert found.cost == cost
    assert TransferSetSummary.model_validate_json(found.model_dump_json()) == found


def test_a_set_without_rows_has_no_summary():
    with pytest.raises(ValueError, match="without rows"):
        summarise(DIGEST, NAMES, [], None)


def stored(tmp_path: Path, **changes: object) -> tuple[TransferSetStore, TransferSetManifest]:
    store = TransferSetStore(str(tmp_path / "sets"), tmp_path / "cache")
    return store, write_set(store, **changes)


def test_a_stored_set_is_summarised_shard_by_shard_as_if_it_were_read_as_a_whole(tmp_path: Path):
    store, manifest = stored(tmp_path)
    assert len(manifest.shards) == 3
    found = summarise_stored(store.set_files(manifest.digest), manifest, LABELS)
    whole = store.open(manifest.digest)
    rows = np.tile(whole.rows, 2)
    at_once = [Answers(rows, np.tile(whole.labelled, 2), whole.logits.reshape(len(rows), -1))]
    again = summarise(manifest.digest, manifest.inputs.classes, at_once, LABELS)
    assert (found.classes, found.rows_labelled, found.rows) == (again.classes, 80, 80)
    for one, other in zip(found.entropy, again.entropy, strict=True):
        assert one.model_dump() == pytest.approx(other.model_dump())


def test_of_a_set_that_keeps_the_largest_logits_all_classes_count(tmp_path: Path):
    store, manifest = stored(tmp_path, spec=TransferSetSpec(views=2, top_k=1))
    found = summarise_stored(store.set_files(manifest.digest), manifest, None)
    dense = store.open(manifest.digest).logits.reshape(80, -1)
    assert found.entropy[0].mean_nats == pytest.approx(entropies(dense, 1.0).mean(), abs=1e-6)
    assert found.top_k_error == manifest.top_k_error
    assert [one.temperature for one in found.top_k_error] == [1, 2, 4, 8, 20]


def test_a_teacher_that_does_not_temper_has_its_entropy_at_its_own_temperature(tmp_path: Path):
    store, manifest = stored(tmp_path, tempers=False, temperature=3.0)
    found = summarise_stored(store.set_files(manifest.digest), manifest, None)
    assert [one.temperature for one in found.entropy] == [3.0]


def test_a_damaged_shard_is_found(tmp_path: Path):
    store, manifest = stored(tmp_path)
    path = store.file(manifest.digest, manifest.shards[1].file)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Corrupt):
        summarise_stored(store.set_files(manifest.digest), manifest, None)
