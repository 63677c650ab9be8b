"""The transfer-set stage, with a teacher in process that is a fixed linear map of the pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from services.worker.stages.transfer_set import BuiltTransferSet, build_transfer_set, taught_examples
from shared.artefacts.datasets import Split
from shared.artefacts.store import ArtefactStore
from shared.contracts.specs import DistillationSpec
from shared.contracts.training import TransferSetSpec
from shared.distillation.examples import Examples
from shared.errors import EmptyTransferSet
from shared.transfer_set.store import TransferSetStore
from shared.transfer_set.views import apply_view
from shared.transfer_set.writer import TransferSetWriter
from tests.support.teachers_at_rest import publish_teacher

ROWS = 2_000
LABELS = (np.arange(ROWS) % 10).astype(np.int64)
CLASSES = tuple("0123456789")


class LinearTeacher:
    """Answers as `TeacherClient` does, out of order."""

    def __init__(self) -> None:
        self.weights = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)
        self.rows = 0

    def answer(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), 784).astype(np.float32) / 255 @ self.weights

    def soft_targets(
        self, name: str, batches: Iterator[np.ndarray], **_: object
    ) -> Iterator[tuple[int, np.ndarray]]:
        asked = list(enumerate(batches))
        for index, images in reversed(asked):
            self.rows += len(images)
            yield index, self.answer(images)


class Stack:
    """A store with a dataset and a teacher, and jobs on it."""

    def __init__(self, state_dir: Path) -> None:
        self.settings = WorkerSettings(state_dir=state_dir)
        self.store = ArtefactStore(self.settings.store_dir)
        self.transfer_sets = TransferSetStore(
            self.settings.transfer_sets_place, self.settings.transfer_sets_cache
        )
        rng = np.random.default_rng(1)
        self.images = rng.integers(0, 256, (ROWS, 28, 28, 1), dtype=np.uint8)
        few = Split(self.images[:10], LABELS[:10])
        splits = {"train": Split(self.images, LABELS), "validation": few, "test": few}
        self.manifest = self.store.datasets.put("noise", splits, classes=CLASSES, source="a test")
        self.teacher = publish_teacher(self.store, "big")
        self.client = LinearTeacher()
        self.sent: list[ChildMessage] = []

    def build(self, job_id: str, **spec: object) -> BuiltTransferSet:
        order = DistillationSpec(
            name="s", teacher="big", dataset="noise", transfer_set=TransferSetSpec.model_validate(spec)
        )
        context = JobContext(
            ChildOrder(job_id=job_id, epoch=1, attempts=1, spec=order),
            self.settings,
            self.store,
            self.sent.append,
        )
        client: Any = self.client
        return build_transfer_set(context, order, self.manifest, self.teacher, client)

    def examples(self, built: BuiltTransferSet) -> Examples:
        whole = Examples(
            images=torch.from_numpy(self.images),
            labels=torch.from_numpy(LABELS),
            validation_images=torch.from_numpy(self.images[:10]),
            validation_labels=torch.from_numpy(LABELS[:10]),
        )
        return taught_examples(whole, self.transfer_sets.open(built.digest), temperature=4.0)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path)


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
    assert stack.client.rows == 4_000 + more.teacher_rows


def test_rows_that_an_attempt_cut_off_had_asked_for_are_asked_rows_of_the_job_and_not_cached_ones(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.build("j-1", share=0.1)
    finish = TransferSetWriter.finish

    def killed(_: TransferSetWriter) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TransferSetWriter, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        stack.build("j-2")
    asked = stack.client.rows - 200
    monkeypatch.setattr(TransferSetWriter, "finish", finish)
    resumed = stack.build("j-2")
    assert stack.client.rows == 200 + asked  # nothing is asked for twice
    assert (resumed.teacher_rows, resumed.rows_from_cache) == (asked, 200) == (1_800, 200)
    other = stack.build("j-3")
    assert (other.teacher_rows, other.rows_from_cache) == (0, 2_000)
    assert not list(stack.store.job("j-2").attempts.iterdir())


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


def test_the_teachers_answers_belong_to_the_views_that_the_student_is_shown(stack: Stack) -> None:
    examples = stack.examples(stack.build("j-1", views=3, jitter_px=2, flip=True, omit=("0",), share=0.2))
    assert examples.teacher_logits is not None
    assert examples.shifts is not None
    assert examples.flips is not None
    assert examples.shifts.any()
    assert examples.flips.any()
    for view in range(3):
        shown = apply_view(
            examples.images.numpy(), examples.shifts[view].numpy(), examples.flips[view].numpy()
        )
        expected = stack.client.answer(shown)
        expected -= expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(examples.teacher_logits[view], expected, rtol=2e-3, atol=1e-2)


def test_a_class_without_any_image_is_found_before_the_teacher_is_asked(stack: Stack) -> None:
    splits = {"train": Split(stack.images, np.minimum(LABELS, 8))}
    stack.manifest = stack.store.datasets.put("eights", splits, classes=CLASSES, source="a test")
    order = DistillationSpec(
        name="s", teacher="big", dataset="eights", transfer_set=TransferSetSpec(only=("9",))
    )
    context = JobContext(
        ChildOrder(job_id="j-1", epoch=1, attempts=1, spec=order), stack.settings, stack.store, print
    )
    client: Any = stack.client
    with pytest.raises(EmptyTransferSet, match="`only` 9"):
        build_transfer_set(context, order, stack.manifest, stack.teacher, client)
    assert stack.client.rows == 0
