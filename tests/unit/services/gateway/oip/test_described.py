"""The OpenAPI document tells of the protocol what is so."""

import pytest

from services.gateway.openapi import STORED
from shared.adapters.web import openapi
from tests.support.oip_requests import INFER, ask, digits


@pytest.fixture(scope="module")
def document():
    return openapi.stored(STORED)  # which is what the routes say: another test compares them


def test_every_refusal_of_the_protocol_is_documented_in_its_form(document):
    for path, operations in document["paths"].items():
        for operation in operations.values() if path.startswith("/v2") else ():
            for status, response in operation["responses"].items():
                name = "ServerReady" if path == "/v2/health/ready" else "InferenceError"
                if status >= "400":
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": f"#/components/schemas/{name}"}, (path, status)


def test_the_body_of_a_request_is_described(document):
    (operation,) = document["paths"]["/v2/models/{name}/infer"].values()
    content = operation["requestBody"]["content"]
    reference = content["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    assert schema["required"] == ["inputs"]
    assert set(content) == {"application/json", "application/octet-stream"}


def test_every_answer_of_an_example_has_the_media_type_that_is_described(document, live):
    (operation,) = document["paths"]["/v2/models/{name}/infer"].values()
    kinds = set()
    for binary in (False, True):
        request = ask(digits()) | {"parameters": {"binary_data_output": binary}}
        kinds.add(live.client.post(INFER, json=request).headers["content-type"])
    assert kinds == set(operation["responses"]["200"]["content"])
