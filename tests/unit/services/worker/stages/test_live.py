"""A transfer set that is asked for while nets are trained on it: what comes, when, and at what cost."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.worker.stages.transfer_sets import summaries
from services.worker.stages.transfer_sets.examples import live_examples, named_by_teacher, taught_examples
from services.worker.stages.transfer_sets.live import LiveTransferSet
from services.worker.stages.transfer_sets.stage import Planned, complete_transfer_set, plan_transfer_set
from shared.contracts.architectures import Mlp
from shared.contracts.images import Preprocessing
from shared.contracts.training import Asking, Budget, Objective, TransferSetSpec
from shared.distillation.cohort import Net, TrainingStopped, train_cohort
from shared.distillation.examples import Examples
from shared.distillation.teacher_answers import SparseLogits
from shared.errors import TeacherUnavailable
from tests.support.asking import PLOT, LinearTeacher, Stack
from tests.support.student_bundles import DIGIT_INPUT

SPEC = TransferSetSpec(share=0.1, views=3, jitter_px=2, flip=True, label_share=0.5)
"""200 images: 600 rows."""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """With shards of 90 rows, which do not end where views do."""
    monkeypatch.setattr("shared.transfer_set.writer.default_shard_rows", lambda _: 90)
    monkeypatch.setattr(summaries, "plot_entropy", lambda *_, **__: PLOT)
    return Stack(tmp_path)


def planned(stack: Stack, job_id: str = "j-live", spec: TransferSetSpec = SPEC) -> Planned:
    client: Any = stack.client
    return plan_transfer_set(
        stack.context(job_id),
        spec,
        "noise",
        stack.manifest,
        stack.teacher,
        client,
        temperature=1.0,
        asking=Asking(live=True),
    )


def live_of(stack: Stack, plan: Planned, client: Any = None) -> LiveTransferSet:
    return LiveTransferSet(plan.wanted, client or stack.client)


class Held(LinearTeacher):
    """Answers its first requests, and the others once it is let go."""

    def __init__(self, answers: int, then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self._answers = answers
        self._then = then

    def soft_targets(self, name: str, batches: Iterator[np.ndarray], **how: Any) -> Iterator[Any]:
        for index, logits in super().soft_targets(name, batches, **how):
            if self._answers == 0:
                self._then()
                assert self.let_go.wait(10)
            self._answers = max(0, self._answers - 1)
            yield index, logits


def trained(examples: Examples, checkpoints: Path | None = None) -> dict[str, torch.Tensor]:
    (net,) = train_cohort(
        Mlp(hidden_units=(8,)),
        [Net("taught", 0, Objective(temperature=3.0, soft_weight=1.0, hard_weight=0.1))],
        examples,
        classes=10,
        preprocessing=Preprocessing(input=DIGIT_INPUT, mean=(0.5,), std=(0.3,)),
        budget=Budget(epochs=5, batch_size=64, keep="last"),
        checkpoints=checkpoints,
        checkpoint_every_s=0.0,
    )
    return dict(net.tensors)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_learned_live_is_bit_for_bit_what_the_stored_set_teaches(stack: Stack):
    plan = planned(stack)
    with live_of(stack, plan) as live:
        learned = trained(live_examples(stack.whole(), plan.wanted, live))
    client: Any = stack.client
    built = complete_transfer_set(plan, client)
    assert (built.teacher_rows, stack.client.rows) == (600, 600)
    assert same(learned, trained(stack.examples(built)))


def test_a_view_is_waited_for_alone_and_the_wait_is_told(stack: Stack):
    teacher = Held(answers=3)  # shards 0 to 2 are rows 0 to 269: all of view 0, a part of view 1
    plan = planned(stack)
    with live_of(stack, plan, teacher) as live:
        live.logits(0)
        before = live.waited_s
        threading.Timer(0.3, teacher.let_go.set).start()
        live.logits(1)
        assert live.waited_s - before >= 0.25
        live.logits(0)
        assert live.waited_s == pytest.approx(live_of(stack, plan).waited_s)  # another attempt counts on


def test_answers_are_fetched_ahead_while_nobody_waits(stack: Stack):
    plan = planned(stack)
    with live_of(stack, plan) as live:
        live.logits(0)
        deadline = time.monotonic() + 10
        while stack.client.rows < 600:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        before = live.waited_s
        live.logits(2)
        assert live.waited_s == before


def test_a_training_that_dies_while_it_waits_goes_on_with_what_was_stored_and_ends_the_same(
    stack: Stack, tmp_path: Path
):
    def away() -> None:
        raise TeacherUnavailable("gone")

    plan, dying = planned(stack), Held(answers=4, then=away)
    with pytest.raises(TeacherUnavailable), live_of(stack, plan, dying) as live:
        trained(live_examples(stack.whole(), plan.wanted, live), tmp_path / "checkpoints")
    assert dying.rows == 5 * 90
    again = planned(stack)
    with live_of(stack, again) as live:
        learned = trained(live_examples(stack.whole(), again.wanted, live), tmp_path / "checkpoints")
    assert stack.client.rows == 600 - 4 * 90  # one shard was asked for twice
    client: Any = stack.client
    built = complete_transfer_set(again, client)
    assert built.teacher_rows == 600
    assert same(learned, trained(stack.examples(built)))


def test_whoever_waits_is_stopped_as_training_is(stack: Stack):
    teacher = Held(answers=0)
    plan = planned(stack)
    with live_of(stack, plan, teacher) as live:
        threading.Timer(0.2, plan.wanted.context.stop.set).start()
        with pytest.raises(TrainingStopped):
            live.logits(0)
        teacher.let_go.set()


def test_a_training_that_ends_early_lets_the_shard_under_way_be_stored_and_asks_no_further(stack: Stack):
    plan = planned(stack)
    teacher = Held(answers=4)
    with live_of(stack, plan, teacher) as live:
        live.logits(0)
        threading.Timer(0.3, teacher.let_go.set).start()
    assert teacher.rows in (3 * 90, 4 * 90, 5 * 90)  # never the rest, and whole shards
    client: Any = stack.client
    built = complete_transfer_set(plan, client)
    assert teacher.rows + stack.client.rows == built.teacher_rows == 600


def test_what_is_stored_already_needs_neither_thread_nor_teacher(stack: Stack):
    client: Any = stack.client
    built = complete_transfer_set(planned(stack, "j-0"), client)
    plan = planned(stack)
    with live_of(stack, plan, object()) as live:
        for view in range(3):
            stored = stack.stored(built).logits[view]
            np.testing.assert_array_equal(live.logits(view).float().numpy(), stored.astype(np.float32))
        assert live.waited_s == 0
        assert live.digest == built.digest


def test_images_without_labels_have_the_class_that_the_teacher_names_for_the_image_as_it_is(stack: Stack):
    plan = planned(stack)
    unlabelled = dataclasses.replace(stack.whole(), labels=None)
    with live_of(stack, plan) as live:
        named = named_by_teacher(live_examples(unlabelled, plan.wanted, live)).labels
    client: Any = stack.client
    built = complete_transfer_set(plan, client)
    stored = taught_examples(unlabelled, stack.stored(built), temperature=1.0)
    assert stored.labels is None
    expected = stack.client.answer(stored.images.numpy()).argmax(-1)
    for labels in (named, named_by_teacher(stored).labels):
        assert labels is not None
        assert labels.tolist() == expected.tolist()


def test_of_the_largest_logits_a_view_has_the_same_classes_and_rest_as_the_stored_set(stack: Stack):
    spec = SPEC.model_copy(update={"top_k": 3})
    plan = planned(stack, spec=spec)
    client: Any = stack.client
    with live_of(stack, plan) as live:
        views = [live.logits(view) for view in range(3)]
    built = complete_transfer_set(plan, client)
    stored = stack.examples(built).teacher_logits
    assert isinstance(stored, SparseLogits)
    for view, logits in enumerate(views):
        assert isinstance(logits, SparseLogits)
        assert torch.equal(logits.indices, stored[view].indices)
        assert torch.equal(logits.float(), stored[view].float())
