"""Training goes on from where it was: whatever kills a save, and at whatever step training is cut."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.worker.training_process import be_deterministic
from shared.contracts.architectures import ResNet
from shared.contracts.training import Budget, Hint, Objective, Regularisation
from shared.distillation import rounds
from shared.distillation.cohort import Net, TrainedNet, TrainingStopped, train_cohort
from shared.distillation.nets import HARD_LABELS
from tests.chaos import saving
from tests.support.cohorts import (
    ARCHITECTURE,
    CLASSES,
    PREPROCESSING,
    REGULARISED,
    TAUGHT,
    examples,
    nets,
    peers,
    teacher_features,
    teachers,
)

ROOT = Path(__file__).resolve().parents[2]


# --- killed while saving -----------------------------------------------------------------------------------


@contextmanager
def nursery(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.saving", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()


def cut_a_save(process: "subprocess.Popen[bytes]", saves: int, pause_s: float) -> int:
    """Let it save so often and then a moment longer; kill it. Return the newest number it acknowledged."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    pid = int(process.stdout.readline().split()[1])
    acknowledged = 0
    for _ in range(saves):
        acknowledged = int(process.stdout.readline())
    time.sleep(pause_s)
    os.kill(pid, signal.SIGKILL)
    while (line := process.stdout.readline()) != b"dead\n":
        acknowledged = int(line)
    return acknowledged


def test_a_kill_in_the_middle_of_a_save_costs_at_most_that_save(
    tmp_path: Path, sized: Callable[[int, int], int], told: Callable[..., None]
) -> None:
    kills = sized(8, 200)
    generator = random.Random(6)
    folder = tmp_path / "checkpoints"
    with nursery(folder) as process:
        began = time.monotonic()  # with all imports done: how long a save takes, and nothing else
        acknowledged = cut_a_save(process, 10, 0)
        save_s = (time.monotonic() - began) / 10
        unreadable = older = cuts = 0
        for _ in range(kills):
            acknowledged = max(
                acknowledged, cut_a_save(process, generator.randrange(2), generator.uniform(0, 2 * save_s))
            )
            cuts += _was_cut(folder)
            found = saving.newest(folder)
            unreadable += found == 0
            older += found < acknowledged
    told(
        2,
        f"{kills} kill -9 while saving a checkpoint",
        f"{unreadable} unreadable, {older} older than acknowledged; {cuts} cut a save in two",
        "0 unreadable, 0 older",
        held=unreadable == older == 0,
    )
    assert cuts > 0, "no kill came in the middle"
    # What the killed left does not pile up: two checkpoints, and one cut save.
    assert len(list(folder.iterdir())) <= 6


def _was_cut(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    manifests = {name[:8] for name in names if name.endswith(".json")}
    return any(name.endswith(".tmp") or name[:8] not in manifests for name in names)


# --- cut at every step -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A kind of training with state of its own."""

    nets: list[Net]
    views: int | None = None
    options: dict[str, Any] | None = None
    deterministic: bool = False


SHORT = Budget(epochs=2, batch_size=20, learning_rate=1e-2)
"""20 steps; the rate falls along a cosine through all of them."""
MOMENTUM = SHORT.model_copy(update={"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01})
HINTED = Objective(
    temperature=4.0,
    soft_weight=0.5,
    hard_weight=0.5,
    alternate=True,
    hint=Hint(weight=2.0, student_layer="hidden.0", teacher_layer="hidden.1"),
)

FAMILIES = {
    "plain": Family(teachers(0)),
    "dropout, max-norm, jitter, flips": Family(
        teachers(0, 1), options={"regularisation": REGULARISED.model_copy(update={"flip": True})}
    ),
    "momentum, weight decay": Family(teachers(0), options={"budget": MOMENTUM}),
    "taught on three views, and its twin": Family(nets(0), views=3),
    "hints, in turn with labels": Family(
        [Net("taught", 0, HINTED), Net("untaught", 0, HARD_LABELS)],
        views=1,
        options={"teacher": teacher_features},
    ),
    "peers": Family(peers(0), options={"regularisation": Regularisation(hidden_dropout=0.2)}),
    "a ResNet in bfloat16": Family(
        [Net("taught", 0, TAUGHT)],
        views=1,
        options={
            "architecture": ResNet(architecture="resnet8"),
            "budget": SHORT.model_copy(update={"precision": "bfloat16", "batch_size": 50}),
        },
    ),
    "deterministic algorithms": Family(nets(0), views=1, deterministic=True),
}


def train(family: Family, folder: Path | None = None, **hooks: Any) -> tuple[TrainedNet, ...]:
    given = {"budget": SHORT, "classes": CLASSES, "preprocessing": PREPROCESSING, **(family.options or {})}
    if "teacher" in given:
        given["teacher"] = given["teacher"]()
    architecture = given.pop("architecture", ARCHITECTURE)
    return train_cohort(
        architecture, family.nets, examples(views=family.views), checkpoints=folder, **given, **hooks
    )


def figures_of(trained: tuple[TrainedNet, ...]) -> list[object]:
    """Return all that a training left but its seconds, bit for bit."""
    return [
        (
            net.arm,
            net.best_epoch,
            net.validation_accuracy,
            [(point.loss, point.validation_accuracy) for point in net.curve.points],
            {name: tensor.numpy().tobytes() for name, tensor in net.tensors.items()},
        )
        for net in trained
    ]


class Killed(Exception):
    """The process is gone: nothing is written any more."""


def forget_all_generators(seed: int) -> None:
    """Leave every generator of the process as another process might have it."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def cut_at(step: int, how: type[Exception]) -> Callable[[], bool]:
    """Return a question that is answered with a stop, or a death, before that step (counted from 0)."""
    asked = -1

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == step and how is Killed:
            raise Killed
        return asked == step

    return should_stop


@pytest.fixture
def a_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask before every step whether to stop."""
    monkeypatch.setattr(rounds, "_STEPS_BETWEEN_QUESTIONS", 1)


@pytest.fixture
def algorithms() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("a_step_at_a_time", "algorithms")
@pytest.mark.parametrize("how", [TrainingStopped, Killed])
def test_a_training_that_is_cut_at_any_step_ends_as_the_undisturbed_one(
    how: type[Exception],
    tmp_path: Path,
    sized: Callable[[Any, Any], Any],
    told: Callable[..., None],
) -> None:
    """Stopped: it writes a checkpoint there. Killed: it goes on from one that time had it write before."""
    cuts = identical = 0
    for name in sized(["plain", "dropout, max-norm, jitter, flips"], list(FAMILIES)):
        family = FAMILIES[name]
        if family.deterministic:
            be_deterministic()
        steps = []
        expected = figures_of(train(family, should_stop=lambda: steps.append(1) or False))  # noqa: B023
        for step in sized([1, len(steps) // 2, len(steps) - 1], range(len(steps))):
            folder = tmp_path / name / str(step)
            with pytest.raises(how):
                train(family, folder, should_stop=cut_at(step, how), checkpoint_every_s=1e-6)
            forget_all_generators(step)
            found = figures_of(train(family, folder, checkpoint_every_s=1e-6))
            cuts += 1
            identical += found == expected
    told(
        2,
        f"trainings {'stopped' if how is TrainingStopped else 'killed'} at every step, then resumed",
        f"{identical} of {cuts} bit-identical",
        "all",
        held=identical == cuts,
    )
