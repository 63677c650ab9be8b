"""A report's files one by one, and the newest checkpoint."""

from pathlib import Path

import pytest

from services.gateway.routes import reports
from shared.artefacts.checkpoints import Checkpoint, CheckpointFolder, last_checkpoint
from shared.contracts.jobs import JobResult
from shared.contracts.specs import SweepSpec, SweepTrialsSpec
from tests.support.gateway_in_process import refused

REPORT = '{"kind": "of-another-version", "plots": [{"name": "curves", "title": "Training"}], "new": 1}'
CONTENT = {
    "report.json": REPORT.encode(),
    "report.md": b"# Report\n",
    "curves.png": b"\x89PNG",
    "curves.svg": b"<svg/>",
}


@pytest.fixture
def job(gateway) -> str:
    spec = {"kind": "teacher", "name": "digits-teacher", "dataset": "mnist-5k"}
    return gateway.client.post("/v1/jobs", json=spec).json()["id"]


@pytest.fixture
def files(gateway, job: str) -> str:
    folder = gateway.store.job(job).directory
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    (folder / "nets.safetensors").write_bytes(b"weights")
    (folder / "other.png").write_bytes(b"of nobody")
    grant = gateway.jobs.acquire(job, 30.0, 3)
    gateway.jobs.succeed(job, grant.epoch, JobResult(teacher="digits-teacher"))
    return f"/v1/jobs/{job}/report/files"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("report.json", "application/json"),
        ("report.md", "text/markdown; charset=utf-8"),
        ("curves.png", "image/png"),
        ("curves.svg", "image/svg+xml"),
    ],
)
def test_each_file_of_the_report_is_given_as_what_it_is(gateway, files: str, name: str, media_type: str):
    answer = gateway.client.get(f"{files}/{name}")
    assert answer.status_code == 200
    assert answer.content == CONTENT[name]
    assert answer.headers["content-type"] == media_type


@pytest.mark.parametrize(
    "name", ["nets.safetensors", "other.png", "curves.pdf", "..%2Freport.json", "%2Fetc%2Fpasswd", "curves"]
)
def test_what_the_report_does_not_list_is_not_given(gateway, files: str, name: str):
    answer = gateway.client.get(f"{files}/{name}")
    if "%2F" in name:  # a slash never reaches the route as part of a name
        assert answer.status_code == 404
        return
    problem = refused(answer, 404, "file-not-in-bundle")
    assert "curves.png" in problem["remedy"]


def test_files_of_a_job_without_a_report_are_not_ready(gateway, job: str):
    refused(gateway.client.get(f"/v1/jobs/{job}/report/files/curves.png"), 404, "report-not-ready")
    refused(gateway.client.get("/v1/jobs/j-none/report/files/curves.png"), 404, "job-not-found")


def test_the_report_of_a_part_of_a_job_is_to_be_read_at_its_parent(gateway, job: str):
    order = SweepSpec(name="s", teacher="digits-teacher", dataset="mnist-5k")
    part = SweepTrialsSpec(
        name="s", dataset="mnist-5k", study="a", transfer_set="0" * 64, network=order.networks[0], order=order
    )
    grant = gateway.jobs.acquire(job, 30.0, 3)
    gateway.jobs.wait(job, grant.epoch, [(f"{job}-000", part)])
    for path in ("report", "report/files/curves.png"):
        problem = refused(gateway.client.get(f"/v1/jobs/{job}-000/{path}"), 404, "report-not-ready")
        assert job in problem["detail"]
        assert f"GET /v1/jobs/{job}/report" in problem["remedy"]


# --- the checkpoint ----------------------------------------------------------------------------------------


def test_the_newest_checkpoint_of_a_cancelled_job_is_served_whole(gateway, job):
    refused(gateway.client.get(f"/v1/jobs/{job}/checkpoint"), 404, "checkpoint-not-found")
    folder = CheckpointFolder(gateway.store.job(job).checkpoints / "training")
    folder.save({"epoch": 1}, b"older weights")
    folder.save({"epoch": 2}, b"newer weights")
    gateway.client.post(f"/v1/jobs/{job}/cancel")
    answer = gateway.client.get(f"/v1/jobs/{job}/checkpoint")
    assert (answer.status_code, answer.content) == (200, b"newer weights")
    assert answer.headers["Content-Length"] == "13"
    assert f"{job}-training-00000002.safetensors" in answer.headers["Content-Disposition"]


def test_a_checkpoint_that_is_damaged_gives_way_to_the_one_before(gateway, job):
    folder = CheckpointFolder(gateway.store.job(job).checkpoints / "training")
    for number in (1, 2):
        folder.save({"epoch": number}, f"weights {number}".encode())
    newest = folder.newest()
    newest.weights.write_bytes(b"damaged")
    assert gateway.client.get(f"/v1/jobs/{job}/checkpoint").content == b"weights 1"


@pytest.mark.parametrize(("times", "status"), [(2, 200), (3, 404)])
def test_a_checkpoint_that_is_replaced_before_it_is_open_is_looked_for_again(
    gateway, job, monkeypatch, times: int, status: int
):
    folder = CheckpointFolder(gateway.store.job(job).checkpoints / "training")
    folder.save({"epoch": 0}, b"weights 0")
    looks: list[int] = []

    def found_and_replaced(of: Path) -> Checkpoint | None:
        found = last_checkpoint(of)
        looks.append(1)
        if len(looks) <= times:
            for number in (1, 2):
                folder.save({"epoch": len(looks)}, f"weights {len(looks)}, {number}".encode())
        return found

    monkeypatch.setattr(reports, "last_checkpoint", found_and_replaced)
    answer = gateway.client.get(f"/v1/jobs/{job}/checkpoint")
    assert (answer.status_code, len(looks)) == (status, 3)
    if status == 200:
        assert answer.content == b"weights 2, 2"
