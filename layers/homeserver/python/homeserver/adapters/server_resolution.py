"""Asking the net where a server is: its well-known document and its SRV records, both remembered for a while.

Source: Matrix v1.19, server-server API, "Resolving server names"; what follows from the answers is in
`matrix.server_discovery`. What is remembered is remembered by this process.
"""

import http.client
import secrets
import ssl
import time
from functools import cache
from typing import TypeVar
from urllib.parse import urljoin

import orjson

from homeserver.adapters.guarded_http import (
    USER_AGENT,
    GuardedConnection,
    RequestFailed,
    RequestRefused,
    resolved,
    url_parts,
    verifying,
)
from homeserver.matrix.server_discovery import (
    WELL_KNOWN_ERROR_S,
    WELL_KNOWN_LEAST_S,
    ConnectTarget,
    ServerName,
    SrvRecord,
    connect_targets,
    delegated_name,
    parse_server_name,
    srv_questions,
    well_known_host,
    well_known_seconds,
)
from homeserver.observability import log
from homeserver.settings import settings

WELL_KNOWN_PORT = 443
_MOST_WELL_KNOWN_BYTES = 50 * 1024
_MOST_REDIRECTS = 5
_WELL_KNOWN_S = 10.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SRV_S = 5.0
_SRV_LEAST_S, _SRV_MOST_S = 60, 3600
_MOST_REMEMBERED = 2048
T = TypeVar("T")

# By host: until when (monotonic seconds), and the server it delegates to, if any.
_well_known: dict[str, tuple[float, ServerName | None]] = {}
_records: dict[str, tuple[float, list[SrvRecord] | None]] = {}


def find_server(server_name: str, *, seconds: float) -> list[ConnectTarget]:
    """What to connect to for a server, in this order; empty where its DNS says that there is no such service.

    `seconds` bound what is asked over HTTP. Raises RequestRefused for what is no server name.
    """
    try:
        name = parse_server_name(server_name)
    except ValueError as error:
        raise RequestRefused(str(error)) from None
    host = well_known_host(name)
    delegated = ask_well_known(host, seconds=seconds) if host is not None else None
    return connect_targets(delegated or name, _srv_of(delegated or name), secrets.randbelow)


def forget_servers() -> None:
    """Ask anew for everything that is asked next."""
    _well_known.clear()
    _records.clear()


def federation_tls() -> ssl.SSLContext:
    """TLS as `FEDERATION_VERIFY` wants it: believing the usual authorities, these and a file's, or everybody.

    Raises RequestRefused where the file cannot be used.
    """
    return _tls(settings().federation_verify)


@cache
def _tls(verify: str) -> ssl.SSLContext:
    if verify == "on":
        return verifying()
    context = ssl.create_default_context()
    if verify == "off":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        try:
            context.load_verify_locations(verify)
        except OSError as error:
            log.error("FEDERATION_VERIFY is %r, which is no file of certificates: %s", verify, error)
            raise RequestRefused("FEDERATION_VERIFY names no file of certificates") from error
    return context


# ── well-known ──────────────────────────────────────────────────────────────────────────────────────


def ask_well_known(host: str, *, seconds: float = _WELL_KNOWN_S) -> ServerName | None:
    """The server that a host delegates to, or None: then discovery goes on without. Errors are remembered, too."""
    now = time.monotonic()
    if host in _well_known and now < _well_known[host][0]:
        return _well_known[host][1]
    try:
        status, cache_control, body = _fetched(f"https://{host}/.well-known/matrix/server", min(seconds, _WELL_KNOWN_S))
    except RequestFailed as error:
        log.info("no well-known document: %s", error)
        delegated, kept = None, WELL_KNOWN_LEAST_S
    else:
        delegated = delegated_name(_json(body)) if status == 200 else None
        kept = WELL_KNOWN_ERROR_S if delegated is None else well_known_seconds(cache_control)
    _remember(_well_known, host, (now + kept, delegated))
    return delegated


def _fetched(url: str, seconds: float) -> tuple[int, str | None, bytes]:
    """Status, Cache-Control and body, after redirects. Raises RequestFailed."""
    end = time.monotonic() + seconds
    for _ in range(_MOST_REDIRECTS + 1):
        parts = url_parts(url)
        if parts.scheme != "https":
            raise RequestRefused(f"{url} is not https")
        port = WELL_KNOWN_PORT if parts.port == 443 else parts.port
        # Each hop may lead anywhere: each is resolved and checked like the first.
        addresses = resolved(parts.host, port)
        connection = GuardedConnection(parts.host, port, addresses, tls=federation_tls())
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT, "Connection": "close"}
        headers["Host"] = url.split("/")[2]
        try:
            with connection.within(end - time.monotonic()):
                connection.request("GET", parts.target, None, headers)
                answer = connection.getresponse()
                location = answer.getheader("location")
                if answer.status in _REDIRECTS and location:
                    url = urljoin(url, location)
                    continue
                body = answer.read(_MOST_WELL_KNOWN_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(f"{parts.host} cannot be asked: {error}") from error
        finally:
            connection.close()
        if len(body) > _MOST_WELL_KNOWN_BYTES:
            raise RequestFailed(f"{parts.host} answers with too much")
        return answer.status, answer.getheader("cache-control"), body
    raise RequestFailed(f"{url} redirects too often")


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


# ── SRV ─────────────────────────────────────────────────────────────────────────────────────────────


def _srv_of(name: ServerName) -> list[SrvRecord] | None:
    for question in srv_questions(name):
        records = srv_records(question)
        if records is not None:
            return records
    return None


def srv_records(question: str) -> list[SrvRecord] | None:
    """The SRV records under a name, or None where there are none or nobody answers."""
    now = time.monotonic()
    if question in _records and now < _records[question][0]:
        return _records[question][1]
    # Only who looks for servers pays for the import.
    import dns.exception  # noqa: PLC0415
    import dns.resolver  # noqa: PLC0415

    found: list[SrvRecord] | None
    try:
        answer = dns.resolver.resolve(f"{question}.", "SRV", lifetime=_SRV_S, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        found, kept = None, _SRV_LEAST_S
    except dns.exception.DNSException as error:
        # A name server that does not know such questions must not make a server unreachable: the certificate still
        # has to be for its name.
        log.info("no answer to %s: %s", question, error)
        found, kept = None, _SRV_LEAST_S
    else:
        found = [
            SrvRecord(record.priority, record.weight, record.port, str(record.target).removesuffix("."))
            for record in answer
        ]
        ttl = answer.rrset.ttl if answer.rrset is not None else 0
        kept = min(max(ttl, _SRV_LEAST_S), _SRV_MOST_S)
    _remember(_records, question, (now + kept, found))
    return found


def _remember(known: dict[str, T], key: str, value: T) -> None:
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[key] = value
