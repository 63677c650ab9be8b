"""The main job in real containers: docker-compose.yml builds, starts, does the job, stops and comes back."""

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from shared.datasets.builtin import load_builtin
from tests.compose.stack import SERVICES, Stack, compose_command, engine_answers

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]

IMAGO_SERVICES = ("teacher", "worker", "gateway")
FINAL = {"succeeded", "failed", "cancelled"}
TEACHER_JOB = {
    "kind": "teacher",
    "name": "digits",
    "dataset": "mnist-5k",
    "architecture": {"architecture": "mlp", "hidden_units": [256, 256]},
    "regularisation": {},
    "budget": {"epochs": 3, "learning_rate": 0.003},
}
DISTILLATION_JOB = {
    "kind": "distillation",
    "name": "small-digits",
    "teacher": "digits",
    "dataset": "mnist-5k",
    "student": {"network": {"architecture": "mlp", "hidden_units": [64, 64]}},
    "objective": {"temperature": 4.0},
    "budget": {"epochs": 5, "learning_rate": 0.003},
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Images built, services up and healthy; taken down with all volumes afterwards."""
    command = compose_command()
    if command is None or not engine_answers():
        pytest.skip("no Docker engine with compose answers here, so the containers are not tested")
    nothing_set = tmp_path_factory.mktemp("compose") / "empty.env"
    nothing_set.touch()
    stack = Stack(command, nothing_set)
    stack.compose("build", timeout_s=1400)
    try:
        # The teacher mounts the fresh state volume first, and read-only: the worker must still own it.
        stack.compose("up", "-d", "teacher")
        stack.compose("up", "-d")
        stack.wait_healthy()
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[httpx.Client]:
    with asking(stack) as client:
        yield client


def asking(stack: Stack) -> httpx.Client:
    """Return a client with the first key, as whoever has started the containers finds it."""
    key = stack.execute("gateway", "cat", "/secrets/admin_key").stdout.strip()
    return httpx.Client(base_url=stack.gateway_url(), timeout=30, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture(scope="module")
def distilled(stack: Stack, client: httpx.Client) -> dict[str, Any]:
    """The distillation job after teacher and student were trained."""
    for job in (TEACHER_JOB, DISTILLATION_JOB):
        view = follow(client, submit(client, job))
        assert view["state"] == "succeeded", f"{view['failure']}\n{stack.logs()}"
    return view


@pytest.fixture(scope="module")
def live(client: httpx.Client, distilled: dict[str, Any]) -> str:
    """The version of the student, promoted."""
    version = distilled["result"]["student"]
    client.post(f"/v1/students/{version}/promote").raise_for_status()
    return version


def submit(client: httpx.Client, job: dict[str, Any]) -> str:
    answer = client.post("/v1/jobs", json=job)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


def follow(client: httpx.Client, location: str, timeout_s: float = 300) -> dict[str, Any]:
    """Read the job's events until one says that its state is final; return the job."""
    deadline = time.monotonic() + timeout_s
    with client.stream("GET", f"{location}/events", timeout=timeout_s) as events:
        for line in events.iter_lines():
            assert time.monotonic() < deadline, f"no end after {timeout_s} s"
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                if event["kind"] == "state" and event["data"]["state"] in FINAL:
                    break
    return client.get(location).raise_for_status().json()


def unseen_digits(count: int) -> tuple[list[bytes], list[str]]:
    """Return images of the test split as PNG, and what they show."""
    splits, classes, _ = load_builtin("mnist-5k", None)
    test = splits["test"]
    assert test.labels is not None
    return [png(image) for image in test.images[:count]], [classes[label] for label in test.labels[:count]]


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(file, format="PNG")
    return file.getvalue()


def predict(client: httpx.Client) -> dict[str, Any]:
    """Return the answer for one posted digit."""
    (digit,), _ = unseen_digits(1)
    answer = client.post("/v1/predictions", content=digit, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- how the containers are held ---------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_runs_as_root(stack: Stack, service: str):
    assert int(stack.execute(service, "id", "-u").stdout) > 0


@pytest.mark.parametrize("service", IMAGO_SERVICES)
def test_our_containers_run_under_one_fixed_user(stack: Stack, service: str):
    assert stack.execute(service, "id", "-u").stdout.strip() == "10001"


@pytest.mark.parametrize("service", SERVICES)
def test_the_root_file_system_takes_no_writes(stack: Stack, service: str):
    written = stack.execute(service, "sh", "-c", "touch /var/tmp/here")
    assert written.returncode != 0
    assert "Read-only file system" in written.stderr


def test_the_teacher_cannot_write_artefacts(stack: Stack):
    written = stack.execute("teacher", "sh", "-c", "touch /var/lib/imago/here")
    assert "Read-only file system" in written.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_the_engine_holds_each_container_to_its_limits(stack: Stack, service: str):
    host = stack.inspect(service)["HostConfig"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Init"] is True
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


def test_the_gateway_image_holds_no_torch(stack: Stack):
    loaded = stack.execute("gateway", "python", "-c", "import torch")
    assert "ModuleNotFoundError" in loaded.stderr


def test_only_the_gateway_is_published_and_only_on_this_machine(stack: Stack):
    ports = {service: stack.inspect(service)["NetworkSettings"]["Ports"] for service in SERVICES}
    bound = {service: [b for bindings in p.values() for b in bindings or []] for service, p in ports.items()}
    assert [binding["HostIp"] for binding in bound.pop("gateway")] == ["127.0.0.1"]
    assert set(map(len, bound.values())) == {0}


@pytest.mark.parametrize(
    ("from_service", "to", "talks"),
    [("teacher", "redis:6379", False), ("gateway", "teacher:8081", True)],
)
def test_a_part_reaches_what_it_asks_and_nothing_else(stack: Stack, from_service: str, to: str, talks: bool):
    """The gateway asks the teacher where a student is not sure of an image."""
    host, port = to.split(":")
    call = f"import socket; socket.create_connection(({host!r}, {port}), timeout=3)"
    assert (stack.execute(from_service, "python", "-c", call).returncode == 0) is talks


def test_the_gpu_file_reserves_a_gpu_for_teacher_and_worker(stack: Stack):
    both = ("-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml")
    services = yaml.safe_load(stack.compose(*both, "config"))["services"]
    for service in ("teacher", "worker"):
        (device,) = services[service]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert device["count"] == 1
    assert "deploy" not in services["gateway"]


# --- who gets in -------------------------------------------------------------------------------------------


def test_without_a_key_nobody_gets_an_answer(stack: Stack):
    with httpx.Client(base_url=stack.gateway_url(), timeout=30) as stranger:
        for path in ("/v1/jobs", "/v1/students", "/v2"):
            answer = stranger.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), path
        assert stranger.get("/health/ready").status_code == 200


def test_the_key_of_the_gateway_is_none_of_the_teacher_nor_the_other_way_round(stack: Stack):
    ask = (
        "import sys, urllib.request as r, urllib.error as e\n"
        "key = open(sys.argv[1]).read().strip()\n"
        "try: print(r.urlopen(r.Request(sys.argv[2], headers={'Authorization': f'Bearer {key}'})).status)\n"
        "except e.HTTPError as error: print(error.code)"
    )
    teacher, gateway = "http://teacher:8081/v1/teachers", "http://gateway:8080/v1/jobs"
    for key, url, status in (
        ("/secrets/teacher_key", teacher, "200"),
        ("/secrets/admin_key", teacher, "401"),
        ("/secrets/admin_key", gateway, "200"),
        ("/secrets/teacher_key", gateway, "401"),
    ):
        asked = stack.execute("gateway", "python", "-c", ask, key, url)
        assert asked.stdout.strip() == status, (key, url, asked.stderr)


def test_redis_refuses_whoever_has_no_password(stack: Stack):
    assert "NOAUTH" in stack.execute("redis", "redis-cli", "ping").stdout


@pytest.mark.parametrize("role", ["worker", "gateway"])
def test_no_role_has_redis_in_its_hands(stack: Stack, role: str):
    ask = (
        "import redis, sys\n"
        "client = redis.Redis.from_url(open('/secrets/redis_url').read().strip())\n"
        "print(client.ping())\n"
        "for command in (['FLUSHALL'], ['CONFIG', 'GET', '*'], ['KEYS', '*'], ['ACL', 'LIST']):\n"
        "    try: print(client.execute_command(*command))\n"
        "    except redis.exceptions.NoPermissionError: print('no')"
    )
    asked = stack.execute(role, "python", "-c", ask)
    assert asked.stdout.split() == ["True", "no", "no", "no", "no"], asked.stderr


@pytest.mark.parametrize(
    ("service", "files"),
    [
        ("redis", ["health", "users.acl"]),
        ("teacher", ["key"]),
        ("worker", ["redis_url", "teacher_key"]),
        ("gateway", ["admin_key", "redis_url", "teacher_key"]),
    ],
)
def test_each_role_reads_its_own_secrets_and_changes_none(stack: Stack, service: str, files: list[str]):
    assert sorted(stack.execute(service, "ls", "/secrets").stdout.split()) == files
    written = stack.execute(service, "sh", "-c", "echo mine > /secrets/health")
    assert "Read-only file system" in written.stderr
    environment = stack.inspect(service)["Config"]["Env"]
    assert not any("@redis" in variable or "KEY=" in variable for variable in environment), "files only"


def test_who_makes_the_secrets_has_no_network_and_leaves(stack: Stack):
    made = stack.inspect("secrets")
    assert (made["State"]["Status"], made["State"]["ExitCode"]) == ("exited", 0)
    assert made["HostConfig"]["NetworkMode"] == "none"
    assert made["HostConfig"]["ReadonlyRootfs"] is True
    assert made["HostConfig"]["CapDrop"] == ["ALL"]


# --- what they do ------------------------------------------------------------------------------------------


def test_the_main_job_ends_in_a_verdict(client: httpx.Client, distilled: dict[str, Any]):
    assert distilled["result"]["verdict"] in {"BEATS", "DOES NOT BEAT", "INCONCLUSIVE"}
    report = client.get(f"/v1/jobs/{distilled['id']}/report").raise_for_status()
    assert report.json()


def test_the_promoted_student_answers_a_posted_digit(client: httpx.Client, live: str):
    answer = predict(client)
    assert answer["student"] == live
    assert answer["temperature"] == 1.0
    (prediction,) = answer["predictions"]
    assert prediction["predicted"] == prediction["classes"][0]["name"]


def test_the_student_has_learnt_to_read(client: httpx.Client, live: str):
    images, labels = unseen_digits(60)
    form = [("images", (f"{number}.png", image, "image/png")) for number, image in enumerate(images)]
    answer = client.post("/v1/predictions", files=form).raise_for_status().json()
    right = sum(p["predicted"] == label for p, label in zip(answer["predictions"], labels, strict=True))
    assert right > 40, "about 55 of 60 are usual, 6 are chance"


def test_what_was_made_survives_the_containers(stack: Stack, live: str):
    stack.compose("down")
    stack.compose("up", "-d")
    stack.wait_healthy()
    with asking(stack) as client:
        students = client.get("/v1/students").raise_for_status().json()
        assert students["live"] == live
        assert predict(client)["student"] == live
        jobs = client.get("/v1/jobs").raise_for_status().json()["jobs"]
        assert [job["state"] for job in jobs] == ["succeeded", "succeeded"]


def test_every_service_stops_by_itself_when_asked(stack: Stack):
    """Last in the file: it leaves the stack stopped."""
    started = time.monotonic()
    stack.compose("stop")
    assert time.monotonic() - started < 30, "the shortest stop_grace_period is 30 s"
    for service in SERVICES:
        state = stack.inspect(service)["State"]
        assert state["ExitCode"] in {0, 143}, (service, state, stack.logs())
        assert state["OOMKilled"] is False
