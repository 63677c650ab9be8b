"""The real training process, broken by the name of its job: `nan-7`, `cuda-7`, `host-7`, `kill-7`, `hog-600`.

At that step (counted from 0, over all epochs) a weight becomes NaN, CUDA or the machine has no memory left,
or the process is killed; `hog` takes so many MiB in its first step. `halt` notes its process id and stops
(SIGSTOP) where it is about to export what it trained. Any other name trains as it should. Run by a worker as
its training module, or imported by a warm server of training processes.
"""

import os
import signal
import time

import torch

from services.worker import training_process
from services.worker.protocol import ChildMessage
from services.worker.stages.context import JobContext
from shared.contracts.jobs import JobResult, Stage
from shared.distillation.stack import NetStack

run = training_process.run
step = NetStack.step
KEPT: list[bytearray] = []


def broken(context: JobContext) -> JobResult:
    how, _, number = context.order.spec.name.partition("-")
    taken = 0

    def broken_step(stack: NetStack, *given: object, **where: object) -> None:
        nonlocal taken
        if how == "hog" and taken == 0:
            hold(int(number))
        if taken == (int(number) if number.isdigit() else None):
            break_it(how, stack)
        taken += 1
        step(stack, *given, **where)  # type: ignore[arg-type]

    NetStack.step = broken_step  # type: ignore[method-assign, assignment]
    if how == "halt":
        halt_before_export(context)
    return run(context)


def break_it(how: str, stack: NetStack) -> None:
    if how == "nan":
        with torch.no_grad():
            next(iter(stack.weights.values())).view(-1)[0] = float("nan")
    elif how == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    elif how == "host":
        torch.empty(1 << 50)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def halt_before_export(context: JobContext) -> None:
    send = context.send

    def send_and_halt(message: ChildMessage) -> None:
        send(message)
        told = message.progress
        if told is not None and (told.stage, told.done) == (Stage.EXPORT, 0):
            send(ChildMessage(note=str(os.getpid())))
            os.kill(os.getpid(), signal.SIGSTOP)

    context.send = send_and_halt


def hold(mebibytes: int) -> None:
    """Take memory piece by piece, as a training does that grows; whoever watches has time to see it."""
    for _ in range(0, mebibytes, 20):
        KEPT.append(bytearray(b"x") * (20 << 20))
        time.sleep(0.02)


training_process.run = broken

if __name__ == "__main__":
    raise SystemExit(training_process.main())
