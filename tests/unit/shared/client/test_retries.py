"""What is tried again, how often, and how long is waited."""

import contextlib
import statistics
import time
from collections.abc import Callable

import httpx
import pytest

from shared.client import DeadlineMissed, GatewayError, GatewayRefused, GatewayUnreachable, Retries
from shared.client import endpoints as api
from shared.client.exchange import refusal
from shared.client.retries import Attempts, Budget
from shared.contracts.problems import Problem
from shared.contracts.traffic import TrafficPolicy
from shared.errors import DeadlineExceeded
from tests.support.both_clients import Clients
from tests.support.fake_gateway import SPEC, FakeGateway, prediction

IMAGE = b"an image"
READ = httpx.ReadError("cut")


class Flaky:
    """Fails as it is told to, then answers like the gateway in memory."""

    def __init__(self, *failures: Exception | httpx.Response) -> None:
        self.failures = list(failures)
        self.seen: list[httpx.Request] = []
        self.gateway = FakeGateway()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return httpx.Response(failure.status_code, headers=failure.headers, content=failure.content)
        return self.gateway.transport().handle_request(request)


def busy(status: int = 503, code: str = "queue-full", **headers: str) -> httpx.Response:
    problem = Problem(title="no", status=status, code=code, detail="too much", remedy="Wait.")
    return httpx.Response(status, content=problem.model_dump_json(), headers=headers)


def test_a_submit_whose_answer_was_lost_is_sent_again_under_the_same_key(clients: Clients):
    flaky = Flaky(READ)
    assert clients(answer=flaky).submit(SPEC).spec == SPEC
    first, second = (request.headers["Idempotency-Key"] for request in flaky.seen)
    assert first == second


REPEATED: list[Callable[..., object]] = [
    lambda client: client.students(),
    lambda client: client.predict(IMAGE),
    lambda client: client.promote("v-1"),
]


@pytest.mark.parametrize("ask", REPEATED)
@pytest.mark.parametrize(
    "failure",
    [
        READ,
        httpx.RemoteProtocolError("disconnected"),
        httpx.ConnectError("refused"),
        busy(**{"Retry-After": "0"}),
        httpx.Response(502, text="of a proxy"),
    ],
    ids=["cut", "disconnected", "refused", "busy", "proxy"],
)
def test_what_is_safe_to_repeat_is_asked_again(clients: Clients, ask, failure):
    flaky = Flaky(failure, failure)
    ask(clients(answer=flaky))
    assert len(flaky.seen) == 3


ONCE: list[Callable[..., object]] = [
    lambda client: client.rollback(),
    lambda client: client.delete_transfer_set("ab"),
    lambda client: client.cancel("j-1"),
    lambda client: client.set_traffic(TrafficPolicy(), revision=3),
]


@pytest.mark.parametrize("ask", ONCE)
@pytest.mark.parametrize("failure", [READ, busy(**{"Retry-After": "0"})], ids=["cut", "busy"])
def test_what_may_have_been_done_is_not_asked_again(clients: Clients, ask, failure):
    flaky = Flaky(failure)
    with pytest.raises(GatewayError):
        ask(clients(answer=flaky))
    assert len(flaky.seen) == 1


@pytest.mark.parametrize("ask", ONCE)
def test_what_never_left_is_sent_again_whatever_it_is(clients: Clients, ask):
    flaky = Flaky(httpx.ConnectError("refused"))
    with contextlib.suppress(GatewayRefused):  # the gateway in memory does not know them all
        ask(clients(answer=flaky))
    assert len(flaky.seen) == 2


@pytest.mark.parametrize(
    "failure", [busy(), busy(404, "x"), httpx.ReadTimeout("slow"), httpx.UnsupportedProtocol("gopher")]
)
def test_what_waiting_does_not_mend_is_told_at_once(clients: Clients, failure):
    flaky = Flaky(failure)
    with pytest.raises(GatewayError):
        clients(answer=flaky).students()
    assert len(flaky.seen) == 1


def test_attempts_end_and_the_last_failure_is_told(clients: Clients):
    flaky = Flaky(READ, READ, httpx.ReadError("last"), READ)
    with pytest.raises(GatewayUnreachable, match="last"):
        clients(answer=flaky, retries=Retries(attempts=3)).students()
    assert len(flaky.seen) == 3


def test_a_form_is_sent_again_whole(clients: Clients, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    flaky = Flaky(httpx.ConnectError("refused"))
    clients(answer=flaky).add_dataset("mine", [tmp_path / "a.zip"])
    first, second = (request.content for request in flaky.seen)
    assert first == second


# --- waits -------------------------------------------------------------------------------------------------


def attempts(call: object = None, budget: Budget | None = None, **options: float) -> Attempts:
    return Attempts(call or api.students(), Retries(**options), budget or Budget(), "r-1")  # type: ignore[arg-type]


def refused(response: httpx.Response) -> GatewayRefused:
    response.request = httpx.Request("GET", "http://gateway.test/")
    return refusal(response)


def test_a_wait_is_anything_from_nothing_to_a_bound_that_doubles():
    for times, bound in ((1, 0.2), (2, 0.4), (3, 0.8)):
        waits = []
        for _ in range(300):
            tried = attempts(attempts=9)
            for _ in range(times):
                wait_s = tried.broke(READ, "url")
            waits.append(wait_s)
        assert 0 <= min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound
        assert statistics.mean(waits) == pytest.approx(bound / 2, rel=0.25)


def test_retry_after_is_the_least_that_is_waited():
    assert 7 <= attempts().refused(refused(busy(**{"Retry-After": "7"}))) < 8


def test_retry_after_may_be_a_date():
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 20))
    assert 15 < attempts().refused(refused(busy(**{"Retry-After": soon}))) < 21
    past = refused(busy(**{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}))
    assert attempts().refused(past) < 1
    assert refused(busy(**{"Retry-After": "soon"})).retry_after_s is None


def test_a_retry_after_that_is_too_long_is_left_to_the_caller():
    with pytest.raises(GatewayRefused) as told:
        attempts().refused(refused(busy(**{"Retry-After": "3600"})))
    assert told.value.retry_after_s == 3600


def test_retries_are_a_share_of_the_calls_once_those_at_the_start_are_spent():
    budget = Budget(clock=lambda: 0.0)
    again = 0
    for _ in range(110):
        with contextlib.suppress(GatewayUnreachable):
            attempts(budget=budget).broke(READ, "url")
            again += 1
    assert 30 <= again <= 32  # ten at the start, and a fifth of the calls


def test_retries_come_with_time_too():
    now = 0.0
    budget = Budget(clock=lambda: now)
    while budget.take():
        pass
    now = 3.0
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


# --- deadlines ---------------------------------------------------------------------------------------------


def test_each_attempt_says_how_much_time_is_left(clients: Clients):
    flaky = Flaky(READ)
    clients(answer=flaky).predict(IMAGE, deadline_s=30)
    first, second = (int(request.headers["X-Deadline-Ms"]) for request in flaky.seen)
    assert 30_000 >= first >= second > 10_000


def test_without_a_deadline_none_is_sent(clients: Clients):
    flaky = Flaky()
    clients(answer=flaky).predict(IMAGE)
    assert "X-Deadline-Ms" not in flaky.seen[0].headers


def test_a_deadline_that_has_passed_asks_nobody(clients: Clients):
    flaky = Flaky()
    with pytest.raises(DeadlineMissed):
        clients(answer=flaky).predict(IMAGE, deadline_s=0)
    assert not flaky.seen


def test_the_gateway_may_say_that_the_time_is_over(clients: Clients):
    flaky = Flaky(busy(504, "deadline-exceeded", **{"Retry-After": "1"}))
    with pytest.raises(DeadlineExceeded) as missed:
        clients(answer=flaky).predict(IMAGE, deadline_s=20)
    assert isinstance(missed.value, GatewayError)
    assert len(flaky.seen) == 1


def test_a_wait_that_would_outlast_the_deadline_is_not_waited(clients: Clients):
    flaky = Flaky(busy(**{"Retry-After": "20"}))
    with pytest.raises(GatewayRefused) as told:
        clients(answer=flaky).predict(IMAGE, deadline_s=10)
    assert told.value.code == "queue-full"


def test_a_time_out_at_the_deadline_is_a_missed_deadline():
    tried = attempts(api.predict(IMAGE, deadline_s=0.02))
    time.sleep(0.03)
    with pytest.raises(DeadlineMissed):
        tried.broke(httpx.ReadTimeout("slow"), "url")


def test_an_answer_in_time_is_an_answer(clients: Clients):
    client = clients(answer=lambda _request: httpx.Response(200, text=prediction(1).model_dump_json()))
    assert client.predict(IMAGE, deadline_s=20).predictions[0].predicted == "7"
