"""`python -m services.gateway.openapi` stores the service's OpenAPI document beside this file."""

from pathlib import Path

from fastapi import FastAPI

from services.gateway.app import create_api
from services.gateway.settings import GatewaySettings
from shared.adapters.web import openapi
from shared.jobs.memory_store import MemoryJobStore

STORED = Path(__file__).with_name("openapi.json")


class _Nobody:
    """Wakes no worker; the document does not need one."""

    def send(self, job_id: str) -> None:
        """Do nothing."""


def described() -> FastAPI:
    """Return the routes, for their description only: no environment, no Redis."""
    return create_api(GatewaySettings.model_construct(), jobs=MemoryJobStore(), dispatcher=_Nobody())


def main() -> None:
    """Write the document anew; a test compares it with what the routes say."""
    openapi.write(described(), STORED)


if __name__ == "__main__":
    main()
