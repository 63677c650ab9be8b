"""Promotions under load: connections that never stop asking, and check that each answer is from one student.

What each student says of each image is known before: an answer that names one student and has the class or
the probability of another, or of another image, is a mixed one.
"""

import asyncio
import hashlib
import itertools
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import save

from shared.artefacts.store import ArtefactStore
from shared.contracts.students import SAMPLES, BundleFile
from shared.datasets.images import ImageLimits
from shared.serving.images import EncodedImage, pixels, stacked
from shared.serving.session import StudentSession
from tests.support.gateway_in_process import image_file
from tests.support.student_bundles import DIGIT_INPUT, card, mlp_onnx, write_bundle

_IMAGES = 16
_TOP = 3
_TOLERANCE = 1e-4
"""Of a probability: six decimals are sent, and a batch may round otherwise."""
_DEADLINE_S = 30.0
"""Until every connection has heard of a promotion; far more than a busy machine needs."""


Said = tuple[tuple[str, float], ...]
"""The most probable classes of an image, and their probabilities."""


@dataclass(frozen=True)
class Students:
    """Students in a store, the first of them live, and what they say."""

    versions: tuple[str, ...]
    corrupt: tuple[str, ...]
    images: tuple[bytes, ...]
    expected: dict[str, tuple["Said", ...]]
    """By version, for each image."""


def publish_students(store: ArtefactStore, *, good: int = 3, hidden: tuple[int, ...] = (16,)) -> Students:
    """Publish students that differ in what they say, and one broken in each way that is known."""
    images = tuple(image_file(seed=seed) for seed in range(_IMAGES))
    limits = ImageLimits(size_bytes=2**20, pixels=2**20)
    decoded = stacked([pixels(EncodedImage(image), DIGIT_INPUT, limits) for image in images], DIGIT_INPUT)
    expected = {}
    for seed in range(good):
        version = f"digits-{seed}"
        model = mlp_onnx(hidden=hidden, seed=seed)
        store.students.publish(version, partial(_write, version=version, model=model, hidden=hidden))
        session = StudentSession.load(store.students.directory(version))
        expected[version] = tuple(
            tuple((session.classes[i], float(row[i])) for i in np.argsort(-row)[:_TOP])
            for row in session.probabilities(decoded)
        )
    said = [answer for answers in expected.values() for answer in answers]
    for one, other in itertools.combinations(said, 2):
        assert not _alike(one, other, 2 * _TOLERANCE), "a mixed answer could not be told"
    store.students.promote("digits-0")
    corrupt = tuple(f"broken-{kind}" for kind in _BROKEN)
    for version, build in zip(corrupt, _BROKEN.values(), strict=True):
        store.students.publish(version, partial(build, version=version))
    model_file = store.students.file("broken-cut", "model.onnx")
    model_file.write_bytes(model_file.read_bytes()[:-100])
    return Students(tuple(expected), corrupt, images, expected)


@dataclass
class Outcome:
    """What the connections and the promoter saw."""

    promoted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Codes of the refusals."""
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    by_version: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_s: float = 0.0
    followed_s: list[float] = field(default_factory=list)
    """From the answer to a promotion until every connection was answered by the promoted student."""


async def promote_under_load(
    port: int, students: Students, *, connections: int, promotions: int, corrupt: int
) -> Outcome:
    """Promote one student after the other, some of them corrupt, while connections ask without a pause.

    Args:
        port: of a gateway, of one process or of several.
        students: in its store.
        connections: that ask, each for one image at a time.
        promotions: how many, with the corrupt ones.
        corrupt: how many of them are of a corrupt bundle, evenly spread.

    Raises:
        AssertionError: a promotion was not answered as it must be.
        TimeoutError: a connection never heard of a promotion.
    """
    load = _Load(port, students, connections)
    asking = [asyncio.create_task(load.ask_on(number)) for number in range(connections)]
    outcome = load.outcome
    bad = itertools.cycle(students.corrupt)
    good = itertools.cycle(students.versions[1:] + students.versions[:1])
    began = time.monotonic()
    try:
        await load.until_all_are_answered_by(students.versions[0])
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_DEADLINE_S) as client:
            for number in range(promotions):
                if (number + 1) * corrupt // promotions > number * corrupt // promotions:
                    answer = await client.post(f"/v1/students/{next(bad)}/promote")
                    assert answer.status_code == 409, answer.text
                    outcome.refused[answer.json()["code"]] += 1
                    continue
                version = next(good)
                answer = await client.post(f"/v1/students/{version}/promote")
                assert answer.status_code == 200, answer.text
                outcome.promoted += 1
                moved = time.monotonic()
                await load.until_all_are_answered_by(version)
                outcome.followed_s.append(time.monotonic() - moved)
    finally:
        load.stopping = True
        await asyncio.gather(*asking)
        outcome.seconds = time.monotonic() - began
    return outcome


class _Load:
    def __init__(self, port: int, students: Students, connections: int) -> None:
        self.outcome = Outcome()
        self.stopping = False
        self._port = port
        self._students = students
        self._last: list[str] = [""] * connections
        self._requests = [
            b"POST /v1/predictions?top=%d HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (_TOP, len(image), image)
            for image in students.images
        ]

    async def ask_on(self, number: int) -> None:
        """Ask on one connection until it is enough; a connection that breaks is a failure."""
        order = itertools.cycle(range(len(self._requests)))
        for _ in range(number):
            next(order)
        while not self.stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    while not self.stopping:
                        image = next(order)
                        began = time.monotonic()
                        writer.write(self._requests[image])
                        head = await reader.readuntil(b"\r\n\r\n")
                        length = re.search(rb"content-length: (\d+)", head)
                        assert length is not None
                        text = await reader.readexactly(int(length[1]))
                        self._last[number] = self._take(head, text, image, time.monotonic() - began)
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError) as error:
                self.outcome.failed.append(repr(error))

    async def until_all_are_answered_by(self, version: str) -> None:
        async with asyncio.timeout(_DEADLINE_S):
            while any(last != version for last in self._last):
                await asyncio.sleep(0.002)

    def _take(self, head: bytes, text: bytes, image: int, took_s: float) -> str:
        outcome = self.outcome
        outcome.requests += 1
        outcome.slowest_s = max(outcome.slowest_s, took_s)
        named = re.search(rb"x-student-version: (\S+)", head)
        if not head.startswith(b"HTTP/1.1 200") or named is None:
            outcome.failed.append((head + text).decode("utf-8", "replace"))
            return ""
        version = named[1].decode()
        answer = json.loads(text)
        said = tuple((one["name"], one["probability"]) for one in answer["predictions"][0]["classes"])
        expected = self._students.expected.get(version)
        if answer["student"] != version or expected is None or not _alike(said, expected[image], _TOLERANCE):
            outcome.mixed.append(f"{version} named, and answered {text.decode()}")
        outcome.by_version[version] += 1
        return version


def _alike(one: Said, other: Said, tolerance: float) -> bool:
    return all(
        name == named and math.isclose(probability, given, abs_tol=tolerance)
        for (name, probability), (named, given) in zip(one, other, strict=True)
    )


# --- bundles that are broken, each in its way ---------------------------------------------------------------


def _write(at: Path, version: str, model: bytes, hidden: tuple[int, ...]) -> None:
    write_bundle(at, version, model, hidden=hidden)


def _without_graph(at: Path, version: str) -> None:
    write_bundle(at, version, b"this was a graph")


def _cut(at: Path, version: str) -> None:
    write_bundle(at, version)  # the file is cut short once it is published


def _tempered(at: Path, version: str) -> None:
    write_bundle(at, version, mlp_onnx(temperature=3.0))


def _lacking_a_class(at: Path, version: str) -> None:
    write_bundle(at, version, mlp_onnx(classes=9))


def _with_other_samples(at: Path, version: str) -> None:
    model = mlp_onnx(seed=7)
    probabilities = np.full((2, 10), 0.1, np.float32)
    samples = save({"images": np.zeros((2, 28, 28, 1), np.uint8) + 9, "probabilities": probabilities})
    files = {"model.onnx": model, SAMPLES: samples}
    for name, content in files.items():
        (at / name).write_bytes(content)
    listed = {
        name: BundleFile(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for name, content in files.items()
    }
    described = card(version, model).model_copy(update={"files": listed})
    (at / "card.json").write_text(described.model_dump_json())


_BROKEN: dict[str, Callable[..., None]] = {
    "cut": _cut,
    "graph": _without_graph,
    "temperature": _tempered,
    "classes": _lacking_a_class,
    "samples": _with_other_samples,
}
