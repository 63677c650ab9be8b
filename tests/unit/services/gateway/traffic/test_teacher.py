"""The asker against a service that speaks as the teacher's does, and misbehaves where it is told to."""

import asyncio
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.gateway.traffic.teacher import TeacherAsker, has_teacher
from shared.adapters.content_digest import content_digest
from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput
from shared.contracts.teachers import Nets, TeacherView
from shared.errors import (
    DeadlineExceeded,
    QueueFull,
    TeacherAnswerInvalid,
    TeacherChanged,
    TeacherNotFound,
    TeacherUnavailable,
)
from tests.support.asgi_server import served
from tests.support.redis_server import free_port
from tests.support.student_bundles import EXPERTS, card

SIZE = ImageInput(height=2, width=2, channels=1)
CARD = card("s-1", b"", classes=("cat", "dog"), image=SIZE).model_copy(update={"teacher": "owl"})
VIEW = TeacherView(
    name="owl", digest=CARD.teacher_digest or "", classes=("dog", "cat"), input=SIZE,
    model=Nets(architecture=Mlp(hidden_units=(4,))), tempers=True, device="cpu", precision="float32",
    most_rows=3,
)  # fmt: skip
IMAGES = np.arange(20, dtype=np.uint8).reshape(5, 2, 2, 1)


class Service:
    """Says for an image the logits (its first pixel, 0), in the order of its own classes."""

    def __init__(self) -> None:
        self.view = VIEW
        self.asked: list[Request] = []
        self.answer: Response | None = None
        self.headers: dict[str, str] = {}
        self.go = threading.Event()
        self.go.set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            request = Request(scope, receive)
            await (await self.reply(request))(scope, receive, send)

    async def reply(self, request: Request) -> Response:
        if request.method == "GET":
            if request.url.path != "/v1/teachers/owl":
                return JSONResponse({"code": "teacher-not-found"}, 404)
            return whole(self.view.model_dump_json().encode())
        self.asked.append(request)
        body = await request.body()
        while not self.go.is_set():
            await asyncio.sleep(0.01)
        if self.answer is not None:
            return self.answer
        first = load(body)["images"].reshape(-1, 4)[:, 0].astype(np.float32)
        logits = np.stack([first, np.zeros_like(first)], axis=1)
        headers = {"X-Teacher-Digest": self.view.digest, "X-Temperature": "1.0", **self.headers}
        return whole(save({"logits": logits}), headers)


def whole(body: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return a body with its digest."""
    return Response(body, headers={"Content-Digest": content_digest(body), **(headers or {})})


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with served(service) as url:
        yield url
        service.go.set()


def ask(url, *times, scenario=None, deadline_s=10.0, **options):
    """Ask once for each of `times`, one after the other, and return what came: answers or errors."""

    async def main():
        asker = TeacherAsker(url, **options)
        try:
            if scenario is not None:
                return await scenario(asker)
            found = []
            for _ in times or (1,):
                try:
                    found.append(await asker.ask(CARD, IMAGES, deadline_s=deadline_s))
                except Exception as error:  # noqa: BLE001 - what the test looks at
                    found.append(error)
            return found
        finally:
            await asker.close()

    return asyncio.run(main())


def test_the_key_of_the_gateway_goes_with_each_question(url, service):
    ask(url, key="imago_k")
    assert {request.headers["Authorization"] for request in service.asked} == {"Bearer imago_k"}
    ask(url)
    assert "Authorization" not in service.asked[-1].headers


def test_answers_are_probabilities_in_the_order_of_the_students_classes(url, service):
    (found,) = ask(url)
    first = IMAGES[:, 0, 0, 0].astype(np.float64)
    dog = np.exp(first) / (np.exp(first) + 1)
    np.testing.assert_allclose(found, np.stack([1 - dog, dog], axis=1), atol=1e-6)


def test_more_images_than_one_request_may_carry_are_asked_about_in_several(url, service):
    ask(url)
    assert len(service.asked) == 2


def test_the_question_names_teacher_temperature_lane_and_the_time_that_is_left(url, service):
    ask(url, deadline_s=5.0, lane="bulk")
    request = service.asked[-1]
    assert request.query_params["temperature"] == "1.0"
    assert request.headers["X-Teacher-Digest"] == CARD.teacher_digest
    assert request.headers["X-Lane"] == "bulk"
    assert 0 < float(request.headers["X-Deadline-Ms"]) <= 5000


def test_the_teacher_describes_itself_once_and_one_connection_serves(url, service):
    ask(url, 1, 2, 3)
    assert len({request.client for request in service.asked}) == 1


def test_a_late_answer_is_none(url, service):
    ask(url)
    service.go.clear()
    (error,) = ask(url, deadline_s=0.05)
    assert isinstance(error, DeadlineExceeded)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Teacher-Digest": "f" * 64}, TeacherChanged),
        ({"X-Temperature": "2.0"}, TeacherAnswerInvalid),
    ],
)
def test_an_answer_of_another_teacher_or_temperature_is_not_used(url, service, headers, expected):
    service.headers = headers
    (error,) = ask(url)
    assert isinstance(error, expected)


def test_a_teacher_that_is_another_one_by_now_is_not_asked(url, service):
    service.view = VIEW.model_copy(update={"digest": "f" * 64})
    (error,) = ask(url)
    assert isinstance(error, TeacherChanged)
    assert not service.asked


def test_a_teacher_of_other_classes_is_not_asked(url, service):
    service.view = VIEW.model_copy(update={"classes": ("dog", "cow")})
    (error,) = ask(url)
    assert isinstance(error, TeacherAnswerInvalid)


def test_a_refusal_is_told_as_the_service_tells_it(url, service):
    service.answer = JSONResponse(
        {"title": "", "status": 404, "code": "teacher-not-found", "detail": ""}, 404
    )
    (error,) = ask(url)
    assert isinstance(error, TeacherNotFound)


def test_after_failures_in_a_row_nobody_is_asked_and_the_student_knows_at_once(url, service):
    service.answer = Response(status_code=500)
    found = ask(url, *range(8))
    assert len(service.asked) == 5
    assert [type(error) for error in found[5:]] == [TeacherUnavailable] * 3


def test_a_teacher_that_comes_back_is_asked_again(url, service):
    async def scenario(asker):
        service.answer = Response(status_code=500)
        for _ in range(5):
            with pytest.raises(TeacherAnswerInvalid):
                await asker.ask(CARD, IMAGES, deadline_s=10)
        assert not asker.able(CARD)
        service.answer = None
        while not asker.able(CARD):
            await asyncio.sleep(0.01)
        return await asker.ask(CARD, IMAGES, deadline_s=10)

    assert ask(url, scenario=scenario).shape == (5, 2)


def test_another_teacher_of_the_same_service_is_asked_nevertheless(url, service):
    async def scenario(asker):
        other = CARD.model_copy(update={"teacher_digest": "e" * 64})
        for _ in range(5):
            with pytest.raises(TeacherChanged):
                await asker.ask(other, IMAGES, deadline_s=10)
        assert not asker.able(other)
        return await asker.ask(CARD, IMAGES, deadline_s=10)

    assert ask(url, scenario=scenario).shape == (5, 2)


def test_no_more_than_so_many_questions_are_in_flight(url, service):
    async def scenario(asker):
        service.go.clear()
        first = asyncio.create_task(asker.ask(CARD, IMAGES[:1], deadline_s=10))
        while not service.asked:
            await asyncio.sleep(0.005)
        with pytest.raises(QueueFull):
            await asker.ask(CARD, IMAGES[:1], deadline_s=10)
        service.go.set()
        return await first

    assert ask(url, scenario=scenario, most_in_flight=1).shape == (1, 2)


def test_a_replica_that_is_away_is_left_out(url):
    away = f"http://127.0.0.1:{free_port()}"
    found = ask(f"{away}, {url}", *range(7))
    assert [isinstance(error, TeacherUnavailable) for error in found] == [True] * 5 + [False] * 2
    assert isinstance(found[0].__cause__, httpx.ConnectError)


def test_who_has_a_teacher_worth_asking():
    assert has_teacher(CARD)
    assert not has_teacher(CARD.model_copy(update={"teacher": None, "teacher_digest": None}))
    # Its "teacher" is the generalist, which has had its say.
    assert not has_teacher(CARD.model_copy(update={"specialists": EXPERTS}))
