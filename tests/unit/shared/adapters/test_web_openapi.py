"""The stored OpenAPI documents: refusals are problems, references resolve."""

import asyncio
import json

import httpx
import pytest
from fastapi import FastAPI

from shared.adapters.web import openapi, problems
from shared.errors import DistillationError, InvalidRequest, JobNotFound

TABLE = {DistillationError: 500, InvalidRequest: 422, JobNotFound: 404}


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI(title="example", version="1")

    @app.get("/things/{thing}", responses=problems.documented(TABLE, JobNotFound))
    def thing(thing: int) -> int:
        return thing

    return app


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [found for value in node.values() for found in references(value)]
    if isinstance(node, list):
        return [found for value in node for found in references(value)]
    return []


def test_every_reference_resolves(app):
    made = openapi.document(app)
    found = references(made)
    assert "#/components/schemas/Problem" in found
    for reference in found:
        node = made
        for key in reference.removeprefix("#/").split("/"):
            node = node[key]


def test_a_malformed_request_is_documented_as_a_problem_and_not_in_the_frameworks_form(app):
    made = openapi.document(app)
    assert list(made["paths"]["/things/{thing}"]["get"]["responses"]["422"]["content"]) == [
        "application/problem+json"
    ]
    assert "HTTPValidationError" not in json.dumps(made)


def test_documented_errors_show_their_code_and_their_remedy(app):
    response = openapi.document(app)["paths"]["/things/{thing}"]["get"]["responses"]["404"]
    assert list(response["content"]) == ["application/problem+json"]
    example = response["content"]["application/problem+json"]["examples"]["job-not-found"]["value"]
    assert example["code"] == "job-not-found"
    assert example["remedy"] == JobNotFound.remedy


def test_what_is_stored_is_what_is_read_and_a_new_route_is_a_difference(app, tmp_path):
    path = tmp_path / "openapi.json"
    openapi.write(app, path)
    assert openapi.stored(path) == openapi.document(app)

    @app.get("/more")
    def more() -> int:
        return 1

    assert openapi.stored(path) != openapi.document(app)


def test_the_installed_document_is_what_the_app_serves(app):
    openapi.install(app)
    assert app.openapi() == openapi.document(app)


def test_the_document_is_made_once_however_many_ask_for_it(app, monkeypatch):
    expected = openapi.document(app)
    made = []

    def counted(of):
        made.append(of)
        return expected

    monkeypatch.setattr(openapi, "document", counted)
    openapi.install(app)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            at_once = await asyncio.gather(*(client.get("/openapi.json") for _ in range(5)))
            return [*at_once, await client.get("/openapi.json")]

    answers = asyncio.run(ask())
    assert {answer.content for answer in answers} == {answers[0].content}
    assert answers[0].json() == expected
    assert answers[0].headers["content-type"] == "application/json"
    assert len(made) == 1
