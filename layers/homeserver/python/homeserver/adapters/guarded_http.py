"""Asking other people's servers, at addresses that users, rooms and other servers name.

Such a name can point anywhere, also into the operator's own network. So a name is resolved once, only public addresses
are taken (and those of `FEDERATION_ALLOW_RANGES`), and the very addresses that were checked are connected to. There are
no proxies, and an end to time and size. TLS is verified against the name; without TLS only servers on this machine are
asked, and those only where `PLAIN_HTTP` says so.

`fetch_json` asks one URL, without redirects. Whoever needs more uses `GuardedConnection` with `resolved` addresses.
"""

import base64
import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import orjson

from homeserver.settings import settings

MOST_BYTES = 64 * 1024
USER_AGENT = "eigenserver"
_MOST_ADDRESSES = 4  # of one name that are tried
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_URL_CHARACTERS = frozenset("-._~:/?#[]@!$&'()*+,;=%")


class RequestFailed(Exception):
    """No answer: the server cannot be reached, takes too long, or says something else than JSON."""


class RequestRefused(RequestFailed):
    """Nobody was asked: the URL or the address is none that this server may reach."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the other server answered: the status, and a JSON object."""

    status: int
    json: dict[str, Any]


@dataclass(frozen=True, slots=True)
class UrlParts:
    """What a URL says: `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str


def fetch_json(
    method: str,
    url: str,
    *,
    body: Mapping[str, Any] | None = None,
    form: Mapping[str, str] | None = None,
    token: str | None = None,
    basic: tuple[str, str] | None = None,
    seconds: float,
) -> Reply:
    """One request, answered by a JSON object within so many seconds (finding the address aside).

    `body` is sent as JSON, `form` as the fields of a form. `token` goes into the Authorization header; `basic`, the ID
    and the secret of an OAuth client, as RFC 6749 writes them there. Raises RequestRefused or RequestFailed.
    """
    parts = url_parts(url)
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT, "Connection": "close"}
    data = None
    if body is not None:
        data = orjson.dumps(dict(body))
        headers["Content-Type"] = "application/json"
    if token is not None:
        if not token.isascii() or not token.isprintable():
            raise RequestRefused("the access token cannot stand in a header")
        headers["Authorization"] = f"Bearer {token}"
    if form is not None:
        data = urlencode(dict(form)).encode()
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    if basic is not None:
        pair = ":".join(quote_plus(part) for part in basic)
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    is_tls = parts.scheme == "https"
    addresses = resolved(parts.host, parts.port, tls=is_tls)
    connection = GuardedConnection(parts.host, parts.port, addresses, tls=verifying() if is_tls else None)
    try:
        with connection.within(seconds):
            connection.request(method, parts.target, data, headers)
            response = connection.getresponse()
            raw = response.read(MOST_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise RequestFailed(f"{parts.host} cannot be asked: {error}") from error
    finally:
        connection.close()
    if len(raw) > MOST_BYTES:
        raise RequestFailed(f"{parts.host} answers with too much")
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise RequestFailed(f"{parts.host} answers {response.status} and no JSON object")
    return Reply(response.status, parsed)


def url_parts(url: str) -> UrlParts:
    """An http or https URL taken apart. Raises RequestRefused."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or not is_clean(url) or "@" in parts.netloc or port == 0:
        raise RequestRefused("this is no URL that can be asked")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return UrlParts(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), target)


def is_clean(text: str) -> bool:
    """Whether a text has only what a URL may have: control characters and spaces could become a second request."""
    return text.isascii() and all(c.isalnum() or c in _URL_CHARACTERS for c in text)


def resolved(host: str, port: int, *, tls: bool = True) -> list[Address]:
    """The addresses of a name (or IP address) that may be asked, in the resolver's order, four at the most.

    Raises RequestFailed where there is no address at all, RequestRefused where none may be asked.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RequestFailed(f"{host} has no address: {error}") from error
    addresses: list[Address] = []
    for *_, place in found:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        is_private_enough = tls or (settings().plain_http == "loopback" and address.is_loopback)
        if is_private_enough and may_reach(address) and address not in addresses:
            addresses.append(address)
    if not addresses:
        raise RequestRefused(f"{host} is nowhere that this server asks")
    return addresses[:_MOST_ADDRESSES]


def may_reach(address: Address) -> bool:
    """Whether requests may go to an address: a public one, or one of the operator's ranges."""
    if any(address in network for network in _allowed(settings().federation_allow_ranges)):
        return True
    if isinstance(address, ipaddress.IPv6Address):
        # Addresses that stand for another one are as public as that.
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return may_reach(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


@cache
def _allowed(ranges: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(entry) for entry in ranges)


class GuardedConnection(http.client.HTTPConnection):
    """A connection to one of the addresses that were checked. Whatever is done on it is done `within` some time.

    `host` stands in the Host header, unless the request brings one, and is what the certificate must be for, unless
    `tls_name` is given. `tls` None is plain HTTP.
    """

    def __init__(
        self,
        host: str,
        port: int,
        addresses: Sequence[Address],
        *,
        tls: ssl.SSLContext | None,
        tls_name: str | None = None,
    ) -> None:
        super().__init__(host, port)
        self._addresses = tuple(addresses)
        self._tls = tls
        self._tls_name = tls_name or host
        self._end = 0.0
        # `sock` is given away while the answer is read.
        self._held: socket.socket | None = None

    def connect(self) -> None:
        for number, address in enumerate(self._addresses):
            # The last one may take all the time that is left.
            left, more = self._end - time.monotonic(), len(self._addresses) - number - 1
            if left <= 0:
                raise TimeoutError("timed out")
            try:
                self._held = socket.create_connection((str(address), self.port), left / 2 if more else left)
            except OSError:
                if not more:
                    raise
            else:
                break
        assert self._held is not None
        self._held.settimeout(max(0.001, self._end - time.monotonic()))
        self._held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            plain = self._held
            try:
                self._held = self._tls.wrap_socket(plain, server_hostname=self._tls_name)
            except BaseException:
                plain.close()
                raise
        self.sock = self._held

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cut the connection when the time is over: a socket's own timeout starts anew with each byte."""
        self._end = time.monotonic() + seconds
        if self.sock is not None:
            self.sock.settimeout(max(0.001, seconds))
        timer = threading.Timer(max(0.0, seconds), self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def is_late(self) -> bool:
        """Whether the time of the last `within` is over."""
        return time.monotonic() >= self._end

    def _cut(self) -> None:
        if self._held is not None:
            with contextlib.suppress(OSError):
                self._held.shutdown(socket.SHUT_RDWR)


@cache
def verifying() -> ssl.SSLContext:
    """TLS that believes the usual authorities."""
    return ssl.create_default_context()
