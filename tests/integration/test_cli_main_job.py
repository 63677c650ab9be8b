"""The main job by the command line, on the real stack: every command once, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.cli.digit import held_out_digit
from tests.support.redis_server import free_port

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


class Imago:
    """Runs commands against the stack of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.environment = os.environ | {
            "IMAGO_STATE_DIR": str(state_dir),
            "GATEWAY_PORT": str(free_port()),
            "TEACHER_PORT": str(free_port()),
            "PYTHONPATH": str(ROOT),
        }
        for name in ("REDIS_URL", "IMAGO_GATEWAY_URL", "IMAGO_DATA_DIR"):
            self.environment.pop(name, None)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", *arguments],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments: str, status: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=400)
        assert process.returncode == status, out + err
        return out if status == 0 else err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture(scope="module")
def imago(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imago]:
    imago = Imago(tmp_path_factory.mktemp("cli") / "state")
    up = imago.start("up", "--json")
    assert up.stdout is not None
    line = up.stdout.readline()
    assert line, up.communicate()[1]
    family = psutil.Process(up.pid).children(recursive=True)
    yield imago
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=90)
    assert up.returncode == 0
    assert [process for process in family if process.is_running()] == []


@pytest.fixture(scope="module")
def version(imago: Imago) -> str:
    """Train a small teacher, distil a small student; return its version."""
    imago(
        "jobs", "submit", "--kind", "teacher", "--name", "small-teacher", "--dataset", "mnist-5k",
        "--hidden-units", "64", "--epochs", "2", "--watch",
    )  # fmt: skip
    lines = imago(
        "jobs", "submit", "--name", "small-student", "--teacher", "small-teacher", "--dataset", "mnist-5k",
        "--hidden-units", "32", "--epochs", "2", "--seeds", "0,1", "--temperature", "4", "--watch", "--json",
    ).splitlines()  # fmt: skip
    job = json.loads(lines[-1])
    assert job["state"] == "succeeded"
    stages = {json.loads(line)["data"].get("stage") for line in lines[:-1]}
    assert stages >= {"check", "transfer_set", "train", "evaluate", "export", "report"}
    student: str = job["result"]["student"]
    return student


def test_what_was_made_is_listed(imago: Imago, version: str):
    students = imago.json("students", "list")["students"]
    assert [student["version"] for student in students] == [version]
    assert [teacher["name"] for teacher in imago.json("teachers", "list")["teachers"]] == ["small-teacher"]
    assert {job["state"] for job in imago.json("jobs", "list")["jobs"]} == {"succeeded"}
    assert "mnist-5k" in imago("datasets", "list")
    assert version in imago("students", "show", version)


def test_the_report_comes_as_json_and_as_markdown(imago: Imago, version: str):
    job = imago.json("students", "show", version)["job_id"]
    assert imago.json("jobs", "report", job)["student_version"] == version
    assert imago("jobs", "report", job).startswith("#")


def test_a_promoted_student_answers(imago: Imago, version: str, tmp_path: Path):
    image = tmp_path / "digit.png"
    image.write_bytes(held_out_digit("mnist-5k", None).png())
    assert imago.json("students", "promote", version)["version"] == version
    answer = imago.json("predict", str(image), str(image), "--top", "10")
    assert answer["student"] == version
    assert len(answer["predictions"]) == 2
    probabilities = [entry["probability"] for entry in answer["predictions"][0]["classes"]]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert imago("students", "rollback", status=1).startswith("error: nothing-to-roll-back: ")


def test_refusals_of_the_real_gateway_are_one_line(imago: Imago, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    for arguments, code in (
        (("jobs", "show", "j-none"), "job-not-found"),
        (
            ("jobs", "submit", "--name", "s", "--teacher", "none", "--dataset", "mnist-5k"),
            "teacher-not-found",
        ),
        (
            (
                "jobs",
                "submit",
                "--name",
                "s",
                "--teacher",
                "t",
                "--dataset",
                "mnist-5k",
                "--temperature",
                "nan",
            ),
            "invalid-temperature",
        ),
        (("datasets", "add", "mine", str(tmp_path / "broken.zip")), "invalid-dataset"),
    ):
        error = imago(*arguments, status=1)
        assert error.startswith(f"error: {code}: ")
        assert error.count("\n") == 1


def test_a_job_is_cancelled(imago: Imago):
    job = imago.json(
        "jobs", "submit", "--kind", "teacher", "--name", "long", "--dataset", "mnist-5k", "--epochs", "5000"
    )["id"]
    watcher = imago.start("jobs", "watch", job)
    assert watcher.stdout is not None
    assert any(" train " in line for line in watcher.stdout)
    imago("jobs", "cancel", job)
    _, err = watcher.communicate(timeout=60)
    assert watcher.returncode == 1
    assert err.startswith("error: job-cancelled: ")
