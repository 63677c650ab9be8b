"""A gateway that stops under load answers every request that it has been sent."""

import http.client
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from shared.artefacts.store import ArtefactStore
from tests.support.gateway_in_process import PNG_TYPE, image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.student_bundles import mlp_onnx, write_bundle

pytestmark = pytest.mark.integration


class Client(threading.Thread):
    """Asks again and again on one connection until an answer says that it was the last."""

    def __init__(self, port: int, pause_s: float) -> None:
        super().__init__()
        self.answers: Counter[int] = Counter()
        self.failures: list[str] = []
        self.told = False
        self._port, self._pause_s = port, pause_s

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            while not self.told:
                connection.request("POST", "/v1/predictions", image_file(), PNG_TYPE)
                response = connection.getresponse()
                response.read()
                self.answers[response.status] += 1
                self.told = response.getheader("Connection") == "close"
                time.sleep(self._pause_s)
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
        finally:
            connection.close()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stop_under_load_fails_no_request(tmp_path: Path, redis_url: str, processes: str):
    students = ArtefactStore(tmp_path / "store").students
    students.publish("digits-1", lambda at: write_bundle(at, "digits-1", mlp_onnx()))
    students.promote("digits-1")
    gateway = GatewayProcess(tmp_path, redis_url, GATEWAY_PROCESSES=processes).start()
    clients = [Client(gateway.port, pause_s) for pause_s in (0.0, 0.0, 0.0, 0.02, 0.02, 0.05)]
    for client in clients:
        client.start()
    time.sleep(1.0)
    assert gateway.stop() == 0
    for client in clients:
        client.join(10)
    assert [client.failures for client in clients] == [[]] * len(clients)
    assert all(client.told and set(client.answers) == {200} for client in clients)


def test_no_process_of_a_gateway_outlives_the_one_that_watches_over_them(tmp_path, redis_url):
    started = GatewayProcess(tmp_path, redis_url, GATEWAY_PROCESSES="2").start()
    started.stop(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", started.port), timeout=5).close()
        except OSError:
            return
        assert time.monotonic() < deadline, "something still listens on the port"
        time.sleep(0.05)
