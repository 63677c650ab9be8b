"""The training process as its supervisor sees it: started, listened to, stopped, and cleared away."""

import logging
import os
import selectors
import signal
import subprocess
import sys
from tempfile import TemporaryFile
from types import TracebackType

from pydantic import ValidationError

from services.worker.protocol import LONGEST_LINE_BYTES, ChildMessage, ChildOrder, to_line

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_SAFE_PATH = ["-P"] if sys.flags.safe_path else []
"""A worker that does not import from the working directory has children that do not either."""


class TrainingProcess:
    """One child in a process group of its own. Leaving the `with` block leaves nothing of it behind."""

    def __init__(self, module: str, order: ChildOrder, threads: int | None = None) -> None:
        """Start `module` and give it the order; `threads` bounds its CPU threads where given.

        Raises:
            OSError: no process can be started, such as for lack of memory, descriptors or room in TMPDIR.
        """
        # A library that would ask the Hugging Face hub asks nobody, unless the worker's own says otherwise.
        environment = {"HF_HUB_OFFLINE": "1", **os.environ}
        if threads is not None:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        # Before there is a process: what is not there is told before one would have to be cleared away.
        self._selector = selectors.DefaultSelector()
        try:
            self._process = self._started(module, order, environment)
        except BaseException:
            self._selector.close()
            raise
        stdout = self._process.stdout
        assert stdout is not None
        self._stdout = stdout
        os.set_blocking(stdout.fileno(), False)
        self._selector.register(stdout, selectors.EVENT_READ)
        self._lines = Lines()
        self._open = True

    @staticmethod
    def _started(module: str, order: ChildOrder, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        # A file and not a pipe: a pipe holds 64 KiB, and the child reads only once its imports are done.
        with TemporaryFile() as stdin:
            stdin.write(to_line(order))
            stdin.seek(0)
            return subprocess.Popen(  # noqa: S603 - our own module, named by a checked setting
                [sys.executable, *_SAFE_PATH, "-m", "services.worker.launch", str(os.getpid()), module],
                stdin=stdin,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )

    def __enter__(self) -> "TrainingProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.wait()
        self._selector.close()
        self._stdout.close()

    @property
    def pid(self) -> int:
        """The child's process id, which is its group's, too."""
        return self._process.pid

    def read(self, timeout_s: float) -> list[ChildMessage]:
        """Return what the child said, waiting up to `timeout_s` for it to say something."""
        # With the pipe closed nothing is registered, and this only waits for the end of the process.
        return self._drain() if self._selector.select(timeout_s) else []

    def exited(self) -> bool:
        """Tell whether the child has ended. It is not reaped yet, so its group's number stays its own."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> tuple[list[ChildMessage], int]:
        """Return the last messages and the exit status of a child that has exited; negative is a signal."""
        messages = self._drain() if self._open else []
        # Helpers of the child, such as data loaders, end with it.
        self.kill()
        return messages, self._process.wait()

    def stop(self) -> None:
        """Ask the child to make a checkpoint and leave."""
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the child and all it started."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)

    def _drain(self) -> list[ChildMessage]:
        messages: list[ChildMessage] = []
        while True:
            try:
                chunk = os.read(self._stdout.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                break
            if not chunk:
                self._open = False
                self._selector.unregister(self._stdout)
                break
            messages += self._lines.feed(chunk)
        return messages


class Lines:
    """Lines out of chunks, wherever those end; of one over `LONGEST_LINE_BYTES` nothing is kept or heard."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._dropped_bytes = 0

    def feed(self, chunk: bytes) -> list[ChildMessage]:
        """Return the messages that end in `chunk`."""
        messages = []
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._append(end)
            if self._dropped_bytes:
                log.warning("dropped a line that is too long", extra={"bytes": self._dropped_bytes})
            elif (message := _parsed(bytes(self._line))) is not None:
                messages.append(message)
            self._line.clear()
            self._dropped_bytes = 0
        self._append(rest)
        return messages

    def _append(self, part: bytes) -> None:
        if self._dropped_bytes or len(self._line) + len(part) > LONGEST_LINE_BYTES:
            self._dropped_bytes += len(self._line) + len(part)
            self._line.clear()
        else:
            self._line += part


def _parsed(line: bytes) -> ChildMessage | None:
    try:
        return ChildMessage.model_validate_json(line)
    except ValidationError as error:
        log.warning(
            "the training process said something that is no message",
            extra={"line": line[:500].decode(errors="replace"), "reason": str(error.errors()[0]["msg"])},
        )
        return None


def cause_of_death(status: int) -> str:
    """Say in words how a process ended that was not meant to end that way."""
    if status >= 0:
        return f"the training process ended with exit status {status}"
    name = signal.Signals(-status).name
    hint = ", as the kernel does where memory runs out" if -status == signal.SIGKILL else ""
    return f"the training process was killed by {name}{hint}"
