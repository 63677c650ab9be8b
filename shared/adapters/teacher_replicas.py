"""The replicas of the teacher service: who is asked next, who is left out for a while, who comes back.

Each has a window of requests in flight that halves when the replica has too much to do and grows by one for
each round that goes well (as TCP's; V. Jacobson 1988). One that fails is left out for a time that grows with
each failure, and comes back through its health endpoint, with a window of one.
"""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx

from shared.adapters.teacher_retries import jittered_s

_RESOLVE_EVERY_S: Final = 30.0
_RESOLVE_AGAIN_S: Final = 1.0
"""While no replica is able: there may be new ones under the name."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and port to addresses; OSError where there are none."""


class Replica:
    """One process of the teacher service.

    Args:
        url: where it is asked.
        named: the address it was found by, where that is another: then requests carry its name.
        in_flight: most requests at the same time.
    """

    def __init__(self, url: httpx.URL, named: httpx.URL, in_flight: int) -> None:
        self.url = url
        self.named = named
        self.open = 0
        """Requests that it has not answered."""
        self.window = float(in_flight)
        """Requests that it may have at the same time."""
        self.out = False
        """Whether it is left out until its health endpoint answers well."""
        self.until = 0.0
        """When it may be asked again; where it is left out, about its health."""
        self._in_flight = in_flight
        self._strikes = 0
        self._halved_at = 0.0

    @property
    def headers(self) -> dict[str, str]:
        """What a request to it carries besides."""
        return {} if self.url == self.named else {"Host": self.named.netloc.decode("ascii")}

    @property
    def extensions(self) -> dict[str, str]:
        """What TLS needs to know where the URL is an address."""
        return {} if self.url == self.named else {"sni_hostname": self.named.host}

    def at(self, path: str) -> httpx.URL:
        """Return where one of its paths is."""
        return self.url.copy_with(path=self.url.path.rstrip("/") + path)

    def has_room(self, now: float) -> bool:
        """Return whether one more request may be sent."""
        return not self.out and now >= self.until and self.open < int(self.window)

    def succeeded(self) -> None:
        """Take in an answer."""
        self._strikes = 0
        self.window = min(self._in_flight, self.window + 1 / self.window)

    def overloaded(self, began: float, now: float, retry_after_s: float) -> None:
        """Take in that it has too much to do, as it said to a request that was sent at `began`."""
        self._strikes += 1
        self.until = max(self.until, now + retry_after_s + jittered_s(self._strikes))
        self._halve(began, now)

    def failed(self, began: float, now: float, retry_after_s: float = 0.0) -> None:
        """Take in that it did not answer, or not sensibly, a request that was sent at `began`."""
        self._strikes += 1
        self.out = True
        self.until = max(self.until, now + retry_after_s + jittered_s(self._strikes))
        self._halve(began, now)

    def came_back(self) -> None:
        """Take in that its health endpoint answers well."""
        self.out = False
        self.window = 1.0

    def _halve(self, began: float, now: float) -> None:
        if began >= self._halved_at:  # of requests that were sent together, one is enough
            self.window = max(1.0, self.window / 2)
            self._halved_at = now


class Replicas:
    """All replicas, found by a list of addresses whose names may stand for several. Lives in one event loop.

    Args:
        urls: addresses with commas between them.
        in_flight: most requests at the same time for one replica.
        healthy: asks a replica whether it is ready.
        resolve: finds the addresses of a name; the machine's resolver where left out.
    """

    def __init__(
        self,
        urls: str,
        *,
        in_flight: int,
        healthy: Callable[[Replica], Awaitable[bool]],
        resolve: Resolve | None = None,
    ) -> None:
        self.reason = "nobody was asked"
        """What went wrong last."""
        self._named = [httpx.URL(url.strip().rstrip("/")) for url in urls.split(",")]
        self._in_flight = in_flight
        self._healthy = healthy
        self._resolve = resolve or addresses_of
        self._replicas: dict[httpx.URL, Replica] = {}
        self._resolve_at = 0.0
        self._probes: dict[Replica, asyncio.Task[None]] = {}
        self._change = asyncio.Event()

    @property
    def all(self) -> list[Replica]:
        """The replicas that are known."""
        return list(self._replicas.values())

    async def take(self) -> Replica:
        """Wait until a replica has room and return the one with most; `give` it back after the request."""
        while True:
            await self._find()
            now = _now()
            able = [replica for replica in self.all if replica.has_room(now)]
            if able:
                chosen = min(able, key=lambda replica: (replica.open / replica.window, random.random()))
                chosen.open += 1
                return chosen
            for replica in self.all:
                if replica.out and now >= replica.until and replica not in self._probes:
                    self._probes[replica] = asyncio.create_task(self._probe(replica))
            later = [replica.until - now for replica in self.all if replica.until > now]
            change = self._change
            try:
                async with asyncio.timeout(min([_RESOLVE_AGAIN_S, *later])):
                    await change.wait()
            except TimeoutError:
                continue

    def give(self, replica: Replica) -> None:
        """Take in that a request has ended, however it did."""
        replica.open -= 1
        self._changed()

    async def _probe(self, replica: Replica) -> None:
        began = _now()
        try:
            if await self._healthy(replica):
                replica.came_back()
            else:
                replica.failed(began, _now())
        finally:
            del self._probes[replica]
            self._changed()

    async def _find(self) -> None:
        """Look the names up, from time to time; replicas that are still there keep what is known of them."""
        now = _now()
        every_s = _RESOLVE_EVERY_S if any(not replica.out for replica in self.all) else _RESOLVE_AGAIN_S
        if self._replicas and now < self._resolve_at + every_s:
            return
        self._resolve_at = now
        found: dict[httpx.URL, Replica] = {}
        for named in self._named:
            for url in await self._urls_of(named):
                found[url] = self._replicas.get(url) or Replica(url, named, self._in_flight)
        self._replicas = found

    async def _urls_of(self, named: httpx.URL) -> list[httpx.URL]:
        try:
            addresses = sorted(set(await self._resolve(named.host, named.port or 0)))
        except OSError as error:
            self.reason = f"{named.host}: {error}"
            known = [replica.url for replica in self.all if replica.named == named]
            return known or [named]
        return [named] if len(addresses) <= 1 else [named.copy_with(host=address) for address in addresses]

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()


async def addresses_of(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a name: those of IPv4 where it has any, else those of IPv6.

    A name that has both, as `localhost` may, is one machine with two addresses and not two replicas.

    Raises:
        OSError: there are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family = {
        family: [str(address[0]) for kind, _, _, _, address in found if kind == family]
        for family in (socket.AF_INET, socket.AF_INET6)
    }
    return by_family[socket.AF_INET] or by_family[socket.AF_INET6]


def _now() -> float:
    return asyncio.get_running_loop().time()
