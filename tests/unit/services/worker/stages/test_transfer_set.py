"""The transfer-set stage, with a teacher in process that is a fixed linear map of the pixels."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from services.worker.stages.context import JobStopped
from services.worker.stages.transfer_sets import summaries
from services.worker.stages.transfer_sets.examples import as_torch
from services.worker.stages.transfer_sets.stage import BuiltTransferSet
from services.worker.stages.transfer_sets.summaries import stored_summary
from shared.artefacts.datasets import Split
from shared.artefacts.files import sha256_file
from shared.artefacts.tensors import tensors_to_bytes
from shared.contracts.training import Asking
from shared.distillation import teacher_answers
from shared.errors import (
    CachedAnswersDiffer,
    EmptyTransferSet,
    StoreFull,
    TeacherAnswerInvalid,
    TeacherChanged,
    TeacherUnavailable,
)
from shared.transfer_set.format import content_digest
from shared.transfer_set.topk import SparseLogits
from shared.transfer_set.views import apply_views
from shared.transfer_set.writer import TransferSetWriter
from tests.support.asking import CLASSES, LABELS, PLOT, LinearTeacher, Stack

NONE = Asking(rescored_rows=0)


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr(summaries, "plot_entropy", lambda *_, **__: PLOT)
    return Stack(tmp_path)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 300 rows: seven of all images."""
    monkeypatch.setattr("shared.transfer_set.writer.default_shard_rows", lambda _: 300)


class Unreachable:
    """A teacher service that is away."""

    def soft_targets(self, *_: object, **__: object) -> Iterator[tuple[int, np.ndarray]]:
        raise TeacherUnavailable("no route")


class Listening(LinearTeacher):
    """Remembers the images it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: set[bytes] = set()

    def answer(self, images: np.ndarray) -> np.ndarray:
        self.heard.update(map(bytes, images))
        return super().answer(images)


class Replaced:
    """A teacher of the same name and another digest."""

    def soft_targets(self, *_: object, **__: object) -> Iterator[tuple[int, np.ndarray]]:
        raise TeacherChanged("big", "0" * 64, "1" * 64)


def test_the_teacher_is_asked_once_and_what_it_cost_is_known(stack: Stack) -> None:
    first = stack.build("j-1", views=2, jitter_px=1, flip=True)
    assert (first.rows, first.teacher_rows, first.rows_from_cache) == (2_000, 4_000, 0)
    assert stack.client.rows == 4_000
    second = stack.build("j-2", views=2, jitter_px=1, flip=True)
    assert second.digest == first.digest
    assert (second.teacher_rows, second.rows_from_cache) == (0, 4_000)
    part = stack.build("j-3", views=2, jitter_px=1, flip=True, omit=("3",), share=0.5, label_share=0.1)
    assert (part.rows, part.teacher_rows, part.rows_from_cache) == (900, 0, 1_800)
    more = stack.build("j-4", views=3, jitter_px=1, flip=True)
    assert more.rows_from_cache >= 4_000
    assert more.teacher_rows + more.rows_from_cache == 6_000
    again = sum(one.rescored.rows for one in (first, second, part, more))
    assert again == 3 * 64
    assert stack.client.rows == 4_000 + more.teacher_rows + again


def test_rows_that_an_attempt_cut_off_had_asked_for_are_asked_rows_of_the_job_and_not_cached_ones(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.build("j-1", share=0.1)
    finish, rescored = TransferSetWriter.finish, 64

    def killed(_: TransferSetWriter) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TransferSetWriter, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        stack.build("j-2")
    asked = stack.client.rows - 200 - rescored
    (spent,) = stack.store.job("j-2").attempts.glob("*.seconds")
    spent.write_text("1000\n")
    monkeypatch.setattr(TransferSetWriter, "finish", finish)
    resumed = stack.build("j-2")
    summary = stored_summary(stack.transfer_sets, resumed.digest)
    assert summary is not None
    assert 1000 < summary.cost.seconds <= resumed.seconds
    assert stack.client.rows == 200 + asked + rescored  # nothing is asked for twice, nor compared
    assert (resumed.teacher_rows, resumed.rows_from_cache) == (asked, 200) == (1_800, 200)
    other = stack.build("j-3")
    assert (other.teacher_rows, other.rows_from_cache) == (0, 2_000)
    assert not list(stack.store.job("j-2").attempts.iterdir())


@pytest.mark.usefixtures("small_shards")
def test_what_another_job_stores_meanwhile_is_not_asked_for_again(stack: Stack) -> None:
    def another(_: int) -> None:
        stack.client.before = lambda _: None
        assert stack.build("j-2").teacher_rows == 2_000

    stack.client.before = another
    built = stack.build("j-1")
    assert (built.teacher_rows, built.rows_from_cache) == (300, 1_700)
    assert stack.client.rows == 2_300
    done = [message.progress for message in stack.sent if message.progress]
    assert (done[-1].done, done[-1].total) == (2_000, 2_000)


def test_progress_counts_what_was_stored_as_done(stack: Stack) -> None:
    stack.build("j-1", views=1)
    stack.sent.clear()
    stack.build("j-2", views=2, jitter_px=1)
    done = [message.progress.done for message in stack.sent if message.progress]
    assert done[0] >= 2_000
    assert done[-1] == 4_000
    assert done == sorted(done)


def test_examples_are_the_selected_images_with_the_labels_that_may_be_used(stack: Stack) -> None:
    built = stack.build("j-1", only=("7", "8"), share=0.5, label_share=0.25)
    examples = stack.examples(built)
    assert examples.labels is not None
    assert examples.rows == 200
    known = examples.labels >= 0
    assert int(known.sum()) == 50
    assert set(examples.labels.tolist()) == {-1, 7, 8}
    # Each image is known by its pixels: its label, where it may be used, is its own.
    index = {image.tobytes(): row for row, image in enumerate(stack.images)}
    rows = [index[image.numpy().tobytes()] for image in examples.images]
    assert rows == sorted(rows)
    assert {int(LABELS[row]) for row in rows} == {7, 8}
    assert examples.labels[known].tolist() == LABELS[rows][known.numpy()].tolist()
    assert examples.validation_images is not None
    assert len(examples.validation_images) == 10  # what validates and tests keeps all classes


@pytest.mark.parametrize("top_k", [None, 3])
def test_stored_logits_are_learned_from_where_they_lie(stack: Stack, top_k: int | None) -> None:
    stored = stack.stored(stack.build("j-1", share=0.1, top_k=top_k)).answers
    said = as_torch(stored)
    if isinstance(stored, SparseLogits):
        assert isinstance(said, teacher_answers.SparseLogits)
        assert np.shares_memory(said.values.numpy(), stored.logits)
        assert said.indices.tolist() == stored.classes.tolist()
    else:
        assert isinstance(said, torch.Tensor)
        assert np.shares_memory(said.numpy(), stored)


def test_the_teachers_answers_belong_to_the_views_that_the_student_is_shown(stack: Stack) -> None:
    built = stack.build(
        "j-1",
        views=3,
        jitter_px=2,
        flip=True,
        crop_scale=0.5,
        cutout_px=5,
        contrast=0.3,
        omit=("0",),
        share=0.2,
    )
    examples = stack.examples(built)
    logits, seen = examples.teacher_logits, examples.parameters
    assert logits is not None
    assert seen is not None
    assert seen.shift.any()
    assert seen.cutout.any()
    for view in range(3):
        expected = stack.client.answer(apply_views(examples.images.numpy(), seen[view]))
        expected -= expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(logits[view].float().numpy(), expected, rtol=2e-3, atol=1e-2)


def test_a_class_without_any_image_is_found_before_the_teacher_is_asked(stack: Stack) -> None:
    splits = {"train": Split(stack.images, np.minimum(LABELS, 8))}
    stack.store.datasets.put("eights", splits, classes=CLASSES, source="a test")
    stack.dataset = "eights"
    with pytest.raises(EmptyTransferSet, match="`only` 9"):
        stack.build("j-1", only=("9",))
    assert stack.client.rows == 0


# --- whoever is stopped ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
def test_requests_are_drawn_as_they_are_sent_and_no_shard_is_begun_before_the_last_one_is_stored(
    stack: Stack,
) -> None:
    stored_before: list[int] = []
    folder = stack.settings.store_dir / "transfer_sets"
    stack.client.before = lambda _: stored_before.append(len(list(folder.glob("*/shard-*"))))
    stack.build("j-1")
    assert stored_before == list(range(7))
    assert stack.client.requests == [300] * 6 + [200]


@pytest.mark.usefixtures("small_shards")
def test_a_build_that_is_stopped_keeps_its_shards_and_asks_again_for_no_row_of_them(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stack.client

    def stop_in_the_third(request: int) -> None:
        if len(asked.requests) == 3:
            context.stop.set()

    context = stack.context("j-1")
    monkeypatch.setattr(stack, "context", lambda *_: context)
    asked.before = stop_in_the_third
    with pytest.raises(JobStopped):
        stack.build("j-1")
    assert asked.rows == 600
    monkeypatch.undo()
    monkeypatch.setattr("shared.transfer_set.writer.default_shard_rows", lambda _: 300)
    asked.before = lambda _: None
    built = stack.build("j-1")
    assert asked.rows == 2_000
    assert (built.teacher_rows, built.rows_from_cache) == (2_000, 0)


@pytest.mark.usefixtures("small_shards")
def test_a_store_that_is_full_fails_the_build_by_name_and_keeps_the_shards_that_are_there(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if "shard-00002" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match="shard-00002"):
        stack.build("j-1")
    monkeypatch.setattr(os, "fsync", fsync)
    asked = stack.client.rows
    assert asked == 900
    stack.build("j-1")
    assert stack.client.rows - asked == 2_000 - 600  # the third shard alone was asked for twice


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_shard_is_built_anew_and_told(stack: Stack) -> None:
    built = stack.build("j-1")
    path = stack.shard(built, 3)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    again = stack.build("j-2", asking=NONE)
    assert again.rebuilt == ("shard-00003.safetensors",)
    assert (again.teacher_rows, again.rows_from_cache) == (300, 1_700)
    assert again.asked().cost.shards_rebuilt == 1
    assert any("shard-00003.safetensors" in note for note in stack.notes)
    assert stack.stored(again).manifest.digest == built.digest


def test_a_row_whose_logits_are_not_finite_is_named(stack: Stack) -> None:
    class Broken(LinearTeacher):
        """Refuses the whole request, as the client does."""

        def soft_targets(self, name: str, batches: Iterator[np.ndarray], **how: Any) -> Iterator[Any]:
            for index, images in enumerate(batches):
                if (images == stack.images[1_234]).all(axis=(1, 2, 3)).any():
                    error = TeacherAnswerInvalid("logits that are not finite")
                    error.batch = index
                    raise error
                yield index, self.answer(images)

    with pytest.raises(TeacherAnswerInvalid, match=r"image 1234 in view 0: .*not finite"):
        stack.build("j-1", client=Broken(), omit=("3",))


def test_a_teacher_that_changes_stops_the_build(stack: Stack) -> None:
    with pytest.raises(TeacherChanged):
        stack.build("j-1", client=Replaced())


# --- asked again -------------------------------------------------------------------------------------------


def test_stored_answers_that_the_teacher_does_not_give_any_more_stop_the_job_before_it_asks_further(
    stack: Stack,
) -> None:
    stack.build("j-1")
    stack.client.weights = stack.client.weights * np.float32(1.1)
    asked = stack.client.rows
    with pytest.raises(CachedAnswersDiffer) as found:
        stack.build("j-2", views=2, crop_scale=0.2, contrast=0.9)
    assert stack.client.rows - asked == 64
    assert len(found.value.rows) > 50
    assert list(found.value.rows) == sorted(found.value.rows)
    assert max(found.value.rows) < 2_000  # of view 0: the others are not known
    assert found.value.largest_difference > 0.1


def test_a_single_stored_row_that_is_wrong_is_named(stack: Stack) -> None:
    built = stack.build("j-1")
    path = stack.shard(built)
    columns = load_file(path)
    columns["logits"][77] *= np.float16(1.2)
    # A set as whole as any, of a teacher that was wrong about one row.
    _replace_shard(stack, built, columns)
    with pytest.raises(CachedAnswersDiffer) as found:
        stack.build("j-2", asking=Asking(rescored_rows=2_000))
    assert found.value.rows == (77,)
    assert found.value.asked == 2_000
    assert "1 of 2000" in str(found.value)


def test_rows_to_compare_are_drawn_by_the_jobs_id(stack: Stack) -> None:
    stack.build("j-1")
    drawn = []
    for job in ("j-2", "j-3", "j-4"):
        client = Listening()
        stack.build(job, client=client)
        assert len(client.heard) == 64
        drawn.append(frozenset(client.heard))
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("client", [Unreachable(), Replaced()])
def test_a_teacher_that_cannot_be_compared_with_is_a_note_where_nothing_else_has_to_be_asked(
    stack: Stack, client: object
) -> None:
    stack.build("j-1", views=2, flip=True)
    built = stack.build("j-2", client=client, views=2, flip=True, share=0.5)
    assert (built.rescored.rows, built.teacher_rows) == (0, 0)
    assert any("no stored answer was asked for again" in note for note in stack.notes)


def test_a_teacher_that_cannot_be_compared_with_fails_the_job_where_more_has_to_be_asked(
    stack: Stack,
) -> None:
    stack.build("j-1")
    with pytest.raises(TeacherUnavailable):
        stack.build("j-2", client=Unreachable(), views=2, flip=True)


# --- chosen images -----------------------------------------------------------------------------------------


def entropies(logits: np.ndarray) -> np.ndarray:
    z = logits.astype(np.float64)
    p = np.exp(
        z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)
    )
    return -(p * np.log(p)).sum(1)


def test_the_images_of_which_the_teacher_is_least_sure_are_taken_and_further_views_asked_of_them_alone(
    stack: Stack,
) -> None:
    stack.client.weights *= np.float32(0.05)
    choose = {"by": "entropy", "share": 0.1}
    built = stack.build("j-1", asking=NONE, views=3, crop_scale=0.2, contrast=0.9, omit=("0",), choose=choose)
    assert built.rows == 180
    assert built.teacher_rows == stack.client.rows == 1_800 + 2 * 180
    candidates = np.flatnonzero(LABELS != 0)
    scores = entropies(stack.client.answer(stack.images[candidates]))
    taken = candidates[np.argsort(-scores)[:180]]
    # 16-bit logits may exchange images of the same entropy but for rounding.
    assert len(np.intersect1d(stack.stored(built).rows, taken)) >= 178
    again = stack.build("j-2", asking=NONE, views=3, crop_scale=0.2, contrast=0.9, omit=("0",), choose=choose)
    assert again.digest == built.digest
    assert again.teacher_rows == 0


def test_a_choice_that_was_made_is_kept_even_if_another_would_be_made_now(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: TransferSetWriter, *__: object) -> None:
        raise KeyboardInterrupt

    choose = {"by": "entropy", "share": 0.1}
    base = stack.build("j-0")
    write = TransferSetWriter.write_shard
    monkeypatch.setattr(TransferSetWriter, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        stack.build("j-1", choose=choose)
    monkeypatch.setattr(TransferSetWriter, "write_shard", write)
    (kept,) = (stack.settings.store_dir / "transfer_sets").glob("*/chosen.safetensors")
    rows = load_file(kept)["row"]
    other = np.setdiff1d(np.arange(2_000), rows)[:200]
    kept.chmod(0o644)
    save_file({"row": other}, kept)
    built = stack.build("j-1", choose=choose)
    assert built.digest != base.digest
    np.testing.assert_array_equal(stack.stored(built).rows, other)


# --- what is said of a finished set ------------------------------------------------------------------------


def test_a_finished_set_has_its_summary_and_its_plot_beside_it(stack: Stack) -> None:
    built = stack.build("j-1", views=2, flip=True)
    summary = stored_summary(stack.transfer_sets, built.digest)
    assert summary is not None
    assert (summary.rows, summary.rows_labelled) == (4_000, 4_000)
    assert [one.labelled for one in summary.classes] == [400] * 10
    assert summary.cost.job_id == "j-1"
    assert (summary.cost.rows_asked, summary.cost.rows_from_cache) == (4_000, 0)
    assert {"entropy.png", "entropy.svg"} <= set(stack.transfer_sets.files(built.digest))
    stack.build("j-2", views=2, flip=True)
    assert stored_summary(stack.transfer_sets, built.digest) == summary  # j-2 asked for nothing


def test_the_error_of_the_largest_logits_is_told(stack: Stack) -> None:
    built = stack.build("j-1", top_k=3)
    assert built.top_k_error is not None
    assert built.top_k_error[0].temperature == 1
    assert built.top_k_error[0].largest_nats > built.top_k_error[0].mean_nats > 0
    again = stack.build("j-2", asking=Asking(rescored_rows=500), top_k=3)
    assert again.rescored.rows == 500  # what was kept is compared, and agrees


def _replace_shard(stack: Stack, built: BuiltTransferSet, columns: dict[str, np.ndarray]) -> None:
    """Put other columns into the only shard of a set, and all digests right."""
    stored = stack.stored(built).manifest
    path = stack.shard(built)
    metadata = {
        "format": str(stored.inputs.format),
        "inputs": stored.digest,
        "shard": "0",
        "content": content_digest(columns, stored.inputs),
    }
    path.unlink()
    path.write_bytes(tensors_to_bytes(columns, metadata))
    shard = stored.shards[0].model_copy(update={"sha256": sha256_file(path)})
    manifest = path.with_name("manifest.json")
    manifest.chmod(0o644)
    manifest.write_text(stored.model_copy(update={"shards": (shard,)}).model_dump_json())
