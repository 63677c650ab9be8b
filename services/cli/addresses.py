"""Where a service of the stack listens, and whether it can."""

import errno
import socket
from dataclasses import dataclass

from services.cli.errors import StackFailed

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # only compared with


@dataclass(frozen=True)
class Address:
    """A host to bind and a port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """How this machine reaches it."""
        host = _EVERYWHERE.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def claim(prefix: str, host: str, port: int, *, any_port: bool) -> Address:
    """Return an address that can be listened on; `prefix` is of the variables that name it.

    Raises:
        StackFailed: the port is taken and no other will do.
    """
    reason = _refusal(host, port)
    if reason is None:
        return Address(host, port)
    if any_port and reason.errno == errno.EADDRINUSE:
        return Address(host, free_port(host))
    taken = reason.errno == errno.EADDRINUSE
    raise StackFailed(
        "port-taken" if taken else "address-unusable",
        f"port {port} on {host} is taken" if taken else f"cannot listen on {host}:{port}: {reason.strerror}",
        f"Set {prefix}_PORT or {prefix}_HOST to another, or stop what listens there.",
    )


def _refusal(host: str, port: int) -> OSError | None:
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:
        return error
    return None


def free_port(host: str) -> int:
    """Return a port on which nothing listens at this moment."""
    with socket.create_server((host, 0), family=_family(host)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
