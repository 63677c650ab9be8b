import struct
import zlib

import pytest

from services.gateway.hot import apart
from shared.contracts.images import ImageInput
from shared.contracts.predictions import PredictionAnswer
from tests.support.gateway_in_process import PNG_TYPE, image_file, refused
from tests.support.student_bundles import mlp_onnx


def predict(gateway, body, *, path="/v1/predictions", **headers):
    return gateway.client.post(path, content=body, headers=PNG_TYPE | headers)


def answered(response) -> PredictionAnswer:
    assert response.status_code == 200, response.text
    return PredictionAnswer.model_validate_json(response.content)


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


# --- answers ---


def test_a_raw_image_is_answered_by_the_live_student_with_its_most_probable_classes(gateway):
    gateway.promote("digits-1", mlp_onnx(favourite=7))
    response = predict(gateway, image_file())
    (prediction,) = answered(response).predictions
    assert response.headers["X-Student-Version"] == answered(response).student == "digits-1"
    assert prediction.predicted == prediction.classes[0].name == "7"
    assert prediction.classes[0].probability == pytest.approx(1.0)
    assert len(prediction.classes) == 5


def test_all_classes_together_have_probability_1_and_stand_in_order(gateway):
    gateway.promote("digits-1")
    (prediction,) = answered(predict(gateway, image_file(), path="/v1/predictions?top=1000")).predictions
    shares = [found.probability for found in prediction.classes]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert shares == sorted(shares, reverse=True)


def test_a_form_is_answered_image_by_image_in_its_order_and_by_name(gateway):
    gateway.promote("digits-1")
    sent = [image_file(seed=seed) for seed in range(3)]
    files = [("images", (f"{seed}.png", body, "image/png")) for seed, body in enumerate(sent)]
    together = answered(gateway.client.post("/v1/predictions", files=files)).predictions
    alone = [answered(predict(gateway, body)).predictions[0] for body in sent]
    assert [found.file for found in together] == ["0.png", "1.png", "2.png"]
    assert [found.predicted for found in together] == [found.predicted for found in alone]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_each_format_is_read_whatever_the_media_type_says(gateway, form):
    gateway.promote("digits-1")
    answered(predict(gateway, image_file(form=form), **{"Content-Type": "application/octet-stream"}))


def test_an_image_of_another_size_is_resized_to_what_the_student_takes(gateway):
    gateway.promote("digits-1")
    answered(predict(gateway, image_file(60, 40)))


def test_a_large_image_is_answered_off_the_event_loop_in_the_same_way(gateway, monkeypatch):
    gateway.promote("digits-1")
    here = answered(predict(gateway, image_file(300, 300)))
    monkeypatch.setattr(apart, "SMALL_PIXELS", 100)
    there = answered(predict(gateway, image_file(300, 300)))
    assert there.predictions == here.predictions


def test_a_student_for_other_images_is_served_by_its_own_card(gateway):
    rgb = ImageInput(height=8, width=8, channels=3)
    gateway.promote("colours-1", mlp_onnx(rgb, classes=2), image=rgb, classes=("cat", "dog"))
    (prediction,) = answered(predict(gateway, image_file())).predictions
    assert {found.name for found in prediction.classes} == {"cat", "dog"}


def test_predictions_are_counted_by_student(gateway):
    gateway.promote("digits-counted")
    predict(gateway, image_file())
    metrics = gateway.client.get("/metrics").text
    assert 'imago_predictions_total{student="digits-counted"} 1.0' in metrics
    assert 'route="/v1/predictions"' in metrics


# --- refusals ---


def test_without_a_promoted_student_predictions_are_503(gateway):
    refused(predict(gateway, image_file()), 503, "no-live-student")


BAD_BODIES = {
    "no image": (b"GIF89a is not taken here", 422, "invalid-image"),
    "nothing": (b"", 422, "no-images"),
    "truncated": (image_file()[:-30], 422, "invalid-image"),
    "header without pixels": (header_only_png(28, 28), 422, "invalid-image"),
    "too many pixels by header": (header_only_png(60_000, 60_000), 413, "image-too-large"),
    "too many bytes": (image_file(340, 340), 413, "image-too-large"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_body_that_is_no_good_image_is_refused(gateway, case):
    gateway.promote("digits-1")
    body, status, code = BAD_BODIES[case]
    refused(predict(gateway, body), status, code)


@pytest.mark.parametrize("case", [case for case in BAD_BODIES if case != "nothing"])
def test_a_bad_image_in_a_form_is_refused_by_its_name(gateway, case):
    gateway.promote("digits-1")
    body, status, code = BAD_BODIES[case]
    files = [("images", ("good.png", image_file())), ("images", ("bad.png", body))]
    problem = refused(gateway.client.post("/v1/predictions", files=files), status, code)
    assert "bad.png" in problem["detail"]


def test_more_images_than_one_request_may_carry_are_refused(gateway):
    gateway.promote("digits-1")
    files = [("images", (f"{i}.png", image_file())) for i in range(5)]
    refused(gateway.client.post("/v1/predictions", files=files), 413, "too-many-images")


def test_a_body_over_the_limit_is_refused_by_its_declared_length(gateway):
    refused(predict(gateway, b"x" * 300_001), 413, "body-too-large")


def test_a_body_over_the_limit_is_refused_while_it_comes_in_pieces(gateway):
    pieces = (b"x" * 50_000 for _ in range(100))
    refused(predict(gateway, pieces), 413, "body-too-large")


def test_a_media_type_that_is_no_image_is_refused(gateway):
    answer = predict(gateway, b"{}", **{"Content-Type": "application/json"})
    assert "image/png" in refused(answer, 415, "unsupported-media-type")["remedy"]


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b"nothing of the kind"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nhalf"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: image/png\r\n\r\nnameless\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x--"),
    ],
)
def test_a_broken_form_is_refused(gateway, media_type, body):
    gateway.promote("digits-1")
    refused(predict(gateway, body, **{"Content-Type": media_type}), 422, "malformed-body")


@pytest.mark.parametrize("cascade", ["off", "0.5", "1", "1e-3"])
def test_a_student_that_is_sure_answers_whatever_the_cascade_is(gateway, cascade):
    gateway.promote("digits-1", mlp_onnx(favourite=7))
    path = f"/v1/predictions?cascade={cascade}"
    (prediction,) = answered(predict(gateway, image_file(), path=path)).predictions
    assert (prediction.predicted, prediction.answered_by) == ("7", "student")


@pytest.mark.parametrize(
    "cascade", ["0", "-0.1", "1.01", "on", "", "nan", "inf", "0.9_5", " 0.9", "٠.٩", "9" * 5000]
)
def test_a_cascade_that_is_no_threshold_is_refused(gateway, cascade):
    gateway.promote("digits-1")
    answer = gateway.client.post(
        "/v1/predictions", params={"cascade": cascade}, content=image_file(), headers=PNG_TYPE
    )
    problem = refused(answer, 422, "request-invalid")
    assert len(answer.content) < 2000
    assert "cascade must be a number above 0, 1 at most, or off" in str(problem)


@pytest.mark.parametrize("top", ["0", "-1", "1001", "many", "1.5", "", "٣", "9" * 5000])
def test_a_top_that_is_no_count_is_refused(gateway, top):
    gateway.promote("digits-1")
    answer = gateway.client.post(
        "/v1/predictions", params={"top": top}, content=image_file(), headers=PNG_TYPE
    )
    refused(answer, 422, "request-invalid")


def test_a_wrong_method_is_refused(gateway):
    answer = gateway.client.get("/v1/predictions")
    refused(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "POST"
