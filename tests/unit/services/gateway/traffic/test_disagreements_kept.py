"""What a shadow disagrees on is kept where the policy says so: all parts of a gateway together."""

import time

from tests.support.gateway_in_process import PNG_TYPE, image_file
from tests.support.student_bundles import mlp_onnx


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_images_on_which_live_student_and_shadow_differ_are_kept_with_consent(gateway):
    gateway.promote("kept-1", mlp_onnx(favourite=1))
    gateway.publish("kept-2", mlp_onnx(favourite=2))
    policy = {
        "shadow": {"to": "student", "version": "kept-2"},
        "keeping": {"collection": "unsure", "escalated": False},
    }
    assert gateway.client.put("/v1/traffic", json=policy).status_code == 200
    for seed in range(3):
        answer = gateway.client.post("/v1/predictions", content=image_file(seed=seed), headers=PNG_TYPE)
        assert answer.json()["predictions"][0]["predicted"] == "1"
    until(lambda: gateway.client.get("/v1/kept/unsure").json().get("images") == 3)
    assert gateway.client.get("/v1/kept/unsure").json()["disagreed"] == 3
    against = gateway.client.get("/v1/students/kept-2/comparison").json()["against_live"]
    assert (against["compared"], against["disagreed"]) == (3, 3)
