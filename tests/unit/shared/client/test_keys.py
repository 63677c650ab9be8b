import logging
from collections.abc import Iterator

import httpx
import pytest

from services.gateway import examples
from shared.client import GatewayRefused, GatewayUnreachable, KeyUnusable
from tests.support.both_clients import KINDS, Clients

KEY = "imago_7c2m9qx04tbz_" + "s" * 43


@pytest.fixture(params=KINDS)
def clients(request: pytest.FixtureRequest) -> Iterator[Clients]:
    made = Clients(request.param)
    yield made
    made.close()


def test_a_key_is_sent_with_every_request(clients: Clients):
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, content=examples.KEYS.model_dump_json())

    clients(answer=answer, key=KEY, headers={"X-Other": "1"}).keys()
    clients(answer=answer).keys()
    assert seen == [f"Bearer {KEY}", None]


@pytest.mark.parametrize("key", ["", "two words", "imago_x\n", "imago_x\r\nX-Other: 1", "ключ"])
def test_what_cannot_be_a_key_is_refused_before_it_is_sent_or_shown(clients: Clients, key: str):
    with pytest.raises(KeyUnusable) as told:
        clients(answer=lambda _: pytest.fail("it was sent"), key=key)
    assert not key or key not in str(told.value) + told.value.remedy


def test_no_error_and_no_log_of_the_client_has_the_key(clients: Clients, caplog: pytest.LogCaptureFixture):
    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401, content=b"{}")

    def break_off(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("broken", request=request)

    with caplog.at_level(logging.DEBUG):
        for answer, error in ((refuse, GatewayRefused), (break_off, GatewayUnreachable)):
            client = clients(answer=answer, key=KEY)
            with pytest.raises(error) as told:
                client.revoke_key("7c2m9qx04tbz") if error is GatewayRefused else client.make_key(b"{}")
            assert "sssss" not in f"{told.value} {told.value.remedy} {vars(told.value)} {client}"
    assert "sssss" not in caplog.text


def test_keys_are_made_listed_and_revoked(clients: Clients):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path))
        found = {"POST": examples.KEY_MADE, "DELETE": examples.KEY_REVOKED}.get(request.method, examples.KEY)
        if request.url.path == "/v1/keys" and request.method == "GET":
            found = examples.KEYS
        return httpx.Response(200, content=found.model_dump_json())

    client = clients(answer=answer)
    assert client.make_key(b"{}") == examples.KEY_MADE
    assert client.keys() == examples.KEYS
    assert client.key("7c2m9qx04tbz") == examples.KEY
    assert client.revoke_key("7c2m9qx04tbz") == examples.KEY_REVOKED
    assert asked == [
        ("POST", "/v1/keys"),
        ("GET", "/v1/keys"),
        ("GET", "/v1/keys/7c2m9qx04tbz"),
        ("DELETE", "/v1/keys/7c2m9qx04tbz"),
    ]
