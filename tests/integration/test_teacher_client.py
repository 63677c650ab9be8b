"""The teacher client against services that behave, and against ones that do not."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from safetensors.numpy import load, save

from services.teacher.app import create_app
from services.teacher.settings import TeacherSettings
from shared import logs
from shared.adapters import teacher_client, teacher_replicas
from shared.adapters.content_digest import content_digest
from shared.adapters.teacher_client import TeacherClient
from shared.contracts.teachers import TeacherView
from shared.errors import (
    InputMismatch,
    InvalidRequest,
    TeacherAnswerInvalid,
    TeacherBudgetSpent,
    TeacherChanged,
    TeacherNotFound,
    TeacherUnavailable,
)
from tests.support.asgi_server import served
from tests.support.teachers import CLASSES, INPUT, expected_logits, publish, random_images, random_tensors

pytestmark = pytest.mark.integration

DIGEST = "ab" * 32
VIEW = TeacherView.model_validate(
    {
        "name": "shapes",
        "digest": DIGEST,
        "classes": CLASSES,
        "input": INPUT,
        "model": {"kind": "nets", "architecture": {"architecture": "mlp", "hidden_units": [16]}},
        "tempers": True,
        "device": "cpu",
        "precision": "float32",
        "most_rows": 100,
    }
)
HEADERS = {"X-Teacher-Digest": DIGEST, "X-Temperature": "2.0"}


class Answer:
    """What a scripted service says to one request."""

    def __init__(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.body = body
        self.status = status
        self.headers = headers or {}


def fine(rows: int) -> Answer:
    return Answer(save({"logits": np.zeros((rows, len(CLASSES)), np.float32)}), headers=HEADERS)


def refusal(status: int, code: str, **headers: str) -> Answer:
    problem = {
        "title": "No",
        "status": status,
        "code": code,
        "detail": "words",
        "remedy": "do",
        "request_id": "r1",
    }
    return Answer(json.dumps(problem).encode(), status, headers)


@contextmanager
def scripted(
    answer: Callable[[int, int], Answer | None], *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Serve answers by the count of the request and its rows; None closes the connection without one."""
    asked: list[dict[str, str]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._send(Answer(VIEW.model_dump_json().encode()))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                count = len(asked)
                asked.append(dict(self.headers))
            found = answer(count, len(load(body)["images"]))
            if found is None:
                self.close_connection = True
                return
            self._send(found)

        def _send(self, found: Answer) -> None:
            self.send_response(found.status)
            for name, value in ({"Content-Digest": content_digest(found.body)} | found.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def raw(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Let a function write to each connection whatever it likes, for as long as the client reads."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            answer(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=listener.accept()[:1], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def asked(client: TeacherClient, batches=None, **options) -> dict[int, np.ndarray]:
    options = {"temperature": 2.0, "expected_digest": DIGEST} | options
    return dict(client.soft_targets("shapes", [random_images(3)] if batches is None else batches, **options))


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def service(state_dir):
    with served(
        create_app(TeacherSettings(state_dir=state_dir, device="cpu", max_rows=200, queue_rows=200))
    ) as url:
        yield url


@pytest.fixture(scope="module")
def teacher(state_dir):
    return publish(state_dir / "store")


# --- a service that behaves --------------------------------------------------------------------------------


def test_every_batch_is_answered_once_under_its_own_index(service, teacher):
    batches = [random_images(10 + index, seed=index) for index in range(25)]
    with TeacherClient(service, in_flight=6) as client:
        found = list(
            client.soft_targets("shapes", iter(batches), temperature=3.0, expected_digest=teacher.digest)
        )
        assert client.rows_asked == sum(map(len, batches))
    assert sorted(index for index, _ in found) == list(range(25))
    for index, logits in found:
        expected = expected_logits(random_tensors(), batches[index], temperature=3.0)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        assert logits.flags.writeable


def test_the_teacher_is_described(service, teacher):
    with TeacherClient(service) as client:
        view = client.describe("shapes")
    assert (view.digest, view.classes, view.input) == (teacher.digest, CLASSES, INPUT)


def test_a_service_with_a_full_queue_is_asked_again_until_all_is_answered(service, teacher):
    """Eight requests of 150 rows, and room for 200."""
    batches = [random_images(150, seed=index) for index in range(8)]
    with TeacherClient(service, in_flight=8) as client:
        found = asked(client, batches, expected_digest=teacher.digest)
    assert sorted(found) == list(range(8))


def test_no_batches_are_no_answers(service, teacher):
    with TeacherClient(service) as client:
        assert asked(client, [], expected_digest=teacher.digest) == {}


def test_an_unknown_teacher_is_not_found(service):
    with TeacherClient(service) as client:
        with pytest.raises(TeacherNotFound):
            client.describe("nobody")
        with pytest.raises(TeacherNotFound):
            client.describe("../../etc")


def test_a_teacher_other_than_expected_is_refused_before_any_row_is_asked(service, teacher):
    with TeacherClient(service) as client:
        with pytest.raises(TeacherChanged):
            asked(client, expected_digest="0" * 64)
        assert client.rows_asked == 0


def test_a_teacher_that_is_replaced_on_the_way_stops_the_asking(service, state_dir):
    first = publish(state_dir / "store", "replaced", seed=1)

    def batches():
        yield random_images(3)
        yield random_images(3)
        publish(state_dir / "store", "replaced", seed=2)
        yield random_images(3)

    with TeacherClient(service, in_flight=2) as client, pytest.raises(TeacherChanged):
        dict(client.soft_targets("replaced", batches(), temperature=1.0, expected_digest=first.digest))


def test_what_the_service_refuses_is_raised_in_its_own_words(service, teacher):
    with TeacherClient(service) as client:
        with pytest.raises(InputMismatch, match="6 x 5 x 1"):
            asked(client, [random_images(3).reshape(3, 5, 6, 1)], expected_digest=teacher.digest)
        with pytest.raises(InvalidRequest, match="invalid-temperature"):
            asked(client, expected_digest=teacher.digest, temperature=-1.0)
        with pytest.raises(InvalidRequest, match="200"):
            asked(client, [random_images(201)], expected_digest=teacher.digest)


# --- a service that does not -------------------------------------------------------------------------------


def test_what_may_pass_is_tried_again():
    trouble = [refusal(503, "queue-full"), None, Answer(b"bad gateway", 502), refusal(504, "timeout")]
    with (
        scripted(lambda n, rows: trouble[n] if n < 4 else fine(rows)) as (url, requests),
        TeacherClient(url) as client,
    ):
        assert asked(client)[0].shape == (3, 4)
        assert client.rows_asked == 3
    assert len(requests) == 5


def test_retry_after_is_waited_for():
    answers = [refusal(503, "queue-full", **{"Retry-After": "1"})]
    with (
        scripted(lambda n, rows: answers[n] if n < 1 else fine(rows)) as (url, _),
        TeacherClient(url) as client,
    ):
        began = time.monotonic()
        asked(client)
        assert time.monotonic() - began >= 1


def test_a_service_that_never_answers_well_is_unavailable_after_the_patience():
    began = time.monotonic()
    with scripted(lambda _n, _rows: refusal(503, "queue-full")) as (url, requests):  # noqa: SIM117
        with TeacherClient(url, patience_s=1.0) as client, pytest.raises(TeacherUnavailable, match="words"):
            asked(client)
    assert time.monotonic() - began < 5
    assert len(requests) < 40, "waits must grow"


def test_nobody_at_the_address_is_unavailable_after_the_patience():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with TeacherClient(url, patience_s=0.5) as client, pytest.raises(TeacherUnavailable):
            client.describe("shapes")


def test_an_answer_that_does_not_come_in_time_is_tried_again():
    def answer(count: int, rows: int) -> Answer:
        if count == 0:
            time.sleep(1)
        return fine(rows)

    with scripted(answer) as (url, requests), TeacherClient(url, timeout_s=0.3) as client:
        assert asked(client)[0].shape == (3, 4)
    assert len(requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", headers=HEADERS),
        Answer(b"not safetensors", headers=HEADERS),
        Answer(save({"other": np.zeros((3, 4), np.float32)}), headers=HEADERS),
        Answer(save({"logits": np.zeros((2, 4), np.float32)}), headers=HEADERS),
        Answer(save({"logits": np.zeros((3, 5), np.float32)}), headers=HEADERS),
        Answer(save({"logits": np.zeros((3, 4), np.float64)}), headers=HEADERS),
        Answer(save({"logits": np.full((3, 4), np.nan, np.float32)}), headers=HEADERS),
        Answer(save({"logits": np.zeros((3, 4), np.float32)}), headers=HEADERS | {"X-Temperature": "1.0"}),
        Answer(save({"logits": np.zeros((3, 4), np.float32)}), headers={"X-Teacher-Digest": DIGEST}),
        Answer(save({"logits": np.zeros((3, 4), np.float32)}), headers=HEADERS | {"Content-Digest": ""}),
        Answer(
            save({"logits": np.ones((3, 4), np.float32)}),
            headers=HEADERS
            | {"Content-Digest": content_digest(save({"logits": np.zeros((3, 4), np.float32)}))},
        ),
        Answer(b"<html>", 302, {"Location": "http://127.0.0.1:1/"}),
    ],
    ids=[
        "empty",
        "text",
        "name",
        "rows",
        "classes",
        "dtype",
        "nan",
        "temperature",
        "no temperature",
        "no digest",
        "another digest",
        "302",
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_tried_again_a_few_times(answer, monkeypatch):
    monkeypatch.setattr(teacher_client, "_WRONG_ANSWERS", 5)
    monkeypatch.setattr(teacher_replicas, "jittered_s", lambda _times: 0.01)
    with scripted(lambda n, rows: fine(rows) if n == 4 else answer) as (url, requests):
        with TeacherClient(url) as client:
            assert asked(client)[0].shape == (3, 4)
            assert len(requests) == 5
            with pytest.raises(TeacherAnswerInvalid):
                asked(client)
            assert client.rows_asked == 3
        assert len(requests) == 10


def test_what_the_service_says_of_itself_is_not_asked_again():
    with (
        scripted(lambda _n, _rows: refusal(500, "corrupt")) as (url, requests),
        TeacherClient(url) as client,
        pytest.raises(TeacherAnswerInvalid, match="corrupt"),
    ):
        asked(client)
    assert len(requests) == 1


def test_an_error_that_nobody_foresaw_in_the_service_is_survived_where_it_passes(monkeypatch):
    """Such as a GPU that another process has filled; where it stays, the job is told and not the queue."""
    monkeypatch.setattr(teacher_client, "_WRONG_ANSWERS", 3)
    monkeypatch.setattr(teacher_replicas, "jittered_s", lambda _times: 0.01)
    trouble = refusal(500, "internal-error")
    with scripted(lambda n, rows: fine(rows) if n == 2 else trouble) as (url, requests):
        with TeacherClient(url) as client:
            assert asked(client)[0].shape == (3, 4)
            assert len(requests) == 3
            with pytest.raises(TeacherAnswerInvalid, match=r"internal-error.*r1"):
                asked(client)
        assert len(requests) == 6


def test_a_request_that_was_changed_on_its_way_is_sent_again():
    answers = [refusal(422, "body-damaged"), Answer(b"<html>bad request", 400)]
    with scripted(lambda n, rows: answers[n] if n < 2 else fine(rows)) as (url, requests):  # noqa: SIM117
        with TeacherClient(url) as client:
            assert asked(client)[0].shape == (3, 4)
    assert len(requests) == 3
    assert requests[0]["Content-Digest"].startswith("sha-256=:")


def test_an_answer_that_comes_in_drops_or_never_ends_is_given_up():
    """Each piece comes in time; the whole never does, or is longer than it can be."""

    def drops(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    def never_ends(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    for answer, reason in ((drops, "no answer within"), (never_ends, "longer than")):
        with raw(answer) as url, TeacherClient(url, timeout_s=0.5, patience_s=1.0) as client:
            began = time.monotonic()
            with pytest.raises(TeacherUnavailable, match=reason):
                client.describe("shapes")
            assert time.monotonic() - began < 10


def test_a_key_goes_with_each_request_and_so_does_the_account_that_pays():
    with (
        scripted(lambda _n, rows: fine(rows)) as (url, requests),
        TeacherClient(url, key="imago_k", account="ab12") as client,
    ):
        asked(client)
    assert (requests[0]["Authorization"], requests[0]["X-Imago-Account"]) == ("Bearer imago_k", "ab12")


def test_a_budget_that_is_spent_ends_the_asking_with_its_figures():
    spent = TeacherBudgetSpent(100, 2, 3)
    problem = {"title": "No", "status": 429, "code": spent.code, "detail": str(spent), "remedy": "do"}
    answer = Answer(json.dumps(problem | {"request_id": "r"}).encode(), 429)
    with (
        scripted(lambda _n, _rows: answer) as (url, requests),
        TeacherClient(url) as client,
        pytest.raises(TeacherBudgetSpent) as raised,
    ):
        asked(client)
    assert (raised.value.budget, raised.value.left, raised.value.asked) == (100, 2, 3)
    assert len(requests) == 1


def test_a_key_that_the_service_refuses_is_told_with_the_variable_that_names_it():
    with (
        scripted(lambda _n, _rows: refusal(401, "unauthenticated")) as (url, requests),
        TeacherClient(url, key="old") as client,
        pytest.raises(InvalidRequest) as raised,
    ):
        asked(client)
    assert "TEACHER_KEY_FILE" in raised.value.remedy
    assert len(requests) == 1


@pytest.mark.parametrize("headers", [HEADERS | {"X-Teacher-Digest": "cd" * 32}, {"X-Temperature": "2.0"}])
def test_an_answer_of_another_teacher_is_refused(headers, monkeypatch):
    monkeypatch.setattr(teacher_client, "_WRONG_ANSWERS", 3)
    monkeypatch.setattr(teacher_replicas, "jittered_s", lambda _times: 0.01)
    answer = Answer(save({"logits": np.zeros((3, 4), np.float32)}), headers=headers)
    with (
        scripted(lambda _n, _rows: answer) as (url, _),
        TeacherClient(url) as client,
        pytest.raises(TeacherChanged),
    ):
        asked(client)


def test_several_requests_are_in_flight_and_no_more_than_allowed():
    now = most = 0
    lock = threading.Lock()

    def answer(_count: int, rows: int) -> Answer:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return fine(rows)

    with scripted(answer) as (url, _), TeacherClient(url, in_flight=3) as client:
        assert len(asked(client, [random_images(1)] * 12)) == 12
    assert most == 3


def test_batches_are_drawn_only_as_fast_as_answers_are_taken():
    drawn = 0

    def batches():
        nonlocal drawn
        for _ in range(50):
            drawn += 1
            yield random_images(1)

    with scripted(lambda _n, rows: fine(rows)) as (url, _), TeacherClient(url, in_flight=2) as client:
        answers = client.soft_targets("shapes", batches(), temperature=2.0, expected_digest=DIGEST)
        for taken in range(1, 11):
            next(answers)
            assert drawn <= taken + 2
        answers.close()


@pytest.mark.parametrize("trouble", ["waiting", "slow"])
def test_should_stop_ends_the_asking_soon_whatever_the_service_does(trouble):
    stop, release = threading.Event(), threading.Event()

    def answer(_count: int, rows: int) -> Answer:
        if trouble == "waiting":
            return refusal(503, "queue-full", **{"Retry-After": "30"})
        release.wait(10)
        return fine(rows)

    with scripted(answer) as (url, _), TeacherClient(url) as client:
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()
        assert asked(client, should_stop=stop.is_set) == {}
        client.close()
        assert time.monotonic() - began < 2
        release.set()


def test_what_should_stop_raises_is_raised():
    def stop() -> bool:
        raise KeyboardInterrupt

    with (
        scripted(lambda _n, rows: fine(rows)) as (url, _),
        TeacherClient(url) as client,
        pytest.raises(KeyboardInterrupt),
    ):
        asked(client, should_stop=stop)


def test_the_job_is_named_in_each_request():
    with (
        scripted(lambda _n, rows: fine(rows)) as (url, requests),
        TeacherClient(url) as client,
        logs.job_context("job-7"),
    ):
        asked(client)
    assert requests[0]["X-Request-ID"] == "job-7"


def test_closing_twice_does_nothing():
    client = TeacherClient("http://127.0.0.1:1")
    client.close()
    client.close()


# --- several replicas, and what is asked of them -----------------------------------------------------------


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_replicas_share_the_work_and_one_that_is_not_there_is_left_out():
    with (
        scripted(lambda _n, rows: fine(rows)) as (first, one),
        scripted(lambda _n, rows: fine(rows)) as (second, other),
        TeacherClient(f"{first}, {second},http://127.0.0.1:{free_port()}", in_flight=6) as client,
    ):
        assert len(asked(client, [random_images(2)] * 60)) == 60
    assert len(one) + len(other) == 60
    assert min(len(one), len(other)) > 10


def test_a_replica_that_does_not_answer_in_time_costs_one_wait_and_no_job():
    def hangs(_count: int, rows: int) -> Answer:
        time.sleep(1.0)
        return fine(rows)

    with (
        scripted(hangs) as (slow, hung),
        scripted(lambda _n, rows: fine(rows)) as (quick, _),
        TeacherClient(f"{slow},{quick}", in_flight=2, timeout_s=0.3) as client,
    ):
        began = time.monotonic()
        assert len(asked(client, [random_images(2)] * 40)) == 40
        assert time.monotonic() - began < 3
    assert len(hung) < 8


def test_a_name_that_stands_for_several_addresses_is_asked_at_each_under_its_name():
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1", "127.0.0.2"]

    with (
        scripted(lambda _n, rows: fine(rows)) as (url, here),
        scripted(lambda _n, rows: fine(rows), host="127.0.0.2", port=int(url.rsplit(":", 1)[1])) as (
            _,
            there,
        ),
        TeacherClient(url.replace("127.0.0.1", "teacher"), resolve=resolve) as client,
    ):
        assert len(asked(client, [random_images(2)] * 40)) == 40
    assert min(len(here), len(there)) > 5
    assert {request["Host"] for request in here + there} == {url.replace("http://127.0.0.1", "teacher")}


def test_a_service_that_refuses_everything_is_asked_little_more_than_once_a_call():
    """The budget: ten retries that were saved up, then one a second."""
    with (
        scripted(lambda _n, _rows: refusal(502, "unknown")) as (url, requests),
        TeacherClient(url, in_flight=8, patience_s=2.0) as client,
        pytest.raises(TeacherUnavailable),
    ):
        asked(client, [random_images(1)] * 8)
    assert len(requests) <= 8 + 10 + 3


def test_fewer_requests_are_in_flight_after_the_service_had_too_much_to_do():
    now, most = 0, []
    changed = threading.Condition()

    def answer(count: int, rows: int) -> Answer:
        nonlocal now
        if count < 4:
            return refusal(503, "queue-full")
        with changed:
            now += 1
            most.append(now)
            changed.notify_all()
            # Late ones wait for company: whether four come does not hang on how fast this machine is.
            late = len(most) > 30
            changed.wait_for(lambda: max(most) == 4, timeout=5.0 if late else 0.02)
            now -= 1
        return fine(rows)

    with scripted(answer) as (url, _), TeacherClient(url, in_flight=4) as client:
        assert len(asked(client, [random_images(1)] * 40)) == 40
    assert max(most[:4]) <= 2
    assert max(most) == 4, "and as many again after a while"


def test_a_teacher_that_tempers_answers_float16_at_t_1(service, teacher):
    images = random_images(9)
    with TeacherClient(service) as client:
        halves = asked(client, [images], temperature=1.0, expected_digest=teacher.digest)[0]
        whole = asked(client, [images], temperature=2.0, expected_digest=teacher.digest)[0]
    assert (halves.dtype, whole.dtype) == (np.float16, np.float32)
    expected = expected_logits(random_tensors(), images, temperature=1.0)
    np.testing.assert_allclose(halves, expected, rtol=2e-3, atol=1e-3)


def test_rows_that_are_not_finite_are_named(monkeypatch):
    monkeypatch.setattr(teacher_client, "_WRONG_ANSWERS", 1)
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = np.inf
    answer = Answer(save({"logits": logits}), headers=HEADERS)
    with (
        scripted(lambda _n, _rows: answer) as (url, _),
        TeacherClient(url) as client,
        pytest.raises(TeacherAnswerInvalid, match="row 1 of 3"),
    ):
        asked(client)


def test_requests_are_bulk_and_say_how_long_they_are_waited_for():
    with (
        scripted(lambda _n, rows: fine(rows)) as (url, requests),
        TeacherClient(url, timeout_s=7.5) as client,
    ):
        asked(client)
    assert (requests[0]["X-Lane"], requests[0]["X-Deadline-Ms"]) == ("bulk", "7500")
