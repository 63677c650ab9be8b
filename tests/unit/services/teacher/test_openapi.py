"""The stored OpenAPI document is the one that the routes make."""

from services.teacher.app import create_api
from services.teacher.openapi import STORED
from services.teacher.settings import TeacherSettings
from shared.adapters.web import openapi
from shared.contracts.teachers import SoftTargets, TeacherView

document = openapi.document(create_api(TeacherSettings.model_construct()))


def operations():
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_the_stored_document_has_not_drifted():
    assert openapi.stored(STORED) == document, "run python -m services.teacher.openapi"


def test_every_operation_has_an_id_a_tag_and_words():
    for name, operation in operations():
        assert operation["operationId"], name
        assert operation["tags"], name
        assert operation["summary"], name
        assert operation["description"], name
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(ids) == len(set(ids))


def test_every_refusal_is_a_problem_with_examples():
    asked = document["paths"]["/v1/teachers/{name}/soft-targets"]["post"]["responses"]
    for status in ("404", "406", "409", "413", "415", "422", "503"):
        content = asked[status]["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert content["examples"]


def test_the_examples_are_what_the_contracts_say():
    asked = document["paths"]["/v1/teachers/{name}/soft-targets"]["post"]["responses"]["200"]["content"]
    SoftTargets.model_validate(asked["application/json"]["example"])
    described = document["paths"]["/v1/teachers/{name}"]["get"]["responses"]["200"]["content"]
    TeacherView.model_validate(described["application/json"]["example"])


def test_the_body_is_documented_in_each_form_that_is_read():
    body = document["paths"]["/v1/teachers/{name}/soft-targets"]["post"]["requestBody"]
    assert set(body["content"]) == {
        "multipart/form-data",
        "application/vnd.safetensors",
        "application/octet-stream",
    }
