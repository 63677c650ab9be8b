import pytest

from services.gateway.openapi import STORED, described
from shared.adapters.web import openapi
from shared.contracts.problems import PROBLEM_MEDIA_TYPE


@pytest.fixture(scope="module")
def document():
    return openapi.document(described())


def operations(document):
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_stored_document_is_what_the_routes_say(document):
    assert openapi.stored(STORED) == document, "run python -m services.gateway.openapi"


def test_every_route_has_a_name_of_its_own_and_a_summary(document):
    every = operations(document)
    assert len({operation["operationId"] for operation in every.values()}) == len(every)
    assert all(operation["summary"] and operation["description"] for operation in every.values())


def test_every_refusal_is_documented_as_a_problem(document):
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            if status >= "400" and name != "GET /health/ready" and "/v2" not in name:
                assert set(response["content"]) == {PROBLEM_MEDIA_TYPE}, (name, status)


def test_every_json_answer_of_the_api_has_an_example(document):
    for name, operation in operations(document).items():
        if "/v1/" not in name or name.endswith("/report"):
            continue
        for status, response in operation["responses"].items():
            body = response.get("content", {}).get("application/json")
            if status in ("200", "201") and body and not (name == "POST /v1/jobs" and status == "200"):
                assert "example" in body, (name, status)


def test_no_input_is_an_address_that_the_gateway_would_fetch():
    assert '"uri"' not in STORED.read_text()
