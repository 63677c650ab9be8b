"""What a service makes sure of before it listens: that strangers cannot ask it, or that it knows its keys."""

import ipaddress
import logging
import sys
from pathlib import Path
from typing import Final, NoReturn

from shared.adapters.web.keyring import KeyRing
from shared.artefacts.keys import KeyStore
from shared.settings import CommonSettings

log = logging.getLogger(__name__)

_LEAST_CHARACTERS: Final = 32
_MOST_CHARACTERS: Final = 256
_FIRST_KEY: Final = "imago keys create --local --name NAME --owner OWNER --scope admin"


def ring_of(settings: CommonSettings) -> KeyRing | None:
    """Return the valid keys, as the store has them now; None where keys are off.

    A file of IMAGO_ADMIN_KEY_FILE that cannot be used is told in one line, and ends the process with 2.
    """
    if settings.auth == "off":
        return None
    path = settings.admin_key_file
    return KeyRing(KeyStore(settings.store_dir), None if path is None else _admin_key(path))


def check_access(settings: CommonSettings, host: str, variable: str) -> None:
    """End the process with 2, and a line that says what to do, where it must not listen.

    Args:
        settings: of the service.
        host: the address where it is to listen.
        variable: which names that address.
    """
    if settings.auth == "off":
        if not is_loopback(host):
            _refuse(
                f"{variable}: {host} is no loopback address, and IMAGO_AUTH is off: everybody who reaches it "
                "could do everything. Set IMAGO_AUTH=keys, or listen on 127.0.0.1"
            )
        log.warning("keys are off: whoever reaches this address may do everything", extra={"host": host})
        return
    ring = ring_of(settings)
    if ring is None or ring.empty:
        _refuse(
            "IMAGO_AUTH: it is keys, and there is no valid key. Make the first one with "
            f"`{_FIRST_KEY}`, or name a file that holds one in IMAGO_ADMIN_KEY_FILE"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address; a name is one where it is `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _admin_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        _refuse(f"IMAGO_ADMIN_KEY_FILE: {path} cannot be read: {reason}")
    if not _LEAST_CHARACTERS <= len(key) <= _MOST_CHARACTERS or not key.isprintable() or " " in key:
        # Neither the key nor how long it is.
        _refuse(
            f"IMAGO_ADMIN_KEY_FILE: {path} must hold one key of {_LEAST_CHARACTERS} to {_MOST_CHARACTERS} "
            "characters without spaces, such as `openssl rand -hex 32` makes"
        )
    return key


def _refuse(line: str) -> NoReturn:
    sys.stderr.write(f"{line}\n")
    raise SystemExit(2)
