import numpy as np
import pytest
from safetensors.numpy import load, save
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.traffic.asking import StudentQuestions, TeacherQuestions
from services.gateway.traffic.copies import Copies, Copy
from shared.adapters.content_digest import content_digest
from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput
from shared.contracts.teachers import Nets, TeacherView
from shared.serving.session import StudentSession
from tests.support.asgi_server import served
from tests.support.student_bundles import card, mlp_onnx, write_bundle

SIZE = ImageInput(height=2, width=2, channels=1)
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> StudentSession:
    directory = tmp_path_factory.mktemp("s-1")
    write_bundle(directory, "s-1", mlp_onnx(SIZE, 2), classes=CLASSES, image=SIZE)
    return StudentSession.load(directory)


def copy(student, *values, of=None) -> Copy:
    return Copy(student, [bytes([value] * 4) for value in values], [0] * len(values), of)


def test_the_student_that_a_copy_names_says_what_it_would_say_to_a_client(student):
    copies = [copy(student, 1, 200, of=student), copy(student, 90, of=student)]
    said = StudentQuestions().ask(copies)
    images = np.repeat(np.array([1, 200, 90], np.uint8), 4).reshape(3, 2, 2, 1)
    expected = student.probabilities(images)
    assert list(said.indices) == expected.argmax(axis=1).tolist()
    assert list(said.confidence) == pytest.approx(expected.max(axis=1).tolist(), abs=1e-6)
    assert list(said.classes) == [CLASSES[index] for index in said.indices]


def test_the_teacher_service_is_asked_in_the_lane_that_nobody_waits_in(student):
    description = card("s-1", b"", classes=CLASSES, image=SIZE)
    view = TeacherView(
        name=description.teacher or "", digest=description.teacher_digest or "", classes=("dog", "cat"),
        input=SIZE, model=Nets(architecture=Mlp(hidden_units=(4,))), tempers=True, device="cpu",
        precision="float32", most_rows=64,
    )  # fmt: skip
    lanes = []

    async def service(scope, receive, send):
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if request.method == "GET":
            body = view.model_dump_json().encode()
            await Response(body, headers={"Content-Digest": content_digest(body)})(scope, receive, send)
            return
        lanes.append(request.headers["X-Lane"])
        first = load(await request.body())["images"].reshape(-1, 4)[:, 0].astype(np.float32)
        logits = np.stack([first - 100, np.zeros_like(first)], axis=1)  # a dog above 100
        body = save({"logits": logits})
        headers = {"X-Teacher-Digest": view.digest, "X-Temperature": "1.0"}
        headers["Content-Digest"] = content_digest(body)
        await Response(body, headers=headers)(scope, receive, send)

    with served(service) as url:
        questions = TeacherQuestions(url)
        said = [questions.ask([copy(student, 1, 200)]), questions.ask([copy(student, 90)])]
        questions.close()
    assert [list(one.classes) for one in said] == [["cat", "dog"], ["cat"]]
    assert list(said[0].indices) == [0, 1]
    assert lanes == ["bulk", "bulk"]


def test_one_question_is_about_copies_of_one_student_for_one_other_and_about_so_many_images(student):
    other = object()
    copies = Copies(most_images=100, most_bytes=1000)
    sent = [copy(student, 1, of=other), copy(student, 2, 3, of=other), copy(student, 4, of=other)]
    sent += [copy(student, 5), copy(other, 6), copy(other, 7, 8, 9)]
    for one in sent:
        assert copies.add(one)
    taken = [copies.take(3) for _ in range(6)]
    assert taken == [sent[:2], sent[2:3], sent[3:4], sent[4:5], sent[5:], []]


def test_room_for_copies_comes_back_when_they_are_taken(student):
    copies = Copies(most_images=2, most_bytes=8)  # of four bytes each
    assert copies.add(copy(student, 1, 2))
    assert not copies.add(copy(student, 3))
    copies.take(1)
    assert copies.add(copy(student, 3))
    copies.clear()
    assert copies.add(copy(student, 4, 5))
    assert [len(one.pixels) for one in copies.take(64)] == [2]
