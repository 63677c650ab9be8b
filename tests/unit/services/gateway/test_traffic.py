"""The routes of the traffic policy, and what deleting a student has to do with it."""

import pytest

from shared.contracts.specs import DistillationSpec
from shared.contracts.training import Choice, TransferSetSpec
from tests.support.gateway_in_process import PNG_TYPE, image_file, refused
from tests.support.student_bundles import mlp_onnx

URL = "/v1/traffic"
CANARY = {"canary": {"version": "digits-2", "share": 1.0}}


@pytest.fixture
def served(gateway):
    gateway.promote("digits-1", mlp_onnx(favourite=1))
    gateway.publish("digits-2", mlp_onnx(favourite=2))
    return gateway


def put(gateway, policy, **headers):
    return gateway.client.put(URL, json=policy, headers=headers)


def answering(gateway, **headers):
    answer = gateway.client.post("/v1/predictions", content=image_file(), headers=PNG_TYPE | headers)
    assert answer.json()["student"] == answer.headers["X-Student-Version"]
    return answer.headers["X-Student-Version"], answer.json()["predictions"][0]["predicted"]


def test_before_the_first_policy_there_is_one_without_parts(served):
    answer = served.client.get(URL)
    assert answer.headers["etag"] == '"0"'
    view = answer.json()
    assert set(view["policy"].values()) == {None}
    assert (view["revision"], view["changed_at"], view["problems"]) == (0, None, [])


def test_a_canary_answers_its_share_until_it_is_switched_off(served):
    answer = put(served, CANARY)
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    assert answering(served) == ("digits-2", "2")
    assert served.client.delete(URL).json()["revision"] == 2
    assert answering(served) == ("digits-1", "1")


def test_the_same_key_gets_the_same_student(served):
    put(served, {"canary": {"version": "digits-2", "share": 0.5}})
    by_key = {key: answering(served, **{"X-Canary-Key": key}) for key in map(str, range(20))}
    assert set(by_key.values()) == {("digits-1", "1"), ("digits-2", "2")}
    for key, before in by_key.items():
        assert answering(served, **{"X-Canary-Key": key}) == before


def test_setting_the_same_policy_again_changes_nothing(served):
    first = put(served, CANARY)
    assert put(served, CANARY).json() == first.json()


def test_a_policy_that_was_changed_meanwhile_is_not_replaced(served):
    put(served, CANARY)
    for tag in ('"0"', '"7"', "anything", 'W/"1"'):
        refused(put(served, {}, **{"If-Match": tag}), 412, "revision-mismatch")
        refused(served.client.delete(URL, headers={"If-Match": tag}), 412, "revision-mismatch")
    assert served.client.get(URL).json()["revision"] == 1
    assert put(served, {}, **{"If-Match": '"1"'}).json()["revision"] == 2
    assert put(served, CANARY, **{"If-Match": "*"}).json()["revision"] == 3


@pytest.mark.parametrize(
    "policy",
    [
        {"canary": {"version": "digits-2", "share": 0}},
        {"canary": {"version": "digits-2", "share": 1.5}},
        {"canary": {"share": 0.5}},
        {"shadow": {"to": "student"}},
        {"shadow": {"to": "teacher", "version": "digits-2"}},
        {"cascade": {}},
        {"cascade": {"threshold": 0.5, "share": 0.1}},
        {"keeping": {"collection": "../x"}},
        {"mirror": {}},
        [],
        "x",
    ],
)
def test_a_policy_without_sense_is_refused(served, policy):
    assert put(served, policy).status_code == 422
    assert served.client.get(URL).json()["revision"] == 0


def test_refusals_say_why(served):
    served.publish("digits-3", b"no graph")
    served.publish("letters-1", classes=tuple("abcdefghij"))
    for version, status, code in (
        ("digits-9", 404, "student-not-found"),
        ("digits-1", 409, "traffic-refused"),
        ("digits-3", 409, "student-unusable"),
        ("letters-1", 409, "traffic-refused"),
    ):
        policy = {"canary": {"version": version, "share": 0.5}}
        assert version in refused(put(served, policy), status, code)["detail"]


def test_a_promoted_canary_ends(served):
    put(served, CANARY)
    assert served.client.post("/v1/students/digits-2/promote").status_code == 200
    view = served.client.get(URL).json()
    assert (view["policy"]["canary"], view["revision"], view["problems"]) == (None, 2, [])
    served.client.post("/v1/students/rollback")
    assert answering(served) == ("digits-1", "1")


# --- deleting --------------------------------------------------------------------------------------------


def test_a_student_that_nobody_needs_is_deleted(served):
    assert served.client.delete("/v1/students/digits-2").status_code == 204
    refused(served.client.get("/v1/students/digits-2"), 404, "student-not-found")
    refused(served.client.delete("/v1/students/digits-2"), 404, "student-not-found")
    refused(put(served, CANARY), 404, "student-not-found")
    assert [one["version"] for one in served.client.get("/v1/students").json()["students"]] == ["digits-1"]


@pytest.mark.parametrize("version", ["digits-9", "..", "%2e%2e", "live.json", "A" * 300])
def test_what_is_no_student_is_not_deleted(served, version):
    assert served.client.delete(f"/v1/students/{version}").status_code in (404, 405)
    assert answering(served) == ("digits-1", "1")


def test_the_live_student_is_not_deleted(served):
    refused(served.client.delete("/v1/students/digits-1"), 409, "student-in-use")
    assert answering(served) == ("digits-1", "1")


@pytest.mark.parametrize("policy", [CANARY, {"shadow": {"to": "student", "version": "digits-2"}}])
def test_a_student_that_the_policy_names_is_not_deleted(served, policy):
    put(served, policy)
    refused(served.client.delete("/v1/students/digits-2"), 409, "student-in-use")
    served.client.delete(URL)
    assert served.client.delete("/v1/students/digits-2").status_code == 204


def test_a_rollback_passes_over_a_deleted_student(served):
    served.promote("digits-2")
    served.promote("digits-3")
    assert served.client.delete("/v1/students/digits-2").status_code == 204
    assert served.client.post("/v1/students/rollback").json()["version"] == "digits-1"
    refused(served.client.post("/v1/students/rollback"), 409, "nothing-to-roll-back")


def test_a_damaged_student_can_be_deleted(served):
    served.store.students.file("digits-2", "card.json").write_text("{")
    assert served.client.delete("/v1/students/digits-2").status_code == 204


def test_a_student_that_a_job_is_to_look_at_is_not_deleted(served):
    spec = DistillationSpec(
        name="digits", teacher="digits-teacher", dataset="mnist-5k",
        transfer_set=TransferSetSpec(choose=Choice(by="disagreement", share=0.5, student="digits-2")),
    )  # fmt: skip
    job_id = "j-k3v7qzt2m4xa"
    served.jobs.submit(job_id, spec)
    problem = refused(served.client.delete("/v1/students/digits-2"), 409, "student-in-use")
    assert job_id in problem["detail"]
