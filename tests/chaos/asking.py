"""A thread that asks for predictions again and again and keeps every answer that was not 200."""

import threading
import time

import httpx

from tests.support.gateway_in_process import PNG_TYPE, image_file


class Asking:
    """Asks while the context lasts; `asked` counts, `failed` holds what went wrong in words."""

    def __init__(self, url: str, pause_s: float = 0.005, path: str = "/v1/predictions") -> None:
        self.asked = 0
        self.failed: list[str] = []
        self.longest_s = 0.0
        self._url = f"{url}{path}"
        self._pause_s = pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        image = image_file()
        with httpx.Client(timeout=30) as client:
            while not self._over.wait(self._pause_s):
                began = time.monotonic()
                try:
                    answer = client.post(self._url, content=image, headers=PNG_TYPE)
                    if answer.status_code != 200:
                        self.failed.append(f"{answer.status_code} {answer.text[:200]}")
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                self.asked += 1
                self.longest_s = max(self.longest_s, time.monotonic() - began)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
