"""A training process that costs 30 ms: it speaks `services.worker.protocol` by hand and imports little.

It works its spec's `epochs`, 50 ms each, with a checkpoint after every one, and leaves an artefact whose name
carries job and epoch, made once: a second maker under one epoch would fail. All it says carries its epoch, so
that whatever a stale process wrote can be told. A job called `poison…` kills its process.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

STEP_S = 0.05
STOPPED = 75


def say(**message: object) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def newest_checkpoint(place: Path) -> int:
    """Return how many steps are done; the name of a checkpoint begins with that."""
    return max((int(file.name.split("-")[0]) for file in place.glob("*.json")), default=0)


def main() -> int:
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    order = json.loads(sys.stdin.readline())
    job, epoch = order["job_id"], order["epoch"]
    state = Path(os.environ["IMAGO_STATE_DIR"])
    running = state / "running" / str(os.getpid())
    running.parent.mkdir(exist_ok=True)
    running.write_text(job)
    if order["spec"]["name"].startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    checkpoints = state / "checkpoints" / job
    checkpoints.mkdir(parents=True, exist_ok=True)
    done, total = newest_checkpoint(checkpoints), order["spec"]["budget"]["epochs"]
    say(note=f"epoch {epoch} from {done} of {total}")
    while done < total:
        if stop:
            return STOPPED
        time.sleep(STEP_S)
        done += 1
        new = checkpoints / f"{done}-{epoch}.new"
        new.write_text(str(done))
        new.replace(new.with_suffix(".json"))
        metrics = {"epoch": epoch}
        say(progress={"stage": "train", "done": done, "total": total, "unit": "epochs", "metrics": metrics})
    artefacts = state / "artefacts"
    artefacts.mkdir(exist_ok=True)
    with (artefacts / f"{job}-{epoch}").open("x") as artefact:
        artefact.write(str(os.getpid()))
    say(result={"artefact": f"{job}-{epoch}"})
    running.unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
