"""Training that is cut goes on as if it had never been: bit for bit, wherever the cut is."""

import errno
import json
import os
import time

import pytest
import torch

from shared.contracts.architectures import ResNet
from shared.contracts.training import Budget, Hint, Objective, Regularisation
from shared.distillation import rounds
from shared.distillation.checkpoint import CohortCheckpoint
from shared.distillation.cohort import Net, TrainingStopped, train_cohort
from shared.distillation.side_by_side import threads_as_before
from shared.distillation.stack import NetStack
from shared.errors import TeacherUnavailable
from tests.support.cohorts import (
    ARCHITECTURE,
    BUDGET,
    CLASSES,
    PREPROCESSING,
    REGULARISED,
    examples,
    nets,
    peers,
    teacher_features,
    teachers,
)


class StopAfter:
    """Says stop when it has been asked so often."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def train(asked, data, architecture=ARCHITECTURE, **options):
    options = {"classes": CLASSES, "preprocessing": PREPROCESSING, "budget": BUDGET, **options}
    return train_cohort(architecture, asked, data, **options)


def assert_identical(left, right):
    for one, other in zip(left, right, strict=True):
        assert (one.arm, one.seed, one.best_epoch) == (other.arm, other.seed, other.best_epoch)
        assert one.validation_accuracy == other.validation_accuracy
        assert [p.loss for p in one.curve.points] == [p.loss for p in other.curve.points]
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


ROWS = 200
COHORTS = {
    "teachers with dropout, max-norm and jitter": (teachers(0, 1), None, REGULARISED, BUDGET),
    "students on two views": (nets(0), 2, None, BUDGET),
    "sgd": (teachers(0), None, REGULARISED, Budget(epochs=4, optimizer="sgd", learning_rate=0.05)),
    # 200 steps an epoch: the cuts fall into the middle of one.
    "single images": (teachers(0), None, REGULARISED, Budget(epochs=2, batch_size=1)),
    "dropout, jitter and flips": (teachers(0), None, REGULARISED.model_copy(update={"flip": True}), BUDGET),
    "mutual learning": (peers(0, 1), None, Regularisation(hidden_dropout=0.2), BUDGET),
    "weight decay in bfloat16": (
        nets(0),
        2,
        None,
        BUDGET.model_copy(update={"weight_decay": 0.01, "precision": "bfloat16", "keep": "last"}),
    ),
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", COHORTS)
def test_a_run_cut_again_and_again_ends_as_the_undisturbed_one(name, together, tmp_path):
    asked, views, rule, budget = COHORTS[name]
    data = examples(views=views)
    options = {"regularisation": rule, "budget": budget, "together": together}
    undisturbed = train(asked, data, **options)
    cuts = 0
    while True:
        try:
            # Blocks of 1, 2, 4, 8 steps are taken between the questions.
            stop = StopAfter(4 if budget.batch_size == 1 else 2)
            resumed = train(asked, data, checkpoints=tmp_path, should_stop=stop, **options)
            break
        except TrainingStopped:
            cuts += 1
    assert cuts >= budget.epochs - 1
    assert_identical(undisturbed, resumed)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_killed_after_a_checkpoint_ends_as_the_undisturbed_one(epoch, tmp_path):
    """Here nothing is written at the cut itself: the process is gone."""

    class Killed(Exception):
        pass

    def killed_at(done, _all, _metrics):
        if done == epoch:
            raise Killed

    data, asked = examples(views=None), teachers(0, 1)
    options = {"regularisation": REGULARISED, "checkpoints": tmp_path, "checkpoint_every_s": 0.0}
    with pytest.raises(Killed):
        train(asked, data, on_epoch=killed_at, **options)
    told = []
    resumed = train(asked, data, on_epoch=lambda done, _all, _m: told.append(done), **options)
    assert told[0] == epoch, "the epoch whose checkpoint was not written is done again, and no other"
    assert_identical(train(asked, data, regularisation=REGULARISED), resumed)


def test_nets_trained_in_turn_go_on_at_once(tmp_path):
    """A worker with a GPU may take over from one without."""
    data, asked = examples(), nets(0, 1)
    told = []

    def note(done, _all, _metrics):
        told.append(done)

    with pytest.raises(TrainingStopped):
        train(
            asked,
            data,
            checkpoints=tmp_path,
            on_epoch=note,
            should_stop=lambda: 2 in told,
            together=False,
        )
    told.clear()
    resumed = train(asked, data, checkpoints=tmp_path, together=True, on_epoch=note)
    assert told[0] == 3
    for one, other in zip(train(asked, data), resumed, strict=True):
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_not_done_again(tmp_path):
    data, asked = examples(), nets(0)
    options = {"checkpoints": tmp_path, "checkpoint_every_s": 0.0}
    once = train(asked, data, **options)
    told = []
    again = train(asked, data, on_epoch=lambda *figures: told.append(figures), **options)
    assert not told
    assert_identical(once, again)


def test_the_checkpoint_of_another_training_is_left_alone(tmp_path):
    data = examples()
    with pytest.raises(TrainingStopped):
        train(nets(0), data, checkpoints=tmp_path, should_stop=StopAfter(1))
    assert_identical(train(nets(1), data), train(nets(1), data, checkpoints=tmp_path))


def test_without_a_folder_for_checkpoints_a_stop_only_stops():
    with pytest.raises(TrainingStopped):
        train(nets(0), examples(), should_stop=lambda: True)


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_who_leaves_while_the_disk_is_full_leaves_and_goes_on_from_the_checkpoint_before(
    tmp_path, monkeypatch, caplog
):
    data, options = examples(), {"checkpoints": tmp_path, "checkpoint_every_s": 0.0}
    expected = train(nets(0), data)

    def full_after_one(epoch: int, *_: object) -> None:
        monkeypatch.setattr(CohortCheckpoint, "save", save if epoch < 2 else no_room)

    save = CohortCheckpoint.save
    # Not on leaving: who goes on without checkpoints may lose days.
    with pytest.raises(OSError, match="No space left"):
        train(nets(0), data, on_epoch=full_after_one, **options)
    with pytest.raises(TrainingStopped):
        train(nets(0), data, should_stop=lambda: True, **options)
    assert "no checkpoint could be written on leaving" in caplog.text
    monkeypatch.setattr(CohortCheckpoint, "save", save)
    told = []
    found = train(nets(0), data, on_epoch=lambda epoch, *_: told.append(epoch), **options)
    assert_identical(found, expected)
    assert told[0] == 2


def test_what_ends_a_training_is_told_though_the_disk_is_full_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(CohortCheckpoint, "save", no_room)

    def away(*_: object) -> None:
        raise TeacherUnavailable("nobody answers")

    with pytest.raises(TeacherUnavailable):
        train(nets(0), examples(), refresh=away, checkpoints=tmp_path)


# 25 steps an epoch: a block ends within one, and an odd step (labels) may come first after the cut.
WITHIN = Budget(epochs=2, batch_size=8, learning_rate=1e-2)
HINTED = Objective(
    temperature=4.0,
    soft_weight=0.5,
    hard_weight=0.5,
    alternate=True,
    hint=Hint(weight=2.0, student_layer="hidden.0", teacher_layer="hidden.1"),
)


def cut_everywhere(asked, data, folder, **options):
    while True:
        try:
            return train(asked, data, checkpoints=folder, should_stop=StopAfter(3), **options)
        except TrainingStopped:
            continue


@pytest.mark.parametrize("together", [False, True])
def test_regressors_of_hints_and_their_optimiser_are_in_the_checkpoint(together, tmp_path):
    """Turns of teacher and labels make the regressor's own count of steps differ from the nets'."""
    data, asked = examples(), [Net("taught", seed, HINTED) for seed in (0, 1)] + nets(0)[1:]
    options = {"budget": WITHIN, "teacher": teacher_features(), "together": together}
    assert_identical(train(asked, data, **options), cut_everywhere(asked, data, tmp_path, **options))


def test_running_means_of_a_resnet_are_in_the_checkpoint(tmp_path):
    data, options = examples(), {"architecture": ResNet(architecture="resnet8"), "budget": WITHIN}
    undisturbed = train(nets(0), data, **options)
    assert_identical(undisturbed, cut_everywhere(nets(0), data, tmp_path, **options))
    assert any("running" in name for name in undisturbed[0].tensors)


def test_fresh_teacher_logits_and_chosen_rows_resume_alike(tmp_path):
    data = examples(views=1)

    def refresh(epoch, _nets):
        return data.teacher_logits * (epoch + 1)

    def rows_of_epoch(seed, epoch):
        return torch.arange(150).roll(seed + epoch) % 70

    # Two blocks of steps an epoch: what an epoch began with must be had again within it.
    options = {"refresh": refresh, "rows_of_epoch": rows_of_epoch, "budget": Budget(epochs=2, batch_size=4)}
    undisturbed = train(nets(0), data, **options)
    assert_identical(undisturbed, cut_everywhere(nets(0), data, tmp_path, **options))


def test_another_start_is_another_training(tmp_path):
    """Given weights are part of what a checkpoint belongs to."""
    data, asked = examples(), nets(0)
    (trained, _) = train(asked, data, budget=Budget(epochs=1))
    given = {("taught", 0): trained.tensors}
    with pytest.raises(TrainingStopped):
        train(asked, data, checkpoints=tmp_path, should_stop=StopAfter(1))
    fresh = train(asked, data, initial=given)
    assert_identical(fresh, train(asked, data, initial=given, checkpoints=tmp_path))


# --- how fine a checkpoint is ------------------------------------------------------------------------------


def positions(folder):
    return [
        (manifest["epoch"], manifest["step"])
        for path in sorted(folder.glob("*.json"))
        for manifest in [json.loads(path.read_text())["state"]]
    ]


def test_a_checkpoint_is_written_within_an_epoch_where_it_is_time(tmp_path):
    """The process dies without a word in the middle of the first epoch, and goes on from there."""

    class Killed(Exception):
        pass

    questions = 0

    def killed_at_the_fifth_question():
        nonlocal questions
        questions += 1
        if questions == 5:
            raise Killed
        return False

    data, asked = examples(views=None), teachers(0, 1)
    options = {"regularisation": REGULARISED, "budget": WITHIN, "checkpoints": tmp_path}
    with pytest.raises(Killed):
        train(asked, data, checkpoint_every_s=1e-6, should_stop=killed_at_the_fifth_question, **options)
    written = positions(tmp_path)
    # A slow disk may have had less; every one is of the first epoch.
    assert written
    assert {epoch for epoch, _ in written} == {0}
    resumed = train(asked, data, **options)
    assert_identical(train(asked, data, regularisation=REGULARISED, budget=WITHIN), resumed)


def test_checkpoints_after_every_epoch_are_none_within_one(tmp_path):
    train(nets(0), examples(), budget=WITHIN, checkpoints=tmp_path, checkpoint_every_s=0.0)
    assert positions(tmp_path) == [(1, 0), (2, 0)]


def test_what_a_refresh_returned_is_kept_for_the_whole_epoch(tmp_path):
    """It is part of no checkpoint, so that none is written within an epoch unless training is stopped."""
    data = examples(views=1)
    train(
        nets(0),
        data,
        budget=WITHIN,
        checkpoints=tmp_path,
        checkpoint_every_s=1e-6,
        refresh=lambda _epoch, _nets: data.teacher_logits,
    )
    assert {step for _, step in positions(tmp_path)} == {0}


def test_steps_that_take_long_are_asked_about_one_by_one(monkeypatch):
    """A stop waits for a block of steps, which may not take as long as 48 of a large net."""
    taken, at_question = 0, []
    step = NetStack.step

    def slow(stack, batch, **where):
        nonlocal taken
        taken += 1
        time.sleep(0.06)
        step(stack, batch, **where)

    def ask():
        at_question.append(taken)
        return False

    monkeypatch.setattr(rounds, "_SECONDS_BETWEEN_QUESTIONS", 0.05)
    monkeypatch.setattr(NetStack, "step", slow)
    train(teachers(0), examples(views=None), budget=Budget(epochs=1, batch_size=32), should_stop=ask)
    assert at_question == list(range(7))


def test_training_goes_on_with_the_threads_that_it_began_with(tmp_path, monkeypatch):
    """Sums of another number of threads differ in their last bits."""
    before = torch.get_num_threads()
    seen = []
    monkeypatch.setattr("os.cpu_count", lambda: 64)

    def stop_once():
        seen.append(torch.get_num_threads())
        return len(seen) == 2

    try:
        torch.set_num_threads(2)
        with pytest.raises(TrainingStopped):
            train(teachers(0), examples(views=None), checkpoints=tmp_path, should_stop=stop_once)
        torch.set_num_threads(1)
        train(teachers(0), examples(views=None), checkpoints=tmp_path, should_stop=stop_once)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {2}


def test_a_machine_with_fewer_cpus_keeps_its_own_threads_and_says_so(monkeypatch, caplog):
    own = torch.get_num_threads()
    monkeypatch.setattr("os.cpu_count", lambda: own)
    with threads_as_before(own + 1, torch.device("cpu")) as threads:
        assert threads == torch.get_num_threads() == own
    (told,) = caplog.records
    assert (told.threads, told.before) == (own, own + 1)


def test_threads_of_a_cpu_do_not_matter_on_a_gpu(caplog):
    own = torch.get_num_threads()
    with threads_as_before(own + 1, torch.device("cuda")) as threads:
        assert threads == torch.get_num_threads() == own
    assert not caplog.records
