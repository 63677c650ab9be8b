"""A training process for tests: it speaks the real protocol and does what the job's name says.

quick: succeeds at once.
slow: counts to its epochs, one each 0.1 s; makes a checkpoint and leaves on SIGTERM.
deaf: the same, but ignores SIGTERM and has a helper process.
lingering: sends its result on SIGTERM, and does not find its end.
poison: kills itself.
wrong: sends a failure.
chatty: says things that are no message, then succeeds.
candid: says what it was given about the hub, then succeeds.
parent: makes three children that are slow for its epochs each, waits for them, and succeeds with their names.
grieving: makes a child that is wrong and two that are slow, and fails with the child's reason.
later: finds at its first attempt what it needs away, and succeeds at its second.
hasty: leaves to wait for children that it never asked for.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.worker.protocol import (
    EXIT_FAILED,
    EXIT_LATER,
    EXIT_STOPPED,
    EXIT_SUCCEEDED,
    EXIT_WAITING,
    ChildMessage,
    ChildOrder,
    to_line,
)
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext, JobWaits
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import Failure, JobResult, Progress, Stage
from shared.errors import ChildFailed
from shared.settings import load

STEP_S = 0.1


def say(message: ChildMessage) -> None:
    sys.stdout.buffer.write(to_line(message))
    sys.stdout.buffer.flush()


def count(order: ChildOrder, checkpoint: Path, *, deaf: bool) -> int:
    stop = False

    def on_sigterm(*_: object) -> None:
        nonlocal stop
        stop = not deaf

    signal.signal(signal.SIGTERM, on_sigterm)
    total = order.spec.budget.epochs
    done = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
    say(ChildMessage(note=f"from {done}"))
    # A helper as a data loader is one: it must not outlive the process either.
    helpers = [subprocess.Popen(["sleep", "600"])] if deaf else []
    pids = checkpoint.with_suffix(".pids")
    pids.with_suffix(".new").write_text(json.dumps([os.getpid(), *(helper.pid for helper in helpers)]))
    pids.with_suffix(".new").replace(pids)
    while done < total:
        if stop and order.spec.name == "lingering":
            say(ChildMessage(result=JobResult(teacher=order.spec.name)))
            time.sleep(600)
        if stop:
            checkpoint.write_text(json.dumps(done))
            return EXIT_STOPPED
        time.sleep(STEP_S)
        done += 1
        say(ChildMessage(progress=Progress(stage=Stage.TRAIN, done=done, total=total, unit="epochs")))
    say(ChildMessage(result=JobResult(teacher=order.spec.name)))
    return EXIT_SUCCEEDED


def make_children(order: ChildOrder, settings: WorkerSettings, names: list[str]) -> int:
    context = JobContext(order, settings, ArtefactStore(settings.store_dir), say)
    try:
        ended = context.children([order.spec.model_copy(update={"name": name}) for name in names])
    except JobWaits:
        return EXIT_WAITING
    except ChildFailed as error:
        say(ChildMessage(failure=Failure(code=error.code, detail=str(error), remedy=error.remedy)))
        return EXIT_FAILED
    taught = [child.result.teacher for child in ended if child.result is not None]
    say(ChildMessage(result=JobResult(teacher="-".join(map(str, taught)))))
    return EXIT_SUCCEEDED


def main() -> int:
    settings = load(WorkerSettings)
    order = ChildOrder.model_validate_json(sys.stdin.readline())
    name = order.spec.name.split("-")[0]
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    if name == "poison":
        say(ChildMessage(progress=Progress(stage=Stage.TRAIN, done=0, total=1, unit="epochs")))
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "wrong":
        say(ChildMessage(failure=Failure(code="diverged", detail="the loss is nan in epoch 2")))
        return EXIT_FAILED
    if name == "chatty":
        sys.stdout.write("loading…\n{}\n" + "x" * (3 << 20) + "\n")
        sys.stdout.flush()
    if name == "candid":
        say(ChildMessage(note=f"offline: {os.environ.get('HF_HUB_OFFLINE')}"))
    if name == "parent":
        return make_children(order, settings, ["slow-0", "slow-1", "slow-2"])
    if name == "grieving":
        return make_children(order, settings, ["slow-0", "wrong-1", "slow-2"])
    if name == "hasty":
        return EXIT_WAITING
    if name == "later" and order.epoch == 1:
        say(ChildMessage(note="the teacher does not answer"))
        return EXIT_LATER
    if name in ("slow", "deaf", "lingering"):
        return count(order, settings.state_dir / f"{order.job_id}.json", deaf=name == "deaf")
    say(ChildMessage(progress=Progress(stage=Stage.CHECK, done=1, total=1, unit="checks")))
    say(ChildMessage(result=JobResult(teacher=order.spec.name)))
    return EXIT_SUCCEEDED


if __name__ == "__main__":
    raise SystemExit(main())
