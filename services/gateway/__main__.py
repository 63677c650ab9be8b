"""`python -m services.gateway`: serve until SIGTERM or SIGINT."""

import os

from services.gateway.observability.otel import need_packages
from services.gateway.settings import GatewaySettings
from shared.adapters.web.server import serve
from shared.adapters.web.starting import check_access
from shared.logs import configure_logging
from shared.settings import load


def main() -> None:
    """Read the settings and serve; a wrong setting is told before anything starts."""
    settings = load(GatewaySettings)
    need_packages(os.environ)
    configure_logging("gateway", settings.log_level)
    check_access(settings, settings.host, "GATEWAY_HOST")
    serve(
        "services.gateway.app:from_environment",
        host=settings.host,
        port=settings.port,
        processes=settings.processes,
        drain_s=settings.drain_s,
        protocol="services.gateway.hot.protocol:HotProtocol",
    )


if __name__ == "__main__":
    main()
