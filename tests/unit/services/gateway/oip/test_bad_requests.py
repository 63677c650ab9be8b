"""Requests that are wrong: each is refused in the protocol's form, and nothing that is sent is a 500."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.gateway_in_process import image_file
from tests.support.oip_requests import INFER, LENGTH, ask, binary, digits, pixel_tensor, refused, strings


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return a good request with something changed."""
    request = ask(digits()) | {"outputs": [{"name": "probabilities"}], "parameters": {}}
    request["inputs"][0]["parameters"] = {}
    change(request)
    return request


def tensor(**facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda request: request["inputs"][0].update(facts)


def parameter(**facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda request: request["parameters"].update(facts)


def output(**facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda request: request["outputs"][0].update(facts)


def wanted(**facts: object) -> Callable[[dict[str, Any]], object]:
    return output(parameters=facts)


def encoded(*data: object) -> Callable[[dict[str, Any]], object]:
    return tensor(name="encoded", datatype="BYTES", shape=[len(data)], data=list(data))


WRONG = {
    "no inputs": lambda request: request.pop("inputs"),
    "inputs that are no list": lambda request: request.update(inputs={"name": "images"}),
    "an input that is no object": lambda request: request.update(inputs=[3]),
    "an empty list of inputs": lambda request: request.update(inputs=[]),
    "an input twice": lambda request: request["inputs"].append(request["inputs"][0]),
    "both inputs": lambda request: request["inputs"].append({"name": "encoded"}),
    "an input without a name": lambda request: request["inputs"][0].pop("name"),
    "an unknown input": tensor(name="pixels"),
    "a name that is no text": tensor(name=["images"]),
    "no shape": lambda request: request["inputs"][0].pop("shape"),
    "another size": tensor(shape=[1, 28, 27, 1]),
    "too few dimensions": tensor(shape=[28, 28, 1]),
    "too many dimensions": tensor(shape=[1, 1, 28, 28, 1]),
    "channels first": tensor(shape=[1, 1, 28, 28]),
    "a negative length": tensor(shape=[-1, 28, 28, 1]),
    "a length that is no number": tensor(shape=["1", 28, 28, 1]),
    "a length that is true": tensor(shape=[True, 28, 28, 1]),
    "a shape that is no list": tensor(shape=784),
    "rows that are not sent": tensor(shape=[2, 28, 28, 1]),
    "a huge length": tensor(shape=[1, 2**62, 2**62, 1]),
    "another type": tensor(datatype="FP32"),
    "a type that is no text": tensor(datatype=3),
    "no type": lambda request: request["inputs"][0].pop("datatype"),
    "no data": lambda request: request["inputs"][0].pop("data"),
    "empty data": tensor(data=[]),
    "data that are no list": tensor(data="0" * 784),
    "data that are an object": tensor(data={str(i): i for i in range(784)}),
    "too few numbers": tensor(data=[0] * 783),
    "too many numbers": tensor(data=[0] * 785),
    "a number above 255": tensor(data=[256] + [0] * 783),
    "a negative number": tensor(data=[-1] + [0] * 783),
    "a fraction": tensor(data=[0.5] + [0] * 783),
    "text among the numbers": tensor(data=["0"] + [0] * 783),
    "true among the numbers": tensor(data=[True] + [0] * 783),
    "nothing among the numbers": tensor(data=[None] + [0] * 783),
    "a list among the numbers": tensor(data=[0] * 783 + [[0]]),
    "data nested otherwise": tensor(data=[[[[0]] * 27] * 28 + [[[0] * 28]]]),
    "data nested too deep": tensor(data=[[[[[0]]] * 28] * 28]),
    "data nested too little": tensor(data=[[0] * 784]),
    "data in both places": tensor(parameters={"binary_data_size": 784}),
    "parameters that are no object": tensor(parameters=[1]),
    "shared memory": tensor(parameters={"shared_memory_region": "mine"}),
    "encoded text that is not in base64": encoded("not in base64!"),
    "encoded text with letters of elsewhere": encoded("é"),
    "encoded numbers": encoded(3),
    "encoded images in a table": tensor(name="encoded", datatype="BYTES", shape=[1, 1], data=[["AAAA"]]),
    "encoded pixels": tensor(name="encoded", datatype="UINT8", shape=[1], data=["AAAA"]),
    "outputs that are no list": lambda request: request.update(outputs={"name": "logits"}),
    "an output that is no object": lambda request: request.update(outputs=["logits"]),
    "an unknown output": output(name="scores"),
    "an output without a name": lambda request: request["outputs"][0].pop("name"),
    "an output twice": lambda request: request["outputs"].append({"name": "probabilities"}),
    "too many outputs": lambda request: request.update(outputs=[{"name": "logits"}] * 9),
    "parameters of an output that are no object": output(parameters="binary"),
    "binary data that are neither true nor false": wanted(binary_data="yes"),
    "no classes": wanted(classification=0),
    "classes that are no number": wanted(classification="3"),
    "classes that are true": wanted(classification=True),
    "classes of a class": output(name="predicted", parameters={"classification": 1}),
    "an output in shared memory": wanted(shared_memory_region="mine"),
    "parameters of the request that are no object": lambda request: request.update(parameters=3),
    "a flag that is a number": parameter(binary_data_output=1),
    "a timeout that is no number": parameter(timeout="1"),
    "a negative timeout": parameter(timeout=-1),
    "an id that is no text": lambda request: request.update(id=7),
    "an id without end": lambda request: request.update(id="x" * 300),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_request_that_does_not_fit_is_refused(live, case):
    refused(live.client.post(INFER, json=changed(WRONG[case])), 400, "invalid-inference")


@pytest.mark.parametrize("temperature", [4, 0.5, 0, "1", True, None, [1], {}])
@pytest.mark.parametrize("where", [parameter, wanted])
def test_another_temperature_is_sent_to_the_teacher(live, temperature, where):
    answer = live.client.post(INFER, json=changed(where(temperature=temperature)))
    assert "ask the teacher" in refused(answer, 400, "temperature-not-served")


def test_temperature_1_is_what_there_is(live):
    assert live.client.post(INFER, json=changed(parameter(temperature=1.0))).status_code == 200


def test_no_rows_and_too_many_rows_are_refused(live):
    refused(live.client.post(INFER, json=changed(tensor(shape=[0, 28, 28, 1], data=[]))), 400, "no-images")
    refused(live.client.post(INFER, json=ask(digits(5))), 400, "too-many-images")
    body, headers = binary({"name": "encoded", "datatype": "BYTES", "shape": [5]}, strings([b"x"] * 5))
    refused(live.client.post(INFER, content=body, headers=headers), 400, "too-many-images")


BAD_FILES = {
    "no image": (b"GIF89a is not taken here", 400, "invalid-image"),
    "nothing": (b"", 400, "invalid-image"),
    "cut off": (image_file()[:-30], 400, "invalid-image"),
    "too many bytes": (image_file(340, 340), 413, "image-too-large"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_an_encoded_image_is_held_to_the_limits_of_our_own_route_and_told_by_its_row(live, case):
    file, status, code = BAD_FILES[case]
    body, headers = binary(
        {"name": "encoded", "datatype": "BYTES", "shape": [2]}, strings([image_file(), file])
    )
    assert "encoded[1]" in refused(live.client.post(INFER, content=body, headers=headers), status, code)


@pytest.mark.parametrize(
    "body", [b"", b"no JSON", b"[]", b"3", b"null", b'{"inputs":', b"\xff\xfe", b"[" * 100_000, b'{"a":NaN}']
)
def test_a_body_that_is_no_request_is_refused(live, body):
    refused(live.client.post(INFER, content=body), 400, "invalid-inference")


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"0,", b"[[[[]]]],"])
def test_json_that_would_fill_the_memory_is_refused_before_it_is_read(live, piece, monkeypatch):
    read: list[int] = []
    monkeypatch.setattr("services.gateway.oip.requests.orjson.loads", lambda text: read.append(len(text)))
    body = b'{"inputs":[' + piece * (290_000 // len(piece)) + b"0]}"
    assert "binary" in refused(live.client.post(INFER, content=body), 400, "invalid-inference")
    assert not read


def test_a_body_over_the_limit_is_refused(live):
    refused(live.client.post(INFER, content=b"x" * 300_001), 413, "body-too-large")
    pieces = (b"x" * 50_000 for _ in range(100))
    refused(live.client.post(INFER, content=pieces), 413, "body-too-large")


# --- binary ---

IMAGES = digits()
GOOD, GOOD_HEADERS = binary(pixel_tensor(IMAGES), IMAGES.tobytes())


@pytest.mark.parametrize(
    "given", ["0", "-1", "1e3", "", "many", "٣", "9" * 5000, str(len(GOOD) + 1), str(len(GOOD)), "1", "10"]
)
def test_a_header_length_that_is_a_lie_is_refused(live, given):
    answer = live.client.post(INFER, content=GOOD, headers={LENGTH.encode(): given.encode()})
    refused(answer, 400, "invalid-inference")


def test_a_header_length_that_is_missing_is_refused(live):
    refused(live.client.post(INFER, content=GOOD), 400, "invalid-inference")


@pytest.mark.parametrize("spoilt", [GOOD[:-1], GOOD + b"x", GOOD[:-784]])
def test_binary_data_that_are_cut_off_or_too_long_are_refused(live, spoilt):
    refused(live.client.post(INFER, content=spoilt, headers=GOOD_HEADERS), 400, "invalid-inference")


@pytest.mark.parametrize("size", [783, 785, 0, -1, "784", 784.0, True, None, 2**62])
def test_a_binary_size_that_is_a_lie_is_refused(live, size):
    described = {key: value for key, value in pixel_tensor(IMAGES).items() if key != "data"}
    described["parameters"] = {"binary_data_size": size}
    header = json.dumps({"inputs": [described]}).encode()
    headers = {LENGTH: str(len(header))}
    answer = live.client.post(INFER, content=header + IMAGES.tobytes(), headers=headers)
    refused(answer, 400, "invalid-inference")


def test_bytes_that_belong_to_no_tensor_are_refused(live):
    header = json.dumps(ask(IMAGES)).encode()
    answer = live.client.post(INFER, content=header + b"x", headers={LENGTH: str(len(header))})
    refused(answer, 400, "invalid-inference")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        strings([b"a"]),
        strings([b"a", b"b", b"c"]),
        strings([b"a", b"b"])[:-1],
        strings([b"a", b"b"]) + b"\x00",
        b"\xff\xff\xff\xff" * 2,
    ],
)
def test_encoded_images_whose_lengths_are_lies_are_refused(live, data):
    body, headers = binary({"name": "encoded", "datatype": "BYTES", "shape": [2]}, data)
    refused(live.client.post(INFER, content=body, headers=headers), 400, "invalid-inference")


# --- whatever else ---

ODD = (None, True, 0, -1, 1.5, 2**63, 10**30, "", "x", "\x00é", [], [[]], {}, {"a": [1]}, "images", 1e308)


def spoiled(value: Any, chance: random.Random) -> Any:
    """Return the value with one part, somewhere in it, replaced, dropped or doubled."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return value
        key = chance.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        kind = chance.randrange(4)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, list):
            place.append(place[key])
        else:
            place[key] = chance.choice(ODD)
        return value


def test_nothing_that_is_sent_is_a_fault_of_ours(live):
    """Good requests, spoilt in one to four places: as JSON, as bytes, in their headers."""
    chance = random.Random(2026)
    small = pixel_tensor(IMAGES) | {"parameters": {}}
    request = {
        "id": "a",
        "parameters": {"binary_data_output": False, "temperature": 1, "timeout": 10**9},
        "outputs": [
            {"name": "probabilities", "parameters": {"classification": 2, "binary_data": True}},
            {"name": "predicted", "parameters": {"binary_data": False}},
        ],
    }
    files = strings([image_file(), image_file(form="JPEG")])
    statuses = []
    for _ in range(500):
        kind = chance.randrange(3)
        if kind == 0:
            body = json.dumps(spoiled({"inputs": [small]} | request, chance)).encode()
            headers: dict[str, str] = {}
        elif kind == 1:
            body, headers = binary(small, IMAGES.tobytes(), **spoiled(request, chance))
        else:
            body, headers = binary({"name": "encoded", "datatype": "BYTES", "shape": [2]}, files, **request)
        for _ in range(chance.randrange(4)):
            place = chance.randrange(len(body))
            body = body[:place] + bytes([chance.randrange(256)]) * chance.randrange(3) + body[place + 1 :]
        if headers and chance.random() < 0.2:
            headers[LENGTH] = str(chance.randrange(2 * len(body)))
        answer = live.client.post(INFER, content=body, headers=headers)
        statuses.append(answer.status_code)
        assert answer.status_code in (200, 400, 413), (answer.text, body[:400], headers)
        if answer.status_code != 200:
            assert answer.json()["error"]
    assert np.bincount(statuses)[[200, 400]].min() > 20
