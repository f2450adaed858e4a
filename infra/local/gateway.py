"""An HTTP API of API Gateway, as far as functions can see it: payload format 2.0, limits, CORS, time-outs.

What AWS loses is lost here too: the path reaches the function percent-decoded and cut at a decoded `?`.
"""

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson

from local.invoke import PAYLOAD_LIMIT, Functions
from local.resources import Cors
from local.routes import Match, Router
from local.template import ACCOUNT

log = logging.getLogger("local")
HEADER_LIMIT = 10 * 1024  # request line and headers
BODY_LIMIT = 10 * 1024 * 1024  # API Gateway's own, above Lambda's
TIMEOUT = 30.0  # seconds
_THREADS = 4096
_TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")
_JSON = [(b"content-type", b"application/json")]
_SINGLE = {"host", "content-length", "user-agent"}

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Answer = tuple[int, bytes, Headers]
# Pages of the local run itself, which AWS does not have: path, address of the client, headers -> an answer.
Pages = Callable[[str, str, Mapping[str, str]], Answer | None]


class Gateway:
    """The ASGI application: each request becomes an event, each event is handled in a thread."""

    def __init__(
        self,
        router: Router,
        functions: Functions,
        cors: Cors | None,
        *,
        timeout: float = TIMEOUT,
        pages: Pages | None = None,
    ) -> None:
        self._router = router
        self._pages = pages
        self._functions = functions
        self._cors = cors
        self._timeout = timeout
        # A waiting /sync occupies a thread; idle ones are used again before new ones are made.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="request", initializer=self._give_event_loop)
        self._loops: list[asyncio.AbstractEventLoop] = []

    def stop(self) -> None:
        """Take no more requests; the running ones may end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for loop in self._loops:
            if not loop.is_running():
                loop.close()

    def _give_event_loop(self) -> None:
        """Lambda runs handlers in the main thread, where asyncio has a loop: Mangum counts on one."""
        loop = asyncio.new_event_loop()
        self._loops.append(loop)
        asyncio.set_event_loop(loop)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return
        headers = merged_headers(scope["headers"])
        origin = headers.get("origin")
        refusal = _too_long(scope)
        if refusal:
            await _send(send, refusal, _message("Request Header Or URI Too Large"), _JSON)
            return
        if scope["method"] == "OPTIONS" and self._cors is not None:
            await _send(send, 204, b"", self._preflight(origin))
            return
        if self._pages is not None and scope["method"] in {"GET", "HEAD"}:
            page = self._pages(decoded_path(scope["raw_path"]), (scope.get("client") or ("",))[0], headers)
            if page is not None:
                await _send(send, *page, head=scope["method"] == "HEAD")
                return
        body = await _body(receive, headers)
        if body is None:
            await _send(send, 413, _message("Request Entity Too Large"), _JSON + self._allowed(origin))
            return
        path = decoded_path(scope["raw_path"])
        match = self._router.match(scope["method"], path)
        if match is None:
            await _send(send, 404, _message("Not Found"), _JSON + self._allowed(origin))
            return
        event = event_of(scope, headers, path, match, body)
        status, answer, answer_headers = await self._handle(match.route.function, event)
        if self._cors is not None:
            # API Gateway answers CORS itself and drops what the function says about it.
            answer_headers = [pair for pair in answer_headers if not pair[0].startswith(b"access-control-")]
            answer_headers += self._allowed(origin)
        await _send(send, status, answer, answer_headers, head=scope["method"] == "HEAD")

    async def _handle(self, function: str, event: dict[str, Any]) -> Answer:
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()

        def deliver(result: Any) -> None:
            if not outcome.done():
                outcome.set_result(result)

        def work() -> None:
            try:
                result = answered(self._functions.call(function, event, event["requestContext"]["requestId"]))
            except Exception:  # whatever a handler raises is a 500 to the client and a traceback for the operator
                log.exception("%s failed on %s", function, event["routeKey"])
                result = (500, _message("Internal Server Error"), list(_JSON))
            loop.call_soon_threadsafe(deliver, result)

        timer = loop.call_later(self._timeout, deliver, (503, _message("Service Unavailable"), list(_JSON)))
        self._threads.submit(work)
        try:
            handled: Answer = await outcome
        except asyncio.CancelledError:
            # The server stops and waits no longer: the client shall hear so in JSON, and come again.
            return 503, _message("Service Unavailable"), list(_JSON)
        finally:
            timer.cancel()
        return handled

    # ── CORS ───────────────────────────────────────────────────────────────────────────────────────

    def _allowed(self, origin: str | None) -> Headers:
        """The headers that let this origin read an answer."""
        cors = self._cors
        if cors is None or origin is None:
            return []
        if "*" in cors.origins:
            allowed = "*"
        elif origin in cors.origins:
            allowed = origin
        else:
            return []
        headers = [(b"access-control-allow-origin", allowed.encode("latin-1", "replace"))]
        if cors.credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        if cors.expose:
            headers.append((b"access-control-expose-headers", ",".join(cors.expose).encode()))
        return headers

    def _preflight(self, origin: str | None) -> Headers:
        headers = [pair for pair in self._allowed(origin) if pair[0] != b"access-control-expose-headers"]
        if headers and self._cors is not None:
            if self._cors.methods:
                headers.append((b"access-control-allow-methods", ",".join(self._cors.methods).encode()))
            if self._cors.headers:
                headers.append((b"access-control-allow-headers", ",".join(self._cors.headers).lower().encode()))
            if self._cors.max_age is not None:
                headers.append((b"access-control-max-age", str(self._cors.max_age).encode()))
        return headers


def merged_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name; repeated ones are joined with commas (cookies with semicolons)."""
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in raw:
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        if name in headers:
            headers[name] += ("; " if name == "cookie" else ",") + value
        else:
            headers[name] = value
    return headers


def decoded_path(raw: bytes) -> str:
    """The path as HTTP API hands it on: percent-decoded, and cut at a decoded `?`."""
    path = raw.decode("latin-1").partition("?")[0]
    if "%" in path:
        path = unquote(path, errors="replace").partition("?")[0]
    return path or "/"


def event_of(scope: Scope, headers: dict[str, str], path: str, match: Match, body: bytes) -> dict[str, Any]:
    """The event of payload format 2.0 for this request."""
    cookies = headers.pop("cookie", None)
    query = scope["query_string"].decode("latin-1")
    now = time.time()
    client = scope.get("client") or ("127.0.0.1", 0)
    host = headers.get("host", "localhost")
    domain = host.partition(":")[0]
    headers["x-forwarded-for"] = (
        f"{headers['x-forwarded-for']}, {client[0]}" if "x-forwarded-for" in headers else client[0]
    )
    scheme = scope.get("scheme", "http")
    headers["x-forwarded-port"] = host.rpartition(":")[2] if ":" in host else {"https": "443"}.get(scheme, "80")
    headers["x-forwarded-proto"] = scheme
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": match.key,
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "local",
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": scope["method"],
                "path": path,
                "protocol": f"HTTP/{scope['http_version']}",
                "sourceIp": client[0],
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": match.key,
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies is not None:
        event["cookies"] = cookies.split("; ")
    if query:
        repeated: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=None):
            repeated[name] = f"{repeated[name]},{value}" if name in repeated else value
        event["queryStringParameters"] = repeated
    if match.parameters:
        event["pathParameters"] = match.parameters
    if body:
        if headers.get("content-type", "").lower().startswith(_TEXT_TYPES):
            event["body"] = body.decode("utf-8", "replace")
        else:
            event["body"] = base64.b64encode(body).decode()
            event["isBase64Encoded"] = True
    return event


def answered(result: Any) -> Answer:
    """Status, body and headers of a handler's result in format 2.0. Raises TypeError or ValueError for a bad one."""
    if not isinstance(result, dict) or "statusCode" not in result:
        # Format 2.0 infers an answer from anything else that a function returns.
        return 200, result.encode() if isinstance(result, str) else orjson.dumps(result), list(_JSON)
    body = result.get("body") or ""
    content = base64.b64decode(body) if result.get("isBase64Encoded") else str(body).encode()
    if len(content) > PAYLOAD_LIMIT:
        raise ValueError("the answer is larger than a function's 6 MB")
    headers = [
        (name.lower().encode("latin-1"), str(value).encode("latin-1", "replace"))
        for name, value in (result.get("headers") or {}).items()
        if name.lower() != "content-length"
    ]
    headers += [(b"set-cookie", str(cookie).encode("latin-1", "replace")) for cookie in result.get("cookies") or ()]
    if content and not any(name == b"content-type" for name, _ in headers):
        headers += _JSON
    return int(result["statusCode"]), content, headers


def _too_long(scope: Scope) -> int | None:
    """431 or 414 when the request line and the headers pass API Gateway's 10 KB."""
    line = len(scope["raw_path"]) + len(scope["query_string"]) + len(scope["method"]) + 11
    if line > HEADER_LIMIT:
        return 414
    total = line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return 431 if total > HEADER_LIMIT else None


async def _body(receive: Receive, headers: Mapping[str, str]) -> bytes | None:
    """The whole body, or None when it is larger than a function may get."""
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > BODY_LIMIT:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_LIMIT:
            return None
        parts.append(part)
        if not message.get("more_body"):
            break
    binary = not headers.get("content-type", "").lower().startswith(_TEXT_TYPES)
    if (size * 4 // 3 if binary else size) > PAYLOAD_LIMIT:
        return None
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _send(send: Send, status: int, body: bytes, headers: Headers, *, head: bool = False) -> None:
    if status not in {204, 304}:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head or status in {204, 304} else body})


def _message(text: str) -> bytes:
    return orjson.dumps({"message": text})
