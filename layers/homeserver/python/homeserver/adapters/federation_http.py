"""Requests to other homeservers: found, connected to and signed as the specification says.

Source: Matrix v1.19, server-server API, "Request Authentication", "Resolving server names", "TLS".

    status, answer = FederationClient().request("GET", "example.org", federation_path("v1", "state", room_id))

Connections are kept for a while and used again. Addresses are checked when they are connected to: `guarded_http`.
"""

import http.client
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from homeserver.adapters.guarded_http import (
    USER_AGENT,
    GuardedConnection,
    RequestFailed,
    RequestRefused,
    is_clean,
    resolved,
)
from homeserver.adapters.server_resolution import federation_tls, find_server
from homeserver.adapters.signing_key import signing_key
from homeserver.matrix.canonical_json import encode_lenient, parse_json
from homeserver.matrix.errors import NotJson
from homeserver.matrix.request_signing import sign_request
from homeserver.matrix.server_discovery import ConnectTarget
from homeserver.settings import settings

TIMEOUT_S = 20.0
MOST_BYTES = 4 * 1024 * 1024
_IDLE_S = 20.0  # servers close a connection that is idle for longer
_MOST_IDLE = 64
_CHUNK = 64 * 1024

QueryValue = str | int | bool | Sequence[str]


class FederationError(Exception):
    """A request to another server that brought nothing. `destination`: which server."""

    def __init__(self, destination: str, message: str) -> None:
        super().__init__(f"{destination}: {message}")
        self.destination = destination


class Refused(FederationError):
    """Nobody was asked: federation is off, the name is none, or it leads where this server does not go."""


class Unreachable(FederationError):
    """The server cannot be found or connected to, or broke off."""


class TimedOut(Unreachable):
    """The server did not answer in time."""


class BadAnswer(Unreachable):
    """The server answered, and not with JSON of a size that is taken."""


class HttpError(FederationError):
    """The server answered with an error (or a redirection): `status`, `errcode` and `error` as far as it said them.

    `answer` is the whole object that it said them in. `retry_after_ms`: how long it wants to be left alone, or None.
    """

    def __init__(
        self, destination: str, status: int, answer: Mapping[str, Any], retry_after_ms: int | None = None
    ) -> None:
        errcode, error = answer.get("errcode"), answer.get("error")
        self.status = status
        self.answer = answer
        self.errcode = errcode if isinstance(errcode, str) else "M_UNKNOWN"
        self.error = error if isinstance(error, str) else ""
        self.retry_after_ms = retry_after_ms
        super().__init__(destination, f"{status} {self.errcode} {self.error[:200]}")


def federation_path(version: str, *segments: str) -> str:
    """`/_matrix/federation/<version>/...` with each segment escaped as one."""
    return "/".join(["/_matrix/federation", version, *(quote(segment, safe="") for segment in segments)])


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after: str | None
    body: bytes


class FederationClient:
    """Asks other homeservers, for this server. All clients of a process share their connections."""

    def request(
        self,
        method: str,
        destination: str,
        path: str,
        query: Mapping[str, QueryValue] | None = None,
        content: Any = None,
        *,
        timeout_s: float = TIMEOUT_S,
        max_bytes: int = MOST_BYTES,
        signed: bool = True,
    ) -> tuple[int, Any]:
        """One request; the status (2xx) and the JSON of the answer.

        `path` is escaped already (`federation_path`); `content` becomes the body, in canonical JSON; `signed` False is
        for what needs no authentication. The whole takes at most `timeout_s` seconds (resolving addresses aside).

        Raises Refused, Unreachable (TimedOut, BadAnswer), HttpError; ValueError for a path that is not escaped;
        NotCanonical for a content that is no JSON.
        """
        uri = path + (f"?{_encoded(query)}" if query else "")
        if not uri.startswith("/") or not is_clean(uri) or "#" in uri:
            raise ValueError(f"{uri!r} cannot stand in a request line")
        own = settings().server_name
        if not settings().federation or not own:
            raise Refused(destination, "this server does not take part in federation")
        if destination == own:
            raise Refused(destination, "this is this server itself")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        body = None
        if content is not None:
            body = encode_lenient(content)
            headers["Content-Type"] = "application/json"
        if signed:
            key = signing_key()
            headers["Authorization"] = sign_request(
                method, uri, origin=own, destination=destination, key=key, content=content
            )
        answer = _Request(destination, method, uri, headers, body, time.monotonic() + timeout_s, max_bytes).sent()
        return answer.status, _understood(destination, answer)


def _encoded(query: Mapping[str, QueryValue]) -> str:
    values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
    return urlencode(values, doseq=True, quote_via=quote, safe="")


def _understood(destination: str, answer: _Answer) -> Any:
    try:
        parsed = parse_json(answer.body)
    except NotJson:
        if 200 <= answer.status < 300:
            raise BadAnswer(destination, "the answer is not JSON") from None
        parsed = None
    if not 200 <= answer.status < 300:
        error = parsed if isinstance(parsed, dict) else {}
        raise HttpError(destination, answer.status, error, _retry_after_ms(error, answer.retry_after))
    return parsed


def _retry_after_ms(error: Mapping[str, Any], header: str | None) -> int | None:
    asked = error.get("retry_after_ms")
    if isinstance(asked, int) and not isinstance(asked, bool) and asked >= 0:
        return asked
    return int(header[:9]) * 1000 if header and header.isascii() and header.isdecimal() else None


@dataclass(frozen=True, slots=True)
class _Request:
    """One request on its way, until `end` (monotonic seconds)."""

    destination: str
    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes | None
    end: float
    max_bytes: int

    def sent(self) -> _Answer:
        """The answer of the first place of this server that can be connected to."""
        try:
            tls = federation_tls()
            targets = find_server(self.destination, seconds=self._left())
        except RequestRefused as error:
            raise Refused(self.destination, str(error)) from error
        if not targets:
            raise Unreachable(self.destination, "its DNS says that it has no such service")
        refused, failed = 0, ""
        for target in targets:
            if (answer := self._on_idle_connection(target)) is not None:
                return answer
            try:
                addresses = resolved(target.host, target.port)
            except RequestRefused as error:
                refused, failed = refused + 1, str(error)
                continue
            except RequestFailed as error:
                failed = str(error)
                continue
            connection = GuardedConnection(target.host, target.port, addresses, tls=tls, tls_name=target.tls_name)
            try:
                with connection.within(self._left()):
                    connection.connect()
            except OSError as error:
                connection.close()
                failed = str(error)
                continue
            return self._answered(connection, target)
        if refused == len(targets):
            raise Refused(self.destination, failed)
        kind = TimedOut if time.monotonic() >= self.end else Unreachable
        raise kind(self.destination, f"cannot be connected to: {failed}")

    def _on_idle_connection(self, target: ConnectTarget) -> _Answer | None:
        """The answer on a connection that is still there; None to try a new one."""
        # The other side may have closed it just now: only what may come twice is sent on it.
        connection = _idle.taken(target) if self.method != "POST" else None
        if connection is None:
            return None
        try:
            return self._answered(connection, target)
        except (TimedOut, BadAnswer):
            raise
        except Unreachable:
            return None

    def _answered(self, connection: GuardedConnection, target: ConnectTarget) -> _Answer:
        try:
            with connection.within(self._left()):
                connection.request(self.method, self.uri, self.body, {**self.headers, "Host": target.host_header})
                response = connection.getresponse()
                body = self._read(response)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if connection.is_late or isinstance(error, TimeoutError):
                raise TimedOut(self.destination, "no answer in time") from error
            raise Unreachable(self.destination, f"broke off: {error}") from error
        except BaseException:
            connection.close()
            raise
        if response.will_close or connection.is_late:
            connection.close()
        else:
            _idle.put(target, connection)
        return _Answer(response.status, response.getheader("retry-after"), body)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := response.read(_CHUNK):
            size += len(part)
            if size > self.max_bytes:
                raise BadAnswer(self.destination, f"the answer has more than {self.max_bytes} bytes")
            parts.append(part)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    def _left(self) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimedOut(self.destination, "no answer in time")
        return left


class _IdleConnections:
    """Connections that nobody uses right now, by where they lead; the one that was used last is used next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[tuple[float, str, ConnectTarget, GuardedConnection]] = []

    def taken(self, target: ConnectTarget) -> GuardedConnection | None:
        """A connection to this place, or None."""
        with self._lock:
            now = time.monotonic()
            late = [kept[3] for kept in self._kept if now - kept[0] > _IDLE_S]
            self._kept = [kept for kept in self._kept if now - kept[0] <= _IDLE_S]
            found = next((kept for kept in reversed(self._kept) if kept[1:3] == (_verify(), target)), None)
            if found is not None:
                self._kept.remove(found)
        for connection in late:
            connection.close()
        return found[3] if found is not None else None

    def put(self, target: ConnectTarget, connection: GuardedConnection) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            self._kept.append((time.monotonic(), _verify(), target, connection))
            oldest = self._kept.pop(0)[3] if len(self._kept) > _MOST_IDLE else None
        if oldest is not None:
            oldest.close()

    def clear(self) -> None:
        """Close all."""
        with self._lock:
            kept, self._kept = self._kept, []
        for *_, connection in kept:
            connection.close()


def _verify() -> str:
    return settings().federation_verify


def close_connections() -> None:
    """Close all connections that are kept for later."""
    _idle.clear()


_idle = _IdleConnections()
