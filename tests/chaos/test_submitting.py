"""Promises 1 and 5: whatever Redis does, a submission is answered in time and kept, and predictions go on."""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from shared.artefacts.store import ArtefactStore
from shared.artefacts.traffic import TrafficFile
from shared.contracts.jobs import JobState
from shared.contracts.traffic import Cascade, TrafficPolicy
from tests.chaos.asking import Asking
from tests.chaos.fleet import artefact_is_its_own, commits, fleet
from tests.support.gateway_process import GatewayProcess
from tests.support.redis_server import RedisServer, free_port
from tests.support.student_bundles import DIGIT_INPUT, DIGITS, card, mlp_onnx
from tests.support.teachers import publish, random_tensors, start_teacher, stop
from tests.support.worker_process import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SPEC = {"kind": "teacher", "name": "work", "dataset": "mnist-5k", "budget": {"epochs": 1}}
MOST_S = 2.5


def down(server: RedisServer, seconds: float) -> None:
    server.stop(signal.SIGKILL)
    time.sleep(seconds)
    server.start()


def hung(server: RedisServer, seconds: float) -> None:
    server.send(signal.SIGSTOP)
    time.sleep(seconds)
    server.send(signal.SIGCONT)


def restarting(server: RedisServer, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        server.stop(signal.SIGKILL)
        server.start()
        time.sleep(0.2)


class Submitter(threading.Thread):
    """Posts jobs; where the answer is 503 the same again, with the same key, as a client does."""

    def __init__(self, url: str, keys: Iterator[int], over: threading.Event) -> None:
        super().__init__()
        self.accepted: dict[str, str] = {}
        self.answers: list[tuple[int, float]] = []
        self.odd: list[str] = []
        self._url, self._keys, self._over = url, keys, over

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._over.is_set():
                key = f"key-{next(self._keys)}"
                while key not in self.accepted and len(self.odd) < 10:
                    self._post(client, key)
                # Whoever asks again is told of the same job.
                if self.accepted and self._post(client, key) not in (None, self.accepted[key]):
                    self.odd.append(f"{key} made two jobs")
                time.sleep(0.1)

    def _post(self, client: httpx.Client, key: str) -> str | None:
        began = time.monotonic()
        try:
            answer = client.post(f"{self._url}/v1/jobs", json=SPEC, headers={"Idempotency-Key": key})
        except httpx.HTTPError as error:
            self.odd.append(repr(error))
            return None
        self.answers.append((answer.status_code, time.monotonic() - began))
        if answer.status_code in (200, 201):
            return self.accepted.setdefault(key, str(answer.json()["id"]))
        if answer.status_code != 503 or not answer.headers.get("Retry-After"):
            self.odd.append(f"{answer.status_code} {answer.text[:300]}")
        time.sleep(0.1)
        return None


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[GatewayProcess]:
    """One with a student whose teacher is to be asked about each image, and is not there."""
    store = ArtefactStore(tmp_path / "store")
    tensors = random_tensors(hidden=(16,), size=DIGIT_INPUT, classes=10)
    teacher = publish(store.root, "digits-teacher", tensors=tensors, classes=DIGITS)
    model = mlp_onnx()
    described = card("digits-1", model).model_copy(
        update={"teacher": teacher.name, "teacher_digest": teacher.digest}
    )

    def build(directory: Path) -> None:
        (directory / "model.onnx").write_bytes(model)
        (directory / "card.json").write_text(described.model_dump_json())

    store.students.publish("digits-1", build)
    store.students.promote("digits-1")
    nowhere = f"http://127.0.0.1:{free_port()}"
    started = GatewayProcess(tmp_path, redis_url, TEACHER_URL=nowhere).start()
    yield started
    started.stop()


@pytest.mark.parametrize("fault", [down, hung, restarting])
def test_whatever_redis_does_each_submission_is_answered_in_time_and_each_201_ends(
    gateway: GatewayProcess,
    redis_server: RedisServer,
    tmp_path: Path,
    fault: Callable[[RedisServer, float], None],
    sized,
    told,
):
    rounds, seconds, submitters = sized((1, 4.0, 4), (4, 4.0, 16))
    over, keys = threading.Event(), itertools.count()
    with fleet(redis_server, tmp_path) as workers, Asking(gateway.url) as asking:
        for _ in range(2):
            workers.start(concurrency=4)
        # The first job of a gateway loads Celery, which is no matter of Redis.
        httpx.post(f"{gateway.url}/v1/jobs", json=SPEC, timeout=60).raise_for_status()
        threads = [Submitter(gateway.url, keys, over) for _ in range(submitters)]
        for thread in threads:
            thread.start()
        for _ in range(rounds):
            time.sleep(0.5)
            fault(redis_server, seconds)
        time.sleep(0.5)
        over.set()
        for thread in threads:
            thread.join()
        made = {job for thread in threads for job in thread.accepted.values()}
        ends = [workers.final(job, 120) for job in made]
        once = sum(commits(workers.events(job)) == 1 for job in made)
        recorded = workers.recorded()
    answers = [answer for thread in threads for answer in thread.answers]
    odd = [one for thread in threads for one in thread.odd]
    refused = sum(status == 503 for status, _ in answers)
    longest = max(seconds for _, seconds in answers)
    what = f"Redis {fault.__name__} while {submitters} clients submit"
    told(
        1,
        f"{what}: slowest answer",
        f"{longest:.2f} s, of {len(answers):,} ({refused} times 503 with Retry-After, {len(odd)} others)",
        f"{MOST_S} s, 201 or 503",
        held=not odd and refused >= sized(0, 1) and longest <= sized(MOST_S + 5, MOST_S),
    )
    well = sum(artefact_is_its_own(job, tmp_path) for job in ends)
    told(
        1,
        f"{what}: each 201 ended, once; a key sent again made no second job",
        f"{min(well, once)} of {len(made)} accepted, {recorded - 1} recorded",
        f"{len(made)}",
        held=well == once == len(made) == recorded - 1,
    )
    told(
        5,
        f"{what}: predictions that failed meanwhile",
        f"{len(asking.failed)} of {asking.asked:,}, slowest {asking.longest_s * 1000:.0f} ms",
        "0",
        held=not asking.failed and asking.asked > 0,
    )


def test_predictions_go_on_when_redis_worker_and_teacher_are_killed(
    tmp_path: Path, gateway: GatewayProcess, redis_server: RedisServer, sized, told
):
    """The traffic policy has the teacher asked about every image: once it is dead the student answers."""
    teacher, url = start_teacher(tmp_path)
    asked = GatewayProcess(tmp_path, redis_server.url, TEACHER_URL=url).start()
    policy = TrafficPolicy(cascade=Cascade(threshold=1.0, deadline_ms=sized(2000, 200)))
    TrafficFile(tmp_path / "store" / "students").write(policy)
    try:
        with fleet(redis_server, tmp_path) as workers:
            worker = workers.start()
            eventually(worker.is_ready, 120, "the worker is ready")
            with Asking(asked.url) as asking:
                time.sleep(1)
                for kill in (
                    lambda: workers.kill(worker),
                    lambda: redis_server.stop(signal.SIGKILL),
                    teacher.kill,
                ):
                    kill()
                    time.sleep(sized(0.5, 5))
                redis_server.start()
    finally:
        asked.stop()
        stop(teacher)
        if redis_server.process is None:
            redis_server.start()
    told(
        5,
        "worker, Redis and teacher killed in turn, under a policy that asks the teacher about each image",
        f"{len(asking.failed)} of {asking.asked:,} predictions failed, slowest {asking.longest_s:.2f} s",
        "0",
        held=not asking.failed and asking.asked > 0,
    )


def test_what_is_submitted_while_no_worker_lives_ends_when_one_comes(
    gateway: GatewayProcess, redis_server: RedisServer, tmp_path: Path, sized, told
):
    jobs = sized(5, 100)
    with httpx.Client(base_url=gateway.url, timeout=30) as client, fleet(redis_server, tmp_path) as workers:
        answers = [client.post("/v1/jobs", json=SPEC).raise_for_status() for _ in range(jobs)]
        accepted = [str(answer.json()["id"]) for answer in answers]
        redis_server.stop(signal.SIGKILL)
        redis_server.start()
        workers.start(concurrency=4)
        ended = sum(workers.final(job, 120).state is JobState.SUCCEEDED for job in accepted)
    told(
        1,
        "jobs accepted while no worker lived, Redis killed before one came: ended",
        f"{ended} of {jobs}",
        f"{jobs}",
        held=ended == jobs,
    )
