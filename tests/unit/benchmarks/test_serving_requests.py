import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.serving_requests import answered, request


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


GREY = np.arange(28 * 28, dtype=np.uint64).reshape(28, 28).astype(np.uint8)


def test_a_form_carries_the_image_in_the_field_that_the_server_reads():
    png = _png(GREY)
    made = request(png, "file", name="request")
    assert b'name="request"' in made.body
    assert png in made.body
    assert made.content_type.startswith("multipart/form-data; boundary=")


def test_a_tensor_in_json_carries_the_image_as_base64():
    png = _png(GREY)
    (tensor,) = json.loads(request(png, "base64").body)["inputs"]
    assert base64.b64decode(tensor["data"][0]) == png


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3)])
def test_a_binary_tensor_of_pixels_has_batch_and_channels(shape: tuple[int, ...]):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    made = request(_png(pixels), "pixels")
    length = int(made.all_headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(made.body[:length])["inputs"]
    assert tensor["shape"] == [1, *shape, *([1] if len(shape) == 2 else [])]
    assert made.body[length:] == pixels.tobytes()
    assert tensor["parameters"]["binary_data_size"] == pixels.size


def test_a_binary_tensor_of_bytes_begins_with_their_length():
    png = _png(GREY)
    made = request(png, "binary")
    length = int(made.all_headers["Inference-Header-Content-Length"])
    assert made.body[length:] == len(png).to_bytes(4, "little") + png


@pytest.mark.parametrize(
    "body",
    [
        {"probabilities": [0.1, 0.2, 0.7]},
        [0.1, 0.2, 0.7],
        {"outputs": [{"name": "probabilities", "shape": [1, 3], "data": [0.1, 0.2, 0.7]}]},
        {"predictions": [{"classes": [{"name": "2", "probability": 0.7}]}]},
    ],
)
def test_the_answer_of_every_server_is_understood(body: object):
    assert answered(json.dumps(body).encode()) == (2, 0.7)


@pytest.mark.parametrize("body", [b"not JSON", b'{"error": "no"}', b"[]", b"null"])
def test_an_answer_without_probabilities_is_told_from_a_wrong_one(body: bytes):
    with pytest.raises(ValueError):  # noqa: PT011 - of json or of ours
        answered(body)
