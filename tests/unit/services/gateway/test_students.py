import pytest

from shared.contracts.students import StudentCard
from tests.support.gateway_in_process import PNG_TYPE, image_file, refused
from tests.support.student_bundles import mlp_onnx, write_ensemble


def answering(gateway) -> str:
    answer = gateway.client.post("/v1/predictions", content=image_file(), headers=PNG_TYPE)
    return answer.headers.get("X-Student-Version", answer.json().get("code"))


def test_promotion_and_rollback_decide_who_answers(gateway):
    gateway.promote("digits-1")
    gateway.promote("digits-2")
    assert answering(gateway) == "digits-2"
    assert gateway.client.post("/v1/students/rollback").json()["version"] == "digits-1"
    assert answering(gateway) == "digits-1"


def test_promoting_the_live_student_again_changes_nothing(gateway):
    gateway.promote("digits-1")
    before = gateway.store.students.live()
    assert gateway.client.post("/v1/students/digits-1/promote").status_code == 200
    assert gateway.store.students.live() == before


def test_the_list_says_who_is_live(gateway):
    gateway.publish("digits-1")
    gateway.promote("digits-2")
    found = gateway.client.get("/v1/students").json()
    assert found["live"] == "digits-2"
    assert {view["version"]: view["live"] for view in found["students"]} == {
        "digits-1": False,
        "digits-2": True,
    }


def test_a_broken_bundle_is_not_promoted_and_the_pointer_stays(gateway):
    gateway.promote("digits-1")
    gateway.publish("digits-2", mlp_onnx(temperature=3.0))
    problem = refused(gateway.client.post("/v1/students/digits-2/promote"), 409, "student-unusable")
    assert "T = 1" in problem["detail"]
    assert answering(gateway) == gateway.store.students.live().version == "digits-1"
    assert gateway.client.get("/health/ready").json()["ready"]


def test_a_rollback_to_a_bundle_that_broke_since_is_refused_and_the_pointer_stays(gateway):
    gateway.promote("digits-1")
    gateway.promote("digits-2")
    gateway.store.students.file("digits-1", "model.onnx").write_bytes(b"damaged")
    refused(gateway.client.post("/v1/students/rollback"), 409, "student-unusable")
    assert answering(gateway) == gateway.store.students.live().version == "digits-2"


def test_without_an_earlier_student_there_is_nothing_to_roll_back(gateway):
    refused(gateway.client.post("/v1/students/rollback"), 409, "nothing-to-roll-back")
    gateway.promote("digits-1")
    refused(gateway.client.post("/v1/students/rollback"), 409, "nothing-to-roll-back")


def test_a_card_and_its_files_can_be_read(gateway):
    gateway.publish("digits-1")
    card = StudentCard.model_validate(gateway.client.get("/v1/students/digits-1").json())
    assert card.version == "digits-1"
    model = gateway.client.get("/v1/students/digits-1/files/model.onnx")
    assert model.content == mlp_onnx()
    assert (
        StudentCard.model_validate(gateway.client.get("/v1/students/digits-1/files/card.json").json()) == card
    )


@pytest.mark.parametrize("version", ["digits-9", "..", "%2e%2e", "a%2fb", "A" * 300, "live.json"])
def test_a_version_that_does_not_exist_is_404(gateway, version):
    answer = gateway.client.get(f"/v1/students/{version}/files/card.json")
    assert answer.status_code == 404
    assert answer.json()["code"] in ("student-not-found", "not-found")
    assert gateway.client.post(f"/v1/students/{version}/promote").status_code in (404, 405)


@pytest.mark.parametrize("name", ["nothing.bin", "%2e%2e%2flive.json", "card.json%00", "%2e%2e", "live.json"])
def test_a_file_that_is_not_on_the_card_is_404(gateway, name):
    gateway.promote("digits-1")
    assert gateway.client.get(f"/v1/students/digits-1/files/{name}").status_code == 404


def test_unknown_students_are_named_in_the_refusal(gateway):
    assert (
        "digits-9" in refused(gateway.client.get("/v1/students/digits-9"), 404, "student-not-found")["detail"]
    )
    refused(gateway.client.post("/v1/students/digits-9/promote"), 404, "student-not-found")


def publish_experts(gateway, gain: float) -> None:
    gateway.store.students.publish("experts-1", lambda directory: write_ensemble(directory, gain=gain))


def test_a_generalist_with_specialists_is_promoted_and_answers(gateway):
    publish_experts(gateway, gain=0.01)
    assert gateway.client.post("/v1/students/experts-1/promote").status_code == 200
    answer = gateway.client.post("/v1/predictions", content=image_file(), headers=PNG_TYPE)
    assert answer.status_code == 200
    assert answer.headers["X-Student-Version"] == "experts-1"
    (prediction,) = answer.json()["predictions"]
    assert sum(one["probability"] for one in prediction["classes"]) <= 1 + 1e-5
    found = gateway.client.get("/v1/students/experts-1").json()
    assert found["specialists"]["specialists"][0]["classes"] == ["1", "7"]
    assert gateway.client.get("/v1/students/experts-1/files/specialist-02.onnx").status_code == 200


def test_specialists_without_a_measured_gain_are_not_promoted(gateway):
    gateway.promote("digits-1")
    publish_experts(gateway, gain=-0.004)
    problem = refused(gateway.client.post("/v1/students/experts-1/promote"), 409, "no-measured-gain")
    assert "-0.40 points" in problem["detail"]
    assert answering(gateway) == gateway.store.students.live().version == "digits-1"
