"""What the log has of refused requests and of what administrators change."""

import logging

import pytest
from prometheus_client import REGISTRY

from services.gateway.access import audit
from shared.contracts.keys import Scope
from tests.support.gateway_in_process import image_file

IMAGE = image_file()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(audit, "_lines", {status: audit._Lines() for status in audit.CODES})
    caplog.set_level(logging.INFO, logger=audit.log.name)
    return caplog


def of_audit(lines: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    names = ("code", "status", "key_id", "owner", "method", "route", "path")
    return [
        {name: getattr(line, name) for name in names if hasattr(line, name)}
        for line in lines.records
        if line.name == audit.log.name
    ]


def count(code: str) -> float:
    return REGISTRY.get_sample_value("imago_access_refused_total", {"code": code}) or 0.0


def id_of(key: dict[str, str]) -> str:
    return key["Authorization"][13:25]


def test_a_stranger_is_a_line_without_a_name_and_is_counted(client, lines):
    before = count("unauthenticated")
    secret = "imago_000000000000_" + "s" * 43
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get("/v1/jobs/j-1?token=t", headers=headers).status_code == 401
    assert of_audit(lines) == [
        {
            "code": "unauthenticated", "key_id": None, "owner": None, "method": "GET", "route": None,
            "path": "/v1/jobs/j-1",
        }
    ]  # fmt: skip
    assert count("unauthenticated") == before + 1
    assert secret not in str([vars(line) for line in lines.records])


def test_a_key_without_the_scope_is_named_with_the_route_and_the_object(client, served, lines):
    before = count("scope-missing")
    key = served.key(Scope.PREDICT)
    assert client.post("/v1/students/digits-1/promote", headers=key).status_code == 403
    assert of_audit(lines) == [
        {
            "code": "scope-missing", "key_id": id_of(key), "owner": "anna", "method": "POST",
            "route": "/v1/students/{version}/promote", "path": "/v1/students/digits-1/promote",
        }
    ]  # fmt: skip
    assert count("scope-missing") == before + 1


def test_a_prediction_that_a_key_may_not_ask_for_is_told_of_on_the_short_way_too(client, served, lines):
    key = served.key(Scope.JOBS)
    answers = [client.post("/v1/predictions", content=IMAGE, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert [(one["code"], one["key_id"], one["path"]) for one in of_audit(lines)] == [
        ("scope-missing", id_of(key), "/v1/predictions")
    ] * 2


def test_what_an_administrator_changes_is_told_with_its_outcome(client, served, lines):
    key = served.key(Scope.ADMIN, owner="root")
    for version in ("digits-1", "nobody-1"):
        client.post(f"/v1/students/{version}/promote", headers=key)
    assert [(one["key_id"], one["owner"], one["path"], one["status"]) for one in of_audit(lines)] == [
        (id_of(key), "root", "/v1/students/digits-1/promote", 200),
        (id_of(key), "root", "/v1/students/nobody-1/promote", 404),
    ]


def test_looking_and_predicting_leave_no_line(client, served, lines):
    key = served.key(Scope.ADMIN)
    assert client.get("/v1/students", headers=key).status_code == 200
    assert client.post("/v1/predictions", content=IMAGE, headers=key).status_code == 200
    form = [("images", ("a.png", IMAGE))]
    assert client.post("/v1/predictions", files=form, headers=key).status_code == 200
    assert client.get("/v2/models/digits", headers=key).status_code == 200
    assert of_audit(lines) == []


def test_a_user_at_work_leaves_no_line(client, served, lines):
    key = served.key(Scope.JOBS)
    spec = {"kind": "teacher", "name": "big", "dataset": "nothing"}
    assert client.post("/v1/jobs", json=spec, headers=key).status_code == 404
    assert of_audit(lines) == []


def test_whoever_knocks_without_end_writes_no_more_than_fifty_lines_a_second(client, lines, monkeypatch):
    monkeypatch.setattr(audit.time, "monotonic", lambda: 7.0)
    before = count("unauthenticated")
    for _ in range(60):
        audit.refused(401, None, "GET", None, b"/v1/jobs")
    assert len(of_audit(lines)) == 50
    assert count("unauthenticated") == before + 60
    audit.refused(403, None, "GET", None, b"/v1/keys")
    assert of_audit(lines)[-1]["code"] == "scope-missing", "strangers hide nobody who has a key"
    monkeypatch.setattr(audit.time, "monotonic", lambda: 8.0)
    audit.refused(401, None, "GET", None, b"/v1/jobs")
    assert len(of_audit(lines)) == 52


def test_nothing_that_a_stranger_sends_breaks_the_line(client, lines):
    assert client.get("/v1/x%0a%1b%e2%80%a8{}").status_code == 401
    (line,) = of_audit(lines)
    assert str(line["path"]).isascii()
    assert str(line["path"]).isprintable()
