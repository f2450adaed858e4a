"""Where another server is: which name to ask for what, and what to connect to.

Source: Matrix v1.19, server-server API, "Resolving server names"; RFC 2782. Asking is the caller's: this module is told
the answers.

    name = parse_server_name("example.org")
    host = well_known_host(name)             # ask https://<host>/.well-known/matrix/server, unless it is None
    named = delegated or name
    questions = srv_questions(named)         # SRV records: those of the first question that has an answer
    connect_targets(named, records, pick)    # in this order
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.identifiers import is_server_name

DEFAULT_PORT = 8448
# Well-known answers are kept as long as they ask for, within these bounds (seconds).
WELL_KNOWN_DEFAULT_S = 24 * 3600
WELL_KNOWN_MOST_S = 48 * 3600
WELL_KNOWN_LEAST_S = 300
WELL_KNOWN_ERROR_S = 3600


@dataclass(frozen=True, slots=True)
class ServerName:
    """A server name taken apart. `host` is without brackets; `port` is None where none is given."""

    text: str
    host: str
    port: int | None
    is_address: bool  # an IP address, not a name


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One SRV record; `target` is without its final dot, and empty for "there is no such service"."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class ConnectTarget:
    """A place to connect to: resolve `host` (a name or an IP address), and be strict about who answers.

    `host_header` is what the request calls the server; `tls_name` is what the certificate must be for, and the SNI
    where it is no IP address.
    """

    host: str
    port: int
    host_header: str
    tls_name: str


def parse_server_name(name: str) -> ServerName:
    """Host and port of a server name. Raises ValueError for what is none."""
    if not is_server_name(name):
        raise ValueError(f"{name!r} is not a server name")
    bracketed = name.startswith("[")
    host, _, port = name[1:].partition("]") if bracketed else name.partition(":")
    port = port.removeprefix(":") if bracketed else port
    number = int(port) if port else None
    if number is not None and not 0 < number < 65_536:
        raise ValueError(f"{name!r} has a port that is none")
    if bracketed:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{name!r} is not a server name") from None
        return ServerName(name, host, number, is_address=True)
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return ServerName(name, host, number, is_address=False)
    return ServerName(name, host, number, is_address=True)


def well_known_host(name: ServerName) -> str | None:
    """Whom to ask for `/.well-known/matrix/server`; None where the name says everything (steps 1 and 2)."""
    return None if name.is_address or name.port is not None else name.host


def delegated_name(document: Any) -> ServerName | None:
    """The server name in a well-known document, or None where it holds none: then discovery goes on without it."""
    value = document.get("m.server") if isinstance(document, Mapping) else None
    try:
        return parse_server_name(value) if isinstance(value, str) else None
    except ValueError:
        return None


def well_known_seconds(cache_control: str | None) -> int:
    """How long a valid well-known answer is kept, by its Cache-Control header."""
    seconds = WELL_KNOWN_DEFAULT_S
    for directive in (cache_control or "").lower().split(","):
        word, _, value = directive.strip().partition("=")
        if word in {"no-store", "no-cache"}:
            return WELL_KNOWN_LEAST_S
        if word == "max-age" and value.strip('"').isdecimal():
            seconds = int(value.strip('"')[:9])
    return min(max(seconds, WELL_KNOWN_LEAST_S), WELL_KNOWN_MOST_S)


def srv_questions(name: ServerName) -> tuple[str, ...]:
    """The SRV records to look for, the name being the delegated one if there is one (steps 3.3 to 4, and 5).

    The second is deprecated, and counts only where the first does not exist.
    """
    if name.is_address or name.port is not None:
        return ()
    return f"_matrix-fed._tcp.{name.host}", f"_matrix._tcp.{name.host}"


def connect_targets(
    name: ServerName, records: Sequence[SrvRecord] | None, pick: Callable[[int], int]
) -> list[ConnectTarget]:
    """What to connect to, in this order; `name` is the delegated one if there is one.

    `records` are the SRV records that were found, None if there are none; `pick(n)` is a random number below n. Empty
    where the records say that there is no such service. Whatever the records say, the server is still called, and must
    prove to be, what its name says.
    """
    if records is None or not srv_questions(name):
        return [ConnectTarget(name.host, name.port or DEFAULT_PORT, name.text, name.host)]
    return [
        ConnectTarget(record.target, record.port, name.text, name.host)
        for record in in_order(records, pick)
        if record.target and 0 < record.port < 65_536
    ]


def in_order(records: Sequence[SrvRecord], pick: Callable[[int], int]) -> list[SrvRecord]:
    """SRV records by priority; among equals by lot, in proportion to their weight (RFC 2782)."""
    ordered: list[SrvRecord] = []
    for priority in sorted({record.priority for record in records}):
        # Those without weight come first in the running sum, so that they have a small chance.
        left = sorted((record for record in records if record.priority == priority), key=lambda r: r.weight > 0)
        while left:
            drawn = pick(sum(record.weight for record in left) + 1)
            running = 0
            for record in left:
                running += record.weight
                if running >= drawn:
                    break
            ordered.append(record)
            left.remove(record)
    return ordered
