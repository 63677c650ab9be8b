"""Which servers of the Open Inference Protocol may be asked; requests lead to no others."""

import re
from dataclasses import dataclass
from typing import Final, Self

from shared.errors import OipHostNotAllowed

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"^(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<host>[a-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?$")


@dataclass(frozen=True)
class AllowedHosts:
    """The servers that may be asked, as `TEACHER_OIP_HOSTS` lists them; without a port all are meant."""

    entries: tuple[tuple[str, int | None], ...] = ()

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the hosts of a comma list of `host` and `host:port`.

        Raises:
            ValueError: an entry is no host, such as an address with a scheme.
        """
        entries = []
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            found = _HOST.match(entry)
            if found is None or int(found["port"] or 1) not in range(1, 65_536):
                raise ValueError(f"{entry!r} is not of the form host or host:port")
            port = int(found["port"]) if found["port"] else None
            entries.append((found["six"] or found["host"], port))
        return cls(tuple(entries))

    def need(self, url: str) -> None:
        """Raise where the server of this address may not be asked.

        Raises:
            OipHostNotAllowed: it is not on the list, or the address is none.
        """
        import httpx  # here: all services read this setting, and most of them ask no server

        try:
            parsed = httpx.URL(url)
            host, port = parsed.raw_host.decode("ascii").lower(), parsed.port
        except (httpx.InvalidURL, UnicodeDecodeError):
            raise OipHostNotAllowed(repr(url[:200]), self._listed()) from None
        port = port or _DEFAULT_PORTS.get(parsed.scheme)
        if parsed.scheme not in _DEFAULT_PORTS or parsed.userinfo:
            raise OipHostNotAllowed(repr(url[:200]), self._listed())
        bare = host.strip("[]")
        if not any(bare == allowed and of_port in (None, port) for allowed, of_port in self.entries):
            raise OipHostNotAllowed(f"{host}:{port}", self._listed())

    def __str__(self) -> str:
        return ",".join(self._listed())

    def _listed(self) -> tuple[str, ...]:
        return tuple(
            (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
            for host, port in self.entries
        )
