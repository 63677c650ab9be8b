"""The same requests past the routing and through it: nobody can tell which way an answer came."""

import re
from typing import Any

import pytest

from services.gateway.oip import short_way
from tests.support.oip_requests import INFER, LENGTH, ask, binary, digits, pixel_tensor

IMAGES = digits(2)
BINARY, HEADERS = binary(pixel_tensor(IMAGES), IMAGES.tobytes(), parameters={"binary_data_output": True})
VERSION = "/v2/models/digits/versions/digits-1/infer"
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "JSON": ("POST", INFER, {"json": ask(IMAGES)}),
    "binary": ("POST", INFER, {"content": BINARY, "headers": HEADERS}),
    "a version": ("POST", VERSION, {"json": ask(IMAGES)}),
    "another version": ("POST", VERSION.replace("digits-1", "digits-9"), {"json": ask(IMAGES)}),
    "another model": ("POST", INFER.replace("digits", "nobody"), {"json": ask(IMAGES)}),
    "a name in other letters": ("POST", INFER.replace("digits", "d%69gits"), {"json": ask(IMAGES)}),
    "no name": ("POST", "/v2/models//infer", {"json": ask(IMAGES)}),
    "a path that goes on": ("POST", f"{INFER}/x", {"json": ask(IMAGES)}),
    "a slash at its end": ("POST", f"{INFER}/", {"json": ask(IMAGES)}),
    "a query": ("POST", f"{INFER}?x=1", {"json": ask(IMAGES)}),
    "no request": ("POST", INFER, {"content": b"no JSON"}),
    "a lie": ("POST", INFER, {"content": BINARY, "headers": {LENGTH: "7"}}),
    "too much": ("POST", INFER, {"content": b"x" * 300_001}),
    "another method": ("GET", INFER, {}),
    "a look at the head": ("HEAD", INFER, {}),
}


def answer(live, case: str) -> tuple[object, ...]:
    method, path, more = REQUESTS[case]
    more = more | {"headers": more.get("headers", {}) | {"X-Request-ID": "same-1"}}
    found = live.client.request(method, path, **more)
    return found.status_code, dict(found.headers), found.content


@pytest.mark.parametrize("case", REQUESTS)
def test_both_ways_give_the_same_answer(live, case, monkeypatch):
    short = answer(live, case)
    monkeypatch.setattr(short_way, "_INFER", re.compile("(?!)"))
    assert answer(live, case) == short


def test_both_ways_are_counted_by_the_same_route(live, monkeypatch):
    def counted(path: str) -> float:
        line = f'imago_http_requests_total{{method="POST",route="{path}",status="200"}} '
        text: str = live.client.get("/metrics").text
        return float(text.partition(line)[2].split("\n")[0] or 0)

    routes = {INFER: "/v2/models/{name}/infer", VERSION: "/v2/models/{name}/versions/{version}/infer"}
    for path, route in routes.items():
        before = counted(route)
        live.client.post(path, json=ask(IMAGES))
        with monkeypatch.context() as patched:
            patched.setattr(short_way, "_INFER", re.compile("(?!)"))
            live.client.post(path, json=ask(IMAGES))
        assert counted(route) == before + 2
