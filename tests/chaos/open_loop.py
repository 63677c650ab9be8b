"""Sends requests at a rate that does not wait for answers, as a process of its own.

It reads its orders as JSON on standard input and prints what came back as JSON: so that what it costs is not
counted as the gateway's, nor its turns as delays of whoever measures beside it.
"""

import contextlib
import heapq
import json
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Answers:
    """What came back: by status, and what a refusal must have and had not."""

    statuses: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    without_retry_after: int = 0
    seconds: float = 0.0


class Connection:
    """Keeps one connection and one request in flight; `due` is when the next is to be sent."""

    def __init__(self, port: int, due: float) -> None:
        self.port, self.due = port, due
        self.received = bytearray()
        self.waits = False
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer(self) -> tuple[int, bytes] | None:
        """Take what arrived; return status and head of an answer that is complete."""
        chunk = self.socket.recv(65_536)
        if not chunk:
            raise ConnectionError("closed before it answered")
        self.received += chunk
        head, found, body = bytes(self.received).partition(b"\r\n\r\n")
        if not found:
            return None
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < length:
            return None
        self.received.clear()
        self.waits = False
        return int(head.split(b" ", 2)[1]), head


def run(port: int, request: bytes, connections: int, rate: float, seconds: float) -> Answers:
    """Send `rate` requests a second over so many connections; at 0 as fast as they are answered."""
    answers = Answers()
    interval = connections / rate if rate else 0.0
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        waiting: list[tuple[float, int]] = []
        made: list[Connection] = []
        for number in range(connections):
            made.append(Connection(port, began + interval * number / connections))
            selector.register(made[-1].socket, selectors.EVENT_READ, number)
            heapq.heappush(waiting, (made[-1].due, number))
        while (now := time.perf_counter()) < began + seconds:
            while waiting and waiting[0][0] <= now:
                number = heapq.heappop(waiting)[1]
                made[number].waits = True
                with contextlib.suppress(OSError):  # what was wrong is told where it is read
                    made[number].socket.sendall(request)
                made[number].due += interval
            pause = min(waiting[0][0] - now, 0.05) if waiting else 0.05
            for key, _ in selector.select(max(pause, 0)):
                number = key.data
                try:
                    found = made[number].answer()
                except OSError as error:
                    if made[number].waits:
                        answers.broken.append(repr(error))
                        heapq.heappush(waiting, (made[number].due, number))
                    # Else it was closed for having been idle, as every server does.
                    selector.unregister(made[number].socket)
                    made[number].socket.close()
                    made[number] = Connection(port, made[number].due)
                    selector.register(made[number].socket, selectors.EVENT_READ, number)
                    continue
                if found is not None:
                    status, head = found
                    answers.statuses[str(status)] += 1
                    answers.without_retry_after += status in (429, 503) and b"retry-after:" not in head
                    heapq.heappush(waiting, (made[number].due, number))
        answers.seconds = time.perf_counter() - began
        for one in made:
            one.socket.close()
    return answers


def start(
    port: int, request: bytes, connections: int, rate: float, seconds: float
) -> "subprocess.Popen[str]":
    """Start it as a process of its own."""
    process = subprocess.Popen(
        # Whoever sends too much has cores of their own elsewhere: here they must not take the gateway's.
        ["nice", "-n", "10", sys.executable, "-m", "tests.chaos.open_loop"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    order = {"port": port, "connections": connections, "rate": rate, "seconds": seconds}
    process.stdin.write(json.dumps({**order, "request": request.hex()}) + "\n")
    process.stdin.flush()
    return process


def result(process: "subprocess.Popen[str]") -> Answers:
    """Wait for its end; return what it was answered."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found: dict[str, Any] = json.loads(said)
    return Answers(**found | {"statuses": Counter(found["statuses"])})


def main() -> None:
    """Read the orders, obey, and print what came of it."""
    orders = json.loads(sys.stdin.readline())
    answers = run(**orders | {"request": bytes.fromhex(orders["request"])})
    print(json.dumps(vars(answers)))


if __name__ == "__main__":
    main()
