"""Lets one test speak through both clients: the one for an event loop is run here, call by call."""

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import httpx

from shared.client import AsyncClient, Client

KINDS = ("sync", "async")


class InLoop:
    """An `AsyncClient` that is used like a `Client`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            return self._each(result) if inspect.isasyncgen(result) else self._runner.run(result)

        return call

    def _each(self, items: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    item = self._runner.run(anext(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._runner.run(items.aclose())

    def end(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


class Clients:
    """Makes clients of one kind, and closes them all."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._made: list[Any] = []

    def __call__(self, url: str = "http://gateway.test", answer: Any = None, **options: Any) -> Any:
        """Return a client; `answer` takes each request in place of a gateway."""
        if answer is not None:
            options["transport"] = httpx.MockTransport(answer)
        made = (Client if self.kind == "sync" else InLoop)(url, **options)
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.end() if isinstance(made, InLoop) else made.close()
