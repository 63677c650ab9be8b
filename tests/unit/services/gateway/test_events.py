import threading
import time

import pytest

from services.gateway.routes import events
from shared.contracts.jobs import JobEvent, JobResult, Progress, Stage
from shared.errors import JobStoreUnavailable


@pytest.fixture
def job(gateway) -> str:
    spec = {"kind": "teacher", "name": "digits-teacher", "dataset": "mnist-5k"}
    return str(gateway.client.post("/v1/jobs", json=spec).json()["id"])


def finish(gateway, job):
    grant = gateway.jobs.acquire(job, 30.0, 3)
    gateway.jobs.progress(job, grant.epoch, Progress(stage=Stage.TRAIN, done=1, total=2, unit="epochs"))
    gateway.jobs.note(job, grant.epoch, "the teacher is ready")
    gateway.jobs.succeed(job, grant.epoch, JobResult(teacher="digits-teacher"))


def blocks(gateway, job, **headers):
    answer = gateway.client.get(f"/v1/jobs/{job}/events", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [block for block in answer.text.split("\n\n") if block]


def read(block):
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    event = JobEvent.model_validate_json(fields["data"])
    assert (fields["id"], fields["event"]) == (event.id, event.kind)
    return event


def test_a_finished_job_is_told_from_its_first_event_to_its_last_and_the_stream_ends(gateway, job):
    finish(gateway, job)
    retry, *told = blocks(gateway, job)
    assert retry == "retry: 1000"
    assert [read(block) for block in told] == list(gateway.jobs.events(job))
    assert read(told[-1]).data["state"] == "succeeded"


def test_a_stream_stays_open_while_its_job_waits_for_children(gateway, job):
    grant = gateway.jobs.acquire(job, 30.0, 3)
    gateway.jobs.wait(job, grant.epoch, [(f"{job}-000", gateway.jobs.get(job).spec)])

    def end_later():
        child = gateway.jobs.acquire(f"{job}-000", 30.0, 3)
        gateway.jobs.succeed(child.job_id, child.epoch, JobResult())
        finish(gateway, job)

    later = threading.Timer(0.5, end_later)
    later.start()
    _, *told = blocks(gateway, job)
    later.join()
    assert [read(block).data.get("state") for block in told if "event: state" in block] == [
        "queued", "running", "waiting", "queued", "running", "succeeded",
    ]  # fmt: skip


def test_a_stream_goes_on_behind_the_last_event_that_the_client_saw(gateway, job):
    finish(gateway, job)
    every = list(gateway.jobs.events(job))
    for i, seen in enumerate(every):
        _, *told = blocks(gateway, job, **{"Last-Event-ID": seen.id})
        assert [read(block) for block in told] == every[i + 1 :]


def test_more_events_than_are_read_at_once_all_arrive(gateway, job, monkeypatch):
    monkeypatch.setattr(events, "_AT_ONCE", 2)
    finish(gateway, job)
    _, *told = blocks(gateway, job)
    assert [read(block) for block in told] == list(gateway.jobs.events(job))


def test_a_stream_outlives_a_job_store_that_is_away_for_a_moment(gateway, job, monkeypatch):
    finish(gateway, job)
    there, calls = gateway.jobs.events, []

    def away_at_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise JobStoreUnavailable("restarting")
        return there(*arguments)

    monkeypatch.setattr(gateway.jobs, "events", away_at_first)
    _, *told = blocks(gateway, job)
    assert [read(block) for block in told] == list(there(job))


def test_a_silent_stream_is_kept_alive_and_ends_when_the_gateway_stops(gateway, job, monkeypatch):
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.05)
    there = gateway.jobs.events
    draining = gateway.parts.draining
    began = time.monotonic()

    def stops_after_a_while(*arguments):
        draining.begun = time.monotonic() - began > 0.6
        return there(*arguments)

    monkeypatch.setattr(gateway.jobs, "events", stops_after_a_while)
    assert ": keep-alive" in blocks(gateway, job)
