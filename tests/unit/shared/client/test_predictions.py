"""Images in, predictions out: one request, and many."""

import asyncio
import email
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from shared.client import AsyncClient, Client, GatewayRefused, Retries
from shared.client import images as client_images
from shared.contracts.predictions import ClassProbability, Prediction, PredictionAnswer, Timing
from shared.errors import InvalidImage
from tests.support.both_clients import Clients

TIMING = Timing(decode_ms=0.1, model_ms=0.2, total_ms=0.4)


def parts_of(request: httpx.Request) -> list[tuple[str | None, bytes]]:
    """Return names and contents of the images of a request, as a reader of MIME sees them."""
    kind = request.headers["Content-Type"]
    if not kind.startswith("multipart/"):
        return [(None, request.content)]
    message = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + request.content)
    parts = message.get_payload()
    assert {part.get_param("name", header="content-disposition") for part in parts} == {"images"}
    return [(part.get_filename(), part.get_payload(decode=True)) for part in parts]


class Echo:
    """A gateway whose student names each image by its bytes; `seen` holds every request."""

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        predictions = tuple(
            Prediction(
                predicted=data.decode("latin-1"),
                classes=(ClassProbability(name=data.decode("latin-1"), probability=1.0),),
                file=name,
            )
            for name, data in parts_of(request)
        )
        answer = PredictionAnswer(student="v-1", predictions=predictions, timing=TIMING)
        return httpx.Response(200, text=answer.model_dump_json())


@pytest.fixture
def echo() -> Echo:
    return Echo()


def pixels_sent(request: httpx.Request) -> np.ndarray:
    (_, data), *_ = parts_of(request)
    return np.asarray(Image.open(io.BytesIO(data)))


def test_one_image_is_the_body_itself(clients: Clients, echo: Echo):
    answer = clients(answer=echo).predict(b"seven", top=3)
    assert answer.predictions[0].predicted == "seven"
    assert echo.seen[0].content == b"seven"
    assert echo.seen[0].headers["Content-Type"] == "application/octet-stream"
    assert echo.seen[0].url.params["top"] == "3"


def test_several_images_are_sent_in_their_order_under_their_names(
    clients: Clients, echo: Echo, tmp_path: Path
):
    (tmp_path / "b.png").write_bytes(b"one")
    answer = clients(answer=echo).predict([tmp_path / "b.png", b"two"])
    assert [one.predicted for one in answer.predictions] == ["one", "two"]
    assert [one.file for one in answer.predictions] == ["b.png", "image"]


def test_a_file_alone_is_the_body_itself(clients: Clients, echo: Echo, tmp_path: Path):
    (tmp_path / "b.png").write_bytes(b"one")
    clients(answer=echo).predict(tmp_path / "b.png")
    assert echo.seen[0].content == b"one"


@pytest.mark.parametrize("shape", [(28, 28), (28, 30, 1), (32, 31, 3)])
def test_pixels_arrive_as_they_are(clients: Clients, echo: Echo, shape: tuple[int, ...]):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    clients(answer=echo).predict(pixels)
    np.testing.assert_array_equal(pixels_sent(echo.seen[0]).reshape(shape), pixels)


def test_pixels_that_are_a_view_arrive_too(clients: Clients, echo: Echo):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)[::-2, 3:50:3]
    clients(answer=echo).predict(pixels)
    np.testing.assert_array_equal(pixels_sent(echo.seen[0]), pixels)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((28, 28), np.float32),
        np.zeros((28, 28, 4), np.uint8),
        np.zeros(28, np.uint8),
        np.zeros((0, 28), np.uint8),
        "seven.png",
        7,
    ],
    ids=["float", "four channels", "a row", "empty", "text", "number"],
)
def test_what_is_no_image_is_refused_here(clients: Clients, echo: Echo, wrong: object):
    for given in (wrong, [wrong]):
        with pytest.raises(InvalidImage):
            clients(answer=echo).predict(given)
    assert not echo.seen


def test_the_key_of_a_canary_and_the_threshold_of_a_cascade_are_sent(clients: Clients, echo: Echo):
    clients(answer=echo).predict(b"seven", canary_key="user-1", cascade=0.7)
    clients(answer=echo).predict(b"seven", cascade="off")
    first, second = echo.seen
    assert first.headers["X-Canary-Key"] == "user-1"
    assert [request.url.params["cascade"] for request in (first, second)] == ["0.7", "off"]


# --- many --------------------------------------------------------------------------------------------------


def numbered(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


@pytest.mark.parametrize("in_flight", [1, 3, 50])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_many_predictions_come_in_the_order_of_the_images(
    clients: Clients, echo: Echo, batch: int, in_flight: int
):
    found = list(clients(answer=echo).predict_many(iter(numbered(50)), batch=batch, in_flight=in_flight))
    assert [one.predicted for one in found] == [str(number) for number in range(50)]
    assert {one.student for one in found} == {"v-1"}
    assert found[0].classes[0].probability == 1.0
    assert max(len(parts_of(request)) for request in echo.seen) == min(batch, 50)
    assert len(echo.seen) == -(-50 // batch)


def test_no_images_are_no_request(clients: Clients, echo: Echo):
    assert list(clients(answer=echo).predict_many([])) == []
    assert not echo.seen


def test_options_are_sent_with_each_request(clients: Clients, echo: Echo):
    list(
        clients(answer=echo).predict_many(
            numbered(4), batch=2, top=2, cascade="off", deadline_s=9, canary_key="me"
        )
    )
    for request in echo.seen:
        assert request.url.params["top"] == "2"
        assert request.url.params["cascade"] == "off"
        assert request.headers["X-Canary-Key"] == "me"
        assert int(request.headers["X-Deadline-Ms"]) <= 9000


def test_a_request_ends_before_it_has_too_many_bytes(
    clients: Clients, echo: Echo, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client_images, "MOST_BYTES", 10)
    list(clients(answer=echo).predict_many([b"1234", b"5678", b"9012", b"a large one", b"1"], batch=4))
    assert sorted(len(parts_of(request)) for request in echo.seen) == [1, 1, 1, 2]


def test_images_are_taken_only_as_answers_are(clients: Clients, echo: Echo):
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x"

    answers = clients(answer=echo).predict_many(endless(), batch=5, in_flight=3)
    for _ in range(20):
        next(answers)
    answers.close()
    # 20 answered, at most 3 x 5 asked about, and the ones that the next request is made of.
    assert 20 <= taken <= 20 + 15 + 5 + 1


def test_the_first_refusal_is_told_after_the_answers_before_it(clients: Clients, echo: Echo):
    def refuse_three(request: httpx.Request) -> httpx.Response:
        if b"3" in [data for _, data in parts_of(request)]:
            return httpx.Response(400, text="bad")
        return echo(request)

    found: list[str] = []

    def collect() -> None:
        for one in clients(answer=refuse_three).predict_many(numbered(10), batch=1, in_flight=4):
            found.append(one.predicted)

    with pytest.raises(GatewayRefused):
        collect()
    assert found == ["0", "1", "2"]


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"in_flight": 0}])
def test_no_batch_and_nothing_in_flight_cannot_be(clients: Clients, echo: Echo, wrong: dict[str, int]):
    with pytest.raises(ValueError, match="0"):
        list(clients(answer=echo).predict_many(numbered(2), **wrong))


def test_threads_ask_at_the_same_time(echo: Echo):
    """Each request waits until three are there: with fewer in flight nobody would ever answer."""
    together = threading.Barrier(3)

    def meet(request: httpx.Request) -> httpx.Response:
        together.wait(timeout=60)
        return echo(request)

    with Client("http://gateway.test", transport=httpx.MockTransport(meet)) as client:
        found = list(client.predict_many(numbered(9), batch=1, in_flight=3))
    assert [one.predicted for one in found] == [str(number) for number in range(9)]


def test_tasks_ask_at_the_same_time_and_take_from_an_async_iterator(echo: Echo):
    async def ask() -> list[str]:
        together = asyncio.Barrier(3)

        async def meet(request: httpx.Request) -> httpx.Response:
            async with asyncio.timeout(60):
                await together.wait()
            return echo(request)

        async def images():
            for image in numbered(9):
                yield image

        async with AsyncClient("http://gateway.test", transport=httpx.MockTransport(meet)) as client:
            return [one.predicted async for one in client.predict_many(images(), batch=1, in_flight=3)]

    assert asyncio.run(ask()) == [str(number) for number in range(9)]


def test_an_answer_with_too_few_predictions_is_told(clients: Clients, echo: Echo):
    def short(_request: httpx.Request) -> httpx.Response:
        return echo(httpx.Request("POST", "http://x/", content=b"x", headers={"Content-Type": "image/png"}))

    with pytest.raises(Exception, match="contract"):
        list(clients(answer=short, retries=Retries(attempts=1)).predict_many(numbered(2)))
