"""Where something listens: ``host:port``."""

import re

from roundel.core.errors import ConfigError

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+):(\d{1,9})", re.ASCII)
LAST_PORT = 65_535


def host_and_port(address: str) -> tuple[str, int]:
    """Split the address of a coordinator; an IPv6 host loses its brackets.

    >>> host_and_port("[::1]:8470")
    ('::1', 8470)

    Raises:
        ConfigError: It is not one that can be dialled.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ConfigError(
            f"{address[:80]!r} is not an address; write HOST:PORT, such as 192.0.2.7:8470 or "
            "[2001:db8::7]:8470"
        )
    port = int(found[2])
    if not 1 <= port <= LAST_PORT:
        raise ConfigError(
            f"{address!r} has the port {port}; ports go from 1 to {LAST_PORT}, and "
            "`roundel serve` prints its own"
        )
    return found[1].strip("[]"), port
