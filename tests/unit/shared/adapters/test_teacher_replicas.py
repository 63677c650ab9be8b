"""Replicas: who is asked next, who is left out, who comes back; names that stand for several."""

import asyncio

import httpx
import pytest

from shared.adapters import teacher_replicas
from shared.adapters.teacher_replicas import Replica, Replicas, addresses_of

URL = httpx.URL("http://10.0.0.1:8081")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch):
    """Wait as long as the jitter may at most, on a scale that tests can wait for."""
    monkeypatch.setattr(teacher_replicas, "jittered_s", lambda times: 0.02 * 2**times)


def replicas(addresses, *, in_flight=4, healthy=None, urls="http://teacher:8081") -> Replicas:
    async def resolve(host: str, _port: int):
        found = addresses[host] if isinstance(addresses, dict) else addresses
        if isinstance(found, OSError):
            raise found
        return list(found)

    async def always(_replica) -> bool:
        return True

    return Replicas(urls, in_flight=in_flight, healthy=healthy or always, resolve=resolve)


def run(scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


def replica(in_flight: int = 8) -> Replica:
    return Replica(URL, URL, in_flight)


# --- one replica -------------------------------------------------------------------------------------------


def test_the_window_halves_once_for_requests_that_were_sent_together_and_grows_by_one_a_round():
    one = replica(8)
    for _ in range(5):
        one.overloaded(began=1.0, now=2.0, retry_after_s=0)
    assert one.window == 4
    one.overloaded(began=2.5, now=3.0, retry_after_s=0)
    assert one.window == 2
    for _ in range(2):
        one.succeeded()
    assert 2.8 < one.window <= 3
    for _ in range(100):
        one.succeeded()
    assert one.window == 8


def test_the_window_never_closes():
    one = replica(2)
    for began in range(10):
        one.overloaded(began=began, now=began, retry_after_s=0)
    assert one.window == 1


def test_retry_after_is_waited_for_and_jitter_on_top():
    one = replica()
    one.overloaded(began=1.0, now=2.0, retry_after_s=3.0)
    assert not one.out
    assert not one.has_room(5.0)
    assert one.has_room(5.1)


def test_a_failing_replica_is_left_out_longer_each_time_and_an_answer_forgives():
    one, waits = replica(), []
    for _ in range(3):
        one.failed(began=0.0, now=10.0)
        waits.append(one.until - 10)
        one.until = 0
    assert waits == sorted(waits)
    assert waits[2] > 3 * waits[0]
    assert not one.has_room(1e9), "only its health brings it back"
    one.came_back()
    assert (one.window, one.has_room(20)) == (1, True)
    one.succeeded()
    one.failed(began=0.0, now=10.0)
    assert one.until - 10 == waits[0]


# --- several -----------------------------------------------------------------------------------------------


def test_a_name_with_several_addresses_is_as_many_replicas_and_work_is_spread():
    async def scenario():
        found = replicas(["10.0.0.1", "10.0.0.2", "10.0.0.2"], in_flight=4)
        taken = [await found.take() for _ in range(8)]
        assert sorted(str(one.url) for one in taken) == 4 * ["http://10.0.0.1:8081"] + 4 * [
            "http://10.0.0.2:8081"
        ]
        assert taken[0].headers == {"Host": "teacher:8081"}
        assert taken[0].extensions == {"sni_hostname": "teacher"}

    run(scenario)


def test_a_name_with_one_address_is_asked_by_its_name():
    async def scenario():
        one = await replicas(["10.0.0.1"]).take()
        assert (str(one.at("/v1")), one.headers, one.extensions) == ("http://teacher:8081/v1", {}, {})

    run(scenario)


def test_a_list_is_as_many_replicas_and_keeps_its_paths():
    async def scenario():
        found = replicas(
            {"a": ["10.0.0.1"], "b": ["10.0.0.2"]}, urls="http://a:1/x/ , https://b", in_flight=1
        )
        taken = {str((await found.take()).at("/v1")) for _ in range(2)}
        assert taken == {"http://a:1/x/v1", "https://b/v1"}

    run(scenario)


def test_who_waits_gets_the_place_that_is_given_back():
    async def scenario():
        found = replicas(["10.0.0.1"], in_flight=1)
        first = await found.take()
        waiting = asyncio.create_task(found.take())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        found.give(first)
        assert await waiting is first

    run(scenario)


def test_a_failing_replica_is_left_out_and_taken_in_again_by_its_health():
    well, probed = False, 0

    async def healthy(_replica) -> bool:
        nonlocal probed
        probed += 1
        return well

    async def scenario():
        nonlocal well
        found = replicas(["10.0.0.1", "10.0.0.2"], in_flight=2, healthy=healthy)
        bad = await found.take()
        bad.failed(began=0.0, now=asyncio.get_running_loop().time())
        found.give(bad)
        assert {await found.take() for _ in range(2)}.isdisjoint({bad})
        waiting = asyncio.create_task(found.take())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert 1 < probed < 6, "probes grow rarer"
        well = True
        assert await waiting is bad

    run(scenario)


def test_names_are_looked_up_again_while_nobody_is_able(monkeypatch):
    monkeypatch.setattr(teacher_replicas, "_RESOLVE_AGAIN_S", 0.02)
    addresses = ["10.0.0.1"]

    async def healthy(_replica) -> bool:
        return False

    async def scenario():
        found = replicas(addresses, healthy=healthy)
        first = await found.take()
        first.failed(began=0.0, now=asyncio.get_running_loop().time())
        found.give(first)
        addresses[:] = ["10.0.0.8", "10.0.0.9"]
        assert (await found.take()).url.host in addresses

    run(scenario)


def test_a_name_that_cannot_be_looked_up_is_asked_as_before(monkeypatch):
    monkeypatch.setattr(teacher_replicas, "_RESOLVE_EVERY_S", 0.0)
    addresses = {"teacher": ["10.0.0.1", "10.0.0.2"]}

    async def scenario():
        found = replicas(addresses)
        await found.take()
        addresses["teacher"] = OSError("no such name")
        await found.take()
        assert len(found.all) == 2
        assert "no such name" in found.reason
        fresh = replicas(addresses)
        assert str((await fresh.take()).url) == "http://teacher:8081"

    run(scenario)


def test_localhost_is_one_replica_whatever_families_it_has():
    async def scenario():
        assert len(await addresses_of("localhost", 80)) == 1
        assert await addresses_of("::1", 80) == ["::1"]

    run(scenario)
