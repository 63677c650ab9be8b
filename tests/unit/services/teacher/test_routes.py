"""The endpoints over a local socket: what is answered, and that every refusal is a problem with its code."""

import io
import math
import threading

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load, save

from services.teacher.app import create_app
from services.teacher.settings import TeacherSettings
from shared.adapters.content_digest import content_digest
from shared.artefacts.store import ArtefactStore
from shared.contracts.images import ImageInput
from shared.contracts.problems import Problem
from shared.contracts.teachers import SoftTargets, TeacherList, TeacherView
from tests.support.asgi_server import served
from tests.support.teachers import CLASSES, expected_logits, publish, random_images, random_tensors, softmax

SAFETENSORS = "application/vnd.safetensors"
LARGE = ImageInput(height=40, width=40, channels=1)
URL = "/v1/teachers/shapes/soft-targets"
IMAGES = random_images(5)
BODY = save({"images": IMAGES})
BULK = {"X-Lane": "bulk"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> TeacherSettings:
    return TeacherSettings(
        state_dir=tmp_path_factory.mktemp("teacher"),
        device="cpu",
        max_rows=20,
        queue_rows=40,
        max_body_bytes=100_000,
        max_image_bytes=50_000,
        max_image_pixels=10_000,
    )


@pytest.fixture(scope="module")
def published(settings):
    return publish(settings.store_dir)


@pytest.fixture(scope="module")
def app(settings):
    return create_app(settings)


@pytest.fixture(scope="module")
def client(app, published):
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


def ask(client, *, content=BODY, media_type=SAFETENSORS, url=URL, headers=None, **query):
    return client.post(
        url,
        params={"temperature": 4.0} | query,
        content=content,
        headers={"Content-Type": media_type} | (headers or {}),
    )


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def problem(response, status: int, code: str) -> Problem:
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(response.content)
    assert (response.status_code, found.status, found.code) == (status, status, code), found
    assert found.remedy
    assert found.request_id == response.headers["X-Request-ID"]
    return found


# --- what is answered --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "media_type", [SAFETENSORS, "application/octet-stream", "Application/Octet-Stream; a=b"]
)
def test_pixels_are_answered_by_the_formula(client, media_type):
    response = ask(client, media_type=media_type, headers={"Accept": SAFETENSORS}, temperature=2.5)
    assert response.headers["content-type"] == SAFETENSORS
    logits = load(response.content)["logits"]
    expected = expected_logits(random_tensors(), IMAGES, temperature=2.5)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits.mean(-1), 0, atol=1e-6)


def test_json_carries_logits_probabilities_temperature_digest_and_classes(client, published):
    found = SoftTargets.model_validate_json(ask(client, probabilities=True).content)
    expected = expected_logits(random_tensors(), IMAGES, temperature=4.0)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, softmax(expected), atol=1e-6)
    assert (found.digest, found.temperature, found.classes) == (published.digest, 4.0, CLASSES)


def test_files_in_a_form_are_answered_as_their_pixels_are_in_the_order_sent(client):
    files = [("images", (f"{i}.png", png(image[..., 0]))) for i, image in enumerate(IMAGES)]
    response = client.post(URL, params={"temperature": 4.0}, files=files)
    assert response.json()["logits"] == ask(client).json()["logits"]


def test_a_file_of_another_size_and_in_colour_is_fitted_to_the_input(client):
    colour = png(np.full((40, 31, 3), 200, np.uint8))
    grey = save({"images": np.full((1, 6, 5, 1), 200, np.uint8)})
    response = client.post(URL, params={"temperature": 1.0}, files={"images": ("a.png", colour)})
    assert response.json()["logits"] == ask(client, content=grey, temperature=1.0).json()["logits"]


def test_every_answer_says_in_its_headers_who_answered_and_how(client, published):
    headers = ask(client, temperature=0.1).headers
    assert headers["X-Teacher-Digest"] == published.digest
    assert float(headers["X-Temperature"]) == 0.1
    assert headers["X-Teacher-Precision"] == "float32"
    assert headers["X-Most-Rows"] == "20"


def test_every_answer_carries_the_digest_of_its_body(client):
    for response in (
        ask(client),
        ask(client, headers={"Accept": SAFETENSORS}),
        client.get("/v1/teachers/shapes"),
    ):
        assert response.headers["Content-Digest"] == content_digest(response.content)


def test_float16_is_answered_where_it_is_asked_for(client):
    response = ask(client, dtype="float16", headers={"Accept": SAFETENSORS})
    assert load(response.content)["logits"].dtype == np.float16


def test_the_right_digest_in_the_request_changes_nothing(client, published):
    assert ask(client, headers={"X-Teacher-Digest": published.digest}).json() == ask(client).json()


def test_teachers_are_listed_and_described(client, published):
    described = TeacherView.model_validate_json(client.get("/v1/teachers/shapes").content)
    assert (described.digest, described.classes) == (published.digest, CLASSES)
    assert (described.input.height, described.input.width, described.input.channels) == (6, 5, 1)
    assert described.tempers
    listed = TeacherList.model_validate_json(client.get("/v1/teachers").content)
    assert described in listed.teachers


def test_an_arithmetic_ensemble_does_not_temper_and_a_geometric_one_does(client, settings):
    publish(settings.store_dir, "arithmetic", members=3, merge="arithmetic")
    publish(settings.store_dir, "geometric", members=3, merge="geometric")
    tempers = {found["name"]: found["tempers"] for found in client.get("/v1/teachers").json()["teachers"]}
    assert not tempers["arithmetic"]
    assert tempers["geometric"]
    assert tempers["shapes"]


def test_a_teacher_published_while_the_service_runs_answers(client, settings):
    url = "/v1/teachers/late/soft-targets"
    problem(ask(client, url=url), 404, "teacher-not-found")
    publish(settings.store_dir, "late", seed=7)
    logits = ask(client, url=url).json()["logits"]
    expected = expected_logits(random_tensors(seed=7), IMAGES, temperature=4.0)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_health_and_metrics_answer(client):
    ask(client)
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").json() == {"ready": True, "draining": False, "warming": False}
    text = client.get("/metrics").text
    for name in ("rows_total", "batch_rows_bucket", "queue_rows", "forward_seconds_bucket", "held"):
        assert f"imago_teacher_{name}" in text


def test_a_request_names_its_lane_or_its_images_decide(client, app, monkeypatch):
    batcher = app.app.state.parts.batchers._here
    lanes = []
    inner = batcher.ask

    def noted(*asked, **options):
        lanes.append(options["lane"])
        return inner(*asked, **options)

    monkeypatch.setattr(batcher, "ask", noted)
    few, many = save({"images": random_images(16)}), save({"images": random_images(17)})
    ask(client, content=few)
    ask(client, content=many)
    ask(client, content=few, headers=BULK)
    ask(client, content=many, headers={"X-Lane": "interactive"})
    client.post(URL, params={"temperature": 1}, files=[("images", ("a.png", png(IMAGES[0, ..., 0])))] * 17)
    assert lanes == ["interactive", "bulk", "bulk", "interactive", "bulk"]


def test_a_body_that_comes_in_chunks_of_unknown_number_is_read_whole(client):
    assert ask(client, content=iter([BODY[:50], BODY[50:51], BODY[51:]])).json() == ask(client).json()


def test_teachers_that_are_there_at_the_start_are_measured_before_the_service_is_ready(tmp_path):
    settings = TeacherSettings(state_dir=tmp_path, device="cpu", max_batch_rows=8)
    publish(settings.store_dir, "good")
    publish(settings.store_dir, "broken", seed=1, classes=("a", "b"))
    app = create_app(settings)
    with served(app) as url, httpx.Client(base_url=url) as client:
        while (response := client.get("/health/ready")).status_code == 503:
            assert response.json()["warming"]
        parts = app.app.state.parts
        assert [model.description.name for model in parts.batchers._here._device._paces] == ["good"]


def test_the_most_rows_of_a_request_fit_its_bytes_too(tmp_path):
    settings = TeacherSettings(state_dir=tmp_path, device="cpu", max_body_bytes=4096 + 30 * 7 + 29)
    publish(settings.store_dir)
    with served(create_app(settings)) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/teachers/shapes").json()["most_rows"] == 7
        problem(ask(client, content=save({"images": random_images(8)})), 413, "too-many-images")
        assert ask(client, content=save({"images": random_images(7)})).headers["X-Most-Rows"] == "7"


def test_the_service_is_ready_before_there_is_any_teacher(tmp_path):
    settings = TeacherSettings(state_dir=tmp_path / "new", device="cpu")
    with served(create_app(settings)) as url, httpx.Client(base_url=url) as client:
        while client.get("/health/ready").json()["warming"]:
            pass
        assert client.get("/health/ready").status_code == 200
        assert client.get("/v1/teachers").json() == {"teachers": []}


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "temperature",
    ["nan", "NaN", "inf", "-inf", "Infinity", "1e999", "0", "-0.0", "-4", "four", "", "4;5", "0x4"],
)
def test_a_temperature_that_is_not_a_finite_number_above_0_is_refused(client, temperature):
    found = problem(ask(client, temperature=temperature), 422, "invalid-temperature")
    assert "finite number above 0" in found.detail


def test_a_missing_temperature_is_named(client):
    response = client.post(URL, content=BODY, headers={"Content-Type": SAFETENSORS})
    assert "temperature" in problem(response, 422, "request-invalid").detail


@pytest.mark.parametrize(("temperature", "dtype"), [("1e-320", "float32"), ("1e-5", "float16")])
def test_a_temperature_at_which_logits_overflow_is_refused(client, temperature, dtype):
    problem(ask(client, temperature=temperature, dtype=dtype), 422, "temperature-too-low")


def test_an_unknown_option_is_refused(client):
    problem(ask(client, dtype="int8"), 422, "request-invalid")
    problem(ask(client, probabilities="maybe"), 422, "request-invalid")


@pytest.mark.parametrize("name", ["nobody", "SHAPES", "..%5C..%5Cetc", "%00", "a" * 300])
def test_an_unknown_teacher_is_not_found(client, name):
    problem(ask(client, url=f"/v1/teachers/{name}/soft-targets"), 404, "teacher-not-found")
    problem(client.get(f"/v1/teachers/{name}"), 404, "teacher-not-found")


def test_another_digest_than_expected_is_a_conflict(client):
    problem(ask(client, headers={"X-Teacher-Digest": "0" * 64}), 409, "teacher-changed")


@pytest.mark.parametrize("media_type", ["application/json", "image/png", "text/plain", "nonsense"])
def test_a_body_of_another_media_type_is_refused(client, media_type):
    found = problem(ask(client, media_type=media_type), 415, "unsupported-media-type")
    assert SAFETENSORS in found.remedy


def test_a_body_without_a_media_type_is_refused(client):
    response = client.post(URL, params={"temperature": 1}, content=BODY)
    problem(response, 415, "unsupported-media-type")


def test_an_answer_in_another_form_is_refused(client):
    problem(ask(client, headers={"Accept": "text/html"}), 406, "not-acceptable")


@pytest.mark.parametrize("body", [b"", b"{}", BODY[:-1], BODY + b"x", b"\xff" * 50])
def test_a_broken_safetensors_body_is_malformed(client, body):
    problem(ask(client, content=body), 422, "malformed-body")


def test_a_body_that_is_not_the_one_of_its_digest_is_refused(client):
    assert ask(client, headers={"Content-Digest": content_digest(BODY)}).status_code == 200
    assert ask(client, headers={"Content-Digest": "sha-512=:x:"}).status_code == 200
    changed = BODY[:-1] + bytes([BODY[-1] ^ 1])
    problem(
        ask(client, content=changed, headers={"Content-Digest": content_digest(BODY)}), 422, "body-damaged"
    )


def test_images_of_another_size_or_type_are_a_mismatch(client):
    problem(ask(client, content=save({"images": IMAGES.astype(np.float32)})), 422, "input-mismatch")
    problem(ask(client, content=save({"images": IMAGES.reshape(5, 5, 6, 1)})), 422, "input-mismatch")


def test_no_images_are_refused(client):
    problem(ask(client, content=save({"images": IMAGES[:0]})), 422, "no-images")
    empty = b"--b--\r\n"
    problem(ask(client, content=empty, media_type="multipart/form-data; boundary=b"), 422, "no-images")


def test_more_images_than_a_request_may_carry_are_refused(client):
    problem(ask(client, content=save({"images": random_images(21)})), 413, "too-many-images")
    files = [("images", ("a.png", b"x"))] * 21
    response = client.post(URL, params={"temperature": 1}, files=files)
    problem(response, 413, "too-many-images")


def test_a_body_over_the_limit_is_refused(client):
    problem(ask(client, content=b"x" * 100_001), 413, "body-too-large")
    chunks = iter([b"x" * 60_000, b"x" * 60_000])
    problem(ask(client, content=chunks), 413, "body-too-large")
    files = {"images": ("a.png", b"x" * 100_001)}
    problem(client.post(URL, params={"temperature": 1}, files=files), 413, "body-too-large")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "invalid-image"),
        (b"not an image", 422, "invalid-image"),
        (png(random_images(1, size=LARGE)[0, ..., 0])[:-200], 422, "invalid-image"),
        (png(np.zeros((101, 100), np.uint8)), 413, "image-too-large"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 60_000, 413, "image-too-large"),
    ],
    ids=["empty", "text", "truncated", "pixels", "bytes"],
)
def test_a_file_that_is_no_usable_image_is_refused_by_its_name(client, data, status, code):
    files = [("images", ("good.png", png(np.zeros((6, 5), np.uint8)))), ("images", ("bad.png", data))]
    response = client.post(URL, params={"temperature": 1}, files=files)
    assert "bad.png" in problem(response, status, code).detail


@pytest.mark.parametrize(
    "form",
    [
        {"data": {"images": "text"}},
        {"files": {"image": ("a.png", b"x")}},
        {"files": {"images": ("a.png", b"x")}, "data": {"temperature": "4"}},
    ],
)
def test_a_form_that_carries_anything_but_files_under_images_is_malformed(client, form):
    if "files" not in form:
        form = {"files": {"images": (None, "text")}}
    response = client.post(URL, params={"temperature": 1}, **form)
    problem(response, 422, "malformed-body")


@pytest.mark.parametrize("media_type", ["multipart/form-data", "multipart/form-data; boundary=b"])
def test_a_form_that_cannot_be_read_is_malformed(client, media_type):
    problem(ask(client, content=b"--x\r\ngarbage", media_type=media_type), 422, "malformed-body")


def test_a_damaged_teacher_is_a_problem_of_ours(client, settings):
    damaged = publish(settings.store_dir, "damaged", seed=99)
    path = ArtefactStore(settings.store_dir).teachers.file(damaged, "model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    problem(ask(client, url="/v1/teachers/damaged/soft-targets"), 500, "corrupt")


def test_a_request_whose_deadline_has_passed_is_504_and_an_impossible_one_is_malformed(client):
    found = problem(ask(client, headers={"X-Deadline-Ms": "0"}), 504, "deadline-exceeded")
    assert "0 ms" in found.detail
    assert ask(client, headers={"X-Deadline-Ms": "60000"}).status_code == 200
    for given in ("-1", "soon", "nan", "1e99"):
        problem(ask(client, headers={"X-Deadline-Ms": given}), 422, "request-invalid")
    problem(ask(client, headers={"X-Lane": "fast"}), 422, "request-invalid")


def test_rows_of_which_the_teacher_says_no_numbers_are_named(client, app, monkeypatch):
    parts = app.app.state.parts
    _, model = parts.teachers.hold("shapes")
    inner = model.member_logits
    monkeypatch.setattr(
        model,
        "member_logits",
        lambda images: inner(images).clone().index_fill_(1, torch.tensor([1, 4]), torch.nan),
    )
    found = problem(ask(client), 500, "teacher-answer-invalid")
    assert "rows 1, 4 of 5" in found.detail


def test_an_unknown_path_and_a_wrong_method_are_problems(client):
    problem(client.get("/v1/nothing"), 404, "not-found")
    problem(client.get(URL), 405, "method-not-allowed")


def test_a_full_queue_is_503_with_retry_after(client, app, monkeypatch):
    """The device is held; one request is on it, forty rows wait, and there is no room for the next."""
    batchers = app.app.state.parts.batchers
    device, batcher = batchers._device, batchers._here
    inner, entered, go = device.start, threading.Event(), threading.Event()

    def held(model, parts):
        entered.set()
        assert go.wait(10)
        return inner(model, parts)

    ask(client)  # the teacher is measured
    monkeypatch.setattr(device, "start", held)
    twenty = save({"images": random_images(20)})
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(client, content=twenty, headers=BULK)))
        for _ in range(3)
    ]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    while batcher.waiting_rows < 40:
        pass
    refused = ask(client, headers=BULK)
    problem(refused, 503, "queue-full")
    assert int(refused.headers["Retry-After"]) >= 1
    assert client.get("/health/live").status_code == 200
    go.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3
    assert math.isfinite(answers[0].json()["logits"][0][0])
