"""Promise 6: a deploy costs no request, with two gateways behind whoever asks the one that is ready."""

import threading
import time
from pathlib import Path

import httpx
import pytest

from shared.artefacts.store import ArtefactStore
from shared.client import Client, GatewayUnreachable, Retries
from tests.support.gateway_in_process import image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.student_bundles import mlp_onnx, write_bundle
from tests.support.worker_process import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PROBE_S = 0.1
"""How often a balancer looks at readiness; the orchestrators' default is seconds."""


class Balancer:
    """Knows who is ready by asking, as a proxy or a service of an orchestrator does."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self._ready = set(urls)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def in_order(self, turn: int) -> list[str]:
        """Return whom to ask, by turns; those who were not ready last."""
        first = self.urls[turn % len(self.urls) :] + self.urls[: turn % len(self.urls)]
        return sorted(first, key=lambda url: url not in self._ready)

    def ready(self) -> set[str]:
        """Return who was ready at the last look."""
        return set(self._ready)

    def _watch(self) -> None:
        while not self._over.wait(PROBE_S):
            for url in self.urls:
                try:
                    ready = httpx.get(f"{url}/health/ready", timeout=1).is_success
                except httpx.HTTPError:
                    ready = False
                (self._ready.add if ready else self._ready.discard)(url)

    def __enter__(self) -> "Balancer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Asker(threading.Thread):
    """Asks for predictions again and again; where one gateway is gone it asks the other, once."""

    def __init__(self, balancer: Balancer, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.asked = self.elsewhere = 0
        self.failed: list[str] = []
        self._balancer, self._over = balancer, over

    def run(self) -> None:
        image = image_file()
        # The balancer's part is to repeat: the client itself does not.
        clients = {url: Client(url, retries=Retries(attempts=1)) for url in self._balancer.urls}
        while not self._over.is_set():
            self.asked += 1
            try:
                self._ask(clients, image)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what a user would see
                self.failed.append(repr(error))
        for client in clients.values():
            client.close()

    def _ask(self, clients: dict[str, Client], image: bytes) -> None:
        first, second = self._balancer.in_order(self.asked)
        try:
            clients[first].predict(image)
        except GatewayUnreachable:
            self.elsewhere += 1
            clients[second].predict(image)


def test_two_gateways_that_stop_and_start_in_turn_fail_no_request(
    tmp_path: Path, redis_url: str, sized, told
):
    turns, askers = sized((2, 3), (10, 6))
    students = ArtefactStore(tmp_path / "store").students
    students.publish("digits-1", lambda folder: write_bundle(folder, "digits-1", mlp_onnx()))
    students.promote("digits-1")
    gateways = [GatewayProcess(tmp_path, redis_url).start() for _ in range(2)]
    over = threading.Event()
    try:
        with Balancer([gateway.url for gateway in gateways]) as balancer:
            threads = [Asker(balancer, over) for _ in range(askers)]
            for thread in threads:
                thread.start()
            for turn in range(turns):
                gateway = gateways[turn % 2]
                time.sleep(0.5)
                assert gateway.stop() == 0
                gateway.start()
                # The next one goes once the balancer counts on this one again, as a rollout waits for it.
                eventually(lambda: len(balancer.ready()) == 2, 30, "both are ready")
            over.set()
            for thread in threads:
                thread.join()
    finally:
        over.set()
        for gateway in gateways:
            gateway.stop()
    failed = [failure for thread in threads for failure in thread.failed]
    asked = sum(thread.asked for thread in threads)
    elsewhere = sum(thread.elsewhere for thread in threads)
    told(
        6,
        f"two gateways stopped and started in turn, {turns} times, under load: failed requests",
        f"{len(failed)} of {asked:,}; {elsewhere} were asked of the other, as their gateway was gone"
        + (f"; {failed[0]}" if failed else ""),
        "0",
        held=not failed and asked > 0,
    )
