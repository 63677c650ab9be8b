"""Keys on the short way of predictions: it answers who has one, and leaves strangers to the guard."""

import socket

import httpx
import pytest

from services.gateway.hot import exchange, heads
from shared.contracts.keys import Scope
from tests.support.gateway_in_process import image_file
from tests.support.keyed_gateway import KeyedGateway, bearer

PATH = "/v1/predictions"
IMAGE = image_file()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses of the answers that went the short way."""
    found: list[int] = []
    count = exchange.Exchange.count

    def noted(one: exchange.Exchange, status: int) -> None:
        found.append(status)
        count(one, status)

    monkeypatch.setattr(exchange.Exchange, "count", noted)
    return found


def test_a_key_takes_the_short_way_with_a_new_head_and_with_a_known_one(
    client: httpx.Client, served: KeyedGateway, taken: list[int]
):
    key = served.key(Scope.PREDICT)
    answers = [client.post(PATH, content=IMAGE, headers=key).status_code for _ in range(3)]
    assert answers == taken == [200, 200, 200]


def test_a_key_that_is_revoked_is_refused_though_its_head_is_known(
    client: httpx.Client, served: KeyedGateway, taken: list[int]
):
    key = served.key(Scope.PREDICT)
    for _ in range(2):
        assert client.post(PATH, content=IMAGE, headers=key).status_code == 200
    served.store.keys.revoke(key["Authorization"][13:25])
    assert served.gateway.ring is not None
    served.gateway.ring.refresh()
    refused = client.post(PATH, content=IMAGE, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert taken == [200, 200]


def test_the_head_of_a_stranger_is_not_kept(client: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    """Else made-up keys would push the heads of those out who have one."""
    known: dict[bytes, heads.Head] = {}
    monkeypatch.setattr(heads, "_known", known)
    for place in range(3):
        assert client.post(PATH, content=IMAGE, headers=bearer(f"imago_{place}")).status_code == 401
    assert known == {}


def test_one_connection_carries_requests_with_and_without_a_key(
    client: httpx.Client, served: KeyedGateway, taken: list[int]
):
    key = served.key(Scope.PREDICT)
    statuses = [client.post(PATH, content=IMAGE, headers=headers).status_code for headers in (key, {}, key)]
    assert statuses == [200, 401, 200]


def test_two_keys_are_none(client: httpx.Client, served: KeyedGateway):
    headers = [*served.key(Scope.PREDICT).items()] * 2
    assert client.post(PATH, content=IMAGE, headers=headers).status_code == 401


@pytest.mark.parametrize("length", [len(IMAGE), 200_000, 10_000_000])
def test_a_stranger_is_refused_before_the_body_has_come(served: KeyedGateway, length: int):
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_many_predictions_need_no_look_at_the_file_of_keys(
    client: httpx.Client, served: KeyedGateway, monkeypatch: pytest.MonkeyPatch
):
    key = served.key(Scope.PREDICT)
    monkeypatch.setattr(type(served.store.keys), "read", lambda _: pytest.fail("the file was read"))
    for _ in range(5):
        assert client.post(PATH, content=IMAGE, headers=key).status_code == 200
