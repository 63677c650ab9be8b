"""Health, readiness, draining, and how the live student follows the pointer in the store."""

import time

from services.gateway.students import live
from services.gateway.students.live import Live
from tests.support.gateway_in_process import PNG_TYPE, image_file, refused
from tests.support.student_bundles import mlp_onnx
from tests.support.teachers_at_rest import publish_teacher


def ready(gateway):
    answer = gateway.client.get("/health/ready")
    return answer.status_code, answer.json()


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_gateway_without_a_promoted_student_is_ready_for_jobs(gateway):
    assert gateway.client.get("/health/live").json() == {"status": "live"}
    assert ready(gateway) == (200, {"ready": True, "student": None, "draining": False, "problem": None})


def test_a_draining_gateway_lives_and_is_not_ready(gateway):
    gateway.parts.draining.begun = True
    assert ready(gateway)[0] == 503
    assert gateway.client.get("/health/live").status_code == 200


def test_a_promotion_by_another_process_is_followed(gateway):
    gateway.publish("digits-1")
    gateway.store.students.promote("digits-1")
    wait_for(lambda: ready(gateway)[1]["student"] == "digits-1")


def test_a_pointer_at_a_broken_bundle_keeps_the_student_before_and_says_so(gateway):
    gateway.promote("digits-1")
    gateway.publish("digits-2", b"no graph")
    gateway.store.students.promote("digits-2")  # by a process that does not check
    wait_for(lambda: ready(gateway)[1]["problem"] is not None)
    status, body = ready(gateway)
    assert (status, body["student"]) == (200, "digits-1")
    assert "digits-2" in body["problem"]
    assert gateway.client.post("/v1/predictions", content=image_file(), headers=PNG_TYPE).status_code == 200


def test_a_first_student_that_is_broken_makes_the_gateway_not_ready(gateway):
    gateway.publish("digits-1", b"no graph")
    gateway.store.students.promote("digits-1")
    wait_for(lambda: ready(gateway)[0] == 503)
    answer = gateway.client.post("/v1/predictions", content=image_file(), headers=PNG_TYPE)
    refused(answer, 503, "student-not-loaded")


def test_a_process_that_starts_with_a_broken_pointer_answers_from_the_student_before(gateway):
    for version in ("digits-1", "digits-2", "digits-3"):
        gateway.promote(version)
    for version in ("digits-2", "digits-3"):
        gateway.store.students.file(version, "model.onnx").write_bytes(b"damaged")
    restarted = Live(gateway.store, threads=1)
    restarted.refresh()
    assert (restarted.version, restarted.ready) == ("digits-1", True)
    assert restarted.problem is not None
    assert "digits-3" in restarted.problem
    restarted.refresh()
    assert restarted.version == "digits-1"


def test_a_good_promotion_after_a_broken_one_clears_the_problem(gateway):
    gateway.publish("digits-1", b"no graph")
    gateway.store.students.promote("digits-1")
    wait_for(lambda: ready(gateway)[0] == 503)
    gateway.promote("digits-2", mlp_onnx())
    assert ready(gateway) == (200, {"ready": True, "student": "digits-2", "draining": False, "problem": None})


def test_a_live_student_is_answering_before_the_first_request(gateway):
    gateway.promote("digits-1")
    restarted = Live(gateway.store, threads=1)
    restarted.refresh()
    assert restarted.student().version == "digits-1"


def test_teachers_are_listed_as_the_store_describes_them(gateway):
    description = publish_teacher(gateway.store, "digits-teacher")
    (found,) = gateway.client.get("/v1/teachers").json()["teachers"]
    assert (found["digest"], found["name"]) == (description.digest, "digits-teacher")
    assert gateway.client.get("/v1/teachers/digits-teacher").json() == found
    refused(gateway.client.get("/v1/teachers/nobody"), 404, "teacher-not-found")


def test_a_disk_that_fails_keeps_the_student_before_and_is_tried_again(gateway, monkeypatch):
    gateway.promote("digits-1")
    gateway.publish("digits-2")
    with monkeypatch.context() as broken:
        broken.setattr(live, "_RETRY_S", 0.05)
        broken.setattr(live.StudentSession, "load", failing_disk)
        gateway.store.students.promote("digits-2")
        wait_for(lambda: ready(gateway)[1]["problem"] is not None)
        assert ready(gateway)[1]["student"] == "digits-1"
        assert "I/O" not in ready(gateway)[1]["problem"]
        broken.undo()
        broken.setattr(live, "_RETRY_S", 0.05)
        wait_for(lambda: ready(gateway)[1]["student"] == "digits-2")


def failing_disk(*_args, **_more):
    raise OSError(5, "I/O error")
