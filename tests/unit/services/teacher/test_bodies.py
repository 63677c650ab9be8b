"""Safetensors bodies: one tensor of the right size, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator

import numpy as np
import psutil
import pytest
from safetensors.numpy import save

from services.teacher.bodies import pixels_of, read
from shared.errors import InputMismatch, MalformedBody, NoImages, TooManyImages
from tests.support.teachers import INPUT, random_images

IMAGES = random_images(3)
MOST = 10


def written(header: object, data: bytes = IMAGES.tobytes()) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: object) -> dict[str, object]:
    return {"images": {"dtype": "U8", "shape": [3, 6, 5, 1], "data_offsets": [0, 90]} | changes}


def test_what_safetensors_writes_is_read_back():
    found = pixels_of(save({"images": IMAGES}, {"some": "metadata"}), INPUT, MOST)
    np.testing.assert_array_equal(found, IMAGES)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 100,
        (2**63).to_bytes(8, "little") + b"{}",
        written(b"not json"),
        written(b"[" * 5000),
        written(b'"text"'),
        written(b"\xff\xfe\xfd"),
        written({}),
        written({"images": 7}),
        written({"pictures": entry()["images"]}),
        written({**entry(), "more": entry()["images"]}),
        written(entry(shape=[3, 6, 5, 1.0])),
        written(entry(shape=[3, 6, 5, True])),
        written(entry(shape=[-3, 6, 5, 1])),
        written(entry(shape="3651")),
        written(entry(shape=None)),
        written(entry(data_offsets=[0, 89])),
        written(entry(data_offsets=[1, 91])),
        written(entry(data_offsets=None)),
        written(entry(shape=[2, 6, 5, 1])),
        written(entry(shape=[10**30, 6, 5, 1])),
        written(entry(), IMAGES.tobytes() + b"x"),
        written(entry(), IMAGES.tobytes()[:-1]),
        written(b" " * 70_000 + json.dumps(entry()).encode()),
        save({"images": IMAGES, "labels": np.zeros(3, np.uint8)}),
    ],
    ids=range(26),
)
def test_a_body_that_is_not_exactly_that_file_is_malformed(body):
    with pytest.raises(MalformedBody):
        pixels_of(body, INPUT, MOST)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.astype(np.float32),
        IMAGES.astype(np.int8),
        IMAGES[..., 0],
        IMAGES.reshape(3, 5, 6, 1),
        np.repeat(IMAGES, 3, axis=-1),
    ],
    ids=["float32", "int8", "no channels", "turned", "colour"],
)
def test_images_that_the_teacher_does_not_take_are_a_mismatch_that_says_what_it_takes(images):
    with pytest.raises(InputMismatch) as refused:
        pixels_of(save({"images": np.ascontiguousarray(images)}), INPUT, MOST)
    assert "uint8" in str(refused.value) or "N x 6 x 5 x 1" in str(refused.value)


def test_no_rows_are_no_images():
    with pytest.raises(NoImages):
        pixels_of(save({"images": IMAGES[:0]}), INPUT, MOST)


def test_more_rows_than_a_request_may_carry_are_refused():
    assert len(pixels_of(save({"images": random_images(MOST)}), INPUT, MOST)) == MOST
    with pytest.raises(TooManyImages):
        pixels_of(save({"images": random_images(MOST + 1)}), INPUT, MOST)


class Sent:
    """A request whose body arrives in chunks, and then waits, or ends."""

    def __init__(
        self, *chunks: bytes, declared: int | None = None, ends: asyncio.Event | None = None
    ) -> None:
        self.headers = {} if declared is None else {"content-length": str(declared)}
        self.arrived = asyncio.Event()
        self._chunks = chunks
        self._ends = ends

    async def stream(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        self.arrived.set()
        if self._ends is not None:
            await self._ends.wait()


@pytest.mark.parametrize("declared", [None, 90])
def test_a_body_is_what_has_arrived(declared: int | None):
    data = IMAGES.tobytes()
    assert len(data) == 90
    sent = Sent(data[:7], b"", data[7:60], data[60:], declared=declared)
    assert bytes(asyncio.run(read(sent))) == data


def test_what_is_only_declared_takes_no_memory():
    """Eight that declare 64 MiB and send a little: 512 MiB, if each were given what it says."""

    async def growth() -> int:
        ends, process = asyncio.Event(), psutil.Process()
        before = process.memory_info().rss
        waiting = [Sent(bytes(1000), declared=64 * 2**20, ends=ends) for _ in range(8)]
        reading = [asyncio.create_task(read(sent)) for sent in waiting]
        for sent in waiting:
            await sent.arrived.wait()
        grown = process.memory_info().rss - before
        ends.set()
        assert [len(body) for body in await asyncio.gather(*reading)] == [1000] * 8
        return grown

    assert asyncio.run(growth()) < 128 * 2**20
