"""A typed client of the gateway's public API: `Client`, and `AsyncClient` for an event loop.

    from pathlib import Path
    from shared.client import Client

    with Client("http://127.0.0.1:8080") as client:
        print(client.predict(Path("seven.png")).predictions[0].predicted)

docs/client.md has more.
"""

from shared.client.async_client import AsyncClient
from shared.client.client import Client
from shared.client.errors import (
    AnswerNotUnderstood,
    DeadlineMissed,
    GatewayError,
    GatewayRefused,
    GatewayUnreachable,
    KeyUnusable,
)
from shared.client.images import Image, Predicted
from shared.client.retries import Retries

__all__ = [
    "AnswerNotUnderstood",
    "AsyncClient",
    "Client",
    "DeadlineMissed",
    "GatewayError",
    "GatewayRefused",
    "GatewayUnreachable",
    "Image",
    "KeyUnusable",
    "Predicted",
    "Retries",
]
