"""DynamoDB and Lambda over `http.client`: the AWS client of the waiting loop, which has no room for botocore.

`dynamodb` and `invoke` speak DynamoDB's JSON protocol and Lambda's Invoke with connections that are kept, signed with
Signature Version 4. A request may be sent twice (a lost answer is asked for again), so callers send only what may be
repeated. Calls and units go to the cost meter; read units are computed from what was read.

Source: AWS General Reference, "Signature Version 4 signing process"; DynamoDB Developer Guide, "Low-level API" and
"Read and write capacity units"; Lambda API reference, "Invoke".
"""

import hmac
import http.client
import json
import os
import random
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlsplit

from homeserver.observability import count_call, current_meter, one_round
from homeserver.request_units import read_units, write_units

# (service, target, body) -> (HTTP status, body). `target` is DynamoDB's operation or Lambda's function name. Set, it
# takes the place of the network: the local run and the tests. For a function that fails it raises FunctionFailed.
Transport = Callable[[str, str, bytes], tuple[int, bytes]]
transport: Transport | None = None

_TRIES = 4
_PAUSE = 0.05  # seconds; the bound of the first pause, doubled from try to try
_CONNECT_SECONDS = 1.0
_STORE_SECONDS = 2.0
_DYNAMODB_TARGET = "DynamoDB_20120810."
_WRITES = {"PutItem", "UpdateItem", "DeleteItem"}
_THROTTLED = {
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "TooManyRequestsException",
}


class AwsError(Exception):
    """A request that AWS refused, or did not answer within the tries it had. `code` is AWS's name for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class FunctionFailed(Exception):
    """An invoked function raised, or ran out of its time."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What requests are signed with, as Lambda puts it into the environment."""

    access_key: str
    secret_key: str
    session_token: str = ""


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int | None
    tls: bool
    header: str  # value of the Host header


def region() -> str:
    """The region of this process."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def dynamodb(operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """One call of DynamoDB's low-level API: the request and the answer are its JSON, binaries as `bytes` or base64.

    Raises AwsError: for what DynamoDB refuses at once, for throttling and failures after a few tries.
    """
    metering = current_meter() is not None
    if metering and operation in _WRITES:
        request = {**request, "ReturnConsumedCapacity": "TOTAL"}
    answer: dict[str, Any] = json.loads(_call("dynamodb", operation, _encode(request), _STORE_SECONDS))
    if metering:
        count_call(rru=read_units(operation, request, answer), wru=write_units(operation, answer))
    return answer


def invoke(function: str, payload: Mapping[str, Any], *, seconds: float) -> Any:
    """What a Lambda function returns for this payload, asked for at most so many seconds.

    Raises FunctionFailed when the function failed, TimeoutError when it did not answer in time, and AwsError.
    """
    return json.loads(_call("lambda", function, _encode(payload), seconds) or b"null")


def in_parallel(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that do not depend on each other, made at the same time: one sequential round.

    Raises what the first of them that fails raised.
    """
    with one_round():
        if len(calls) <= 1 or transport is not None:
            return [call() for call in calls]
        others = [_Started(call) for call in calls[1:]]
        return [calls[0](), *(other.result() for other in others)]


class _Started:
    """A call in a thread of its own: a pool would import more than it saves for two calls a request."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error  # raised again where the result is asked for

    def result(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value


# ── Tries ────────────────────────────────────────────────────────────────────────────────────────────────


def _call(service: str, target: str, body: bytes, seconds: float) -> bytes:
    send = transport or (lambda *request: _send(*request, seconds=seconds))
    for attempt in range(1, _TRIES + 1):
        try:
            status, answer = send(service, target, body)
        except (OSError, http.client.HTTPException) as error:
            if service == "lambda" and isinstance(error, TimeoutError):
                raise  # the function may still be at work: do not start it twice
            if attempt == _TRIES:
                raise AwsError("ConnectionLost", f"{service} {target}: {error!r}") from error
        else:
            if 200 <= status < 300:
                return answer
            code, message = _refusal(answer)
            if attempt == _TRIES or (status < 500 and status != 429 and code not in _THROTTLED):
                raise AwsError(code or f"Http{status}", f"{service} {target}: {message}")
        time.sleep(random.uniform(0, _PAUSE * 2 ** (attempt - 1)))  # noqa: S311 - jitter, not a secret
    raise AssertionError  # the last try returns or raises


def _refusal(answer: bytes) -> tuple[str, str]:
    """Code and message of an error answer of either service."""
    try:
        error = json.loads(answer)
        code = str(error.get("__type") or error.get("Code") or error.get("Type") or "").rpartition("#")[2]
        return code, str(error.get("message") or error.get("Message") or "")
    except (ValueError, AttributeError):
        return "", answer[:200].decode(errors="replace")


# ── The network ──────────────────────────────────────────────────────────────────────────────────────────

# Connections that wait for their next request, and since when (monotonic seconds). Old ones are not trusted: while
# Lambda had frozen the process, the other side may have gone without a word, and only a timeout would tell.
_idle: dict[_Address, list[tuple[http.client.HTTPConnection, float]]] = {}
_LONGEST_IDLE = 15.0


def _send(service: str, target: str, body: bytes, *, seconds: float) -> tuple[int, bytes]:
    """One signed request. Raises OSError, HTTPException, TimeoutError, FunctionFailed."""
    address = _address(service)
    if service == "dynamodb":
        path = "/"
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": _DYNAMODB_TARGET + target}
    else:
        path = f"/2015-03-31/functions/{quote(target, safe='')}/invocations"
        headers = {"Content-Type": "application/json", "X-Amz-Invocation-Type": "RequestResponse"}
    headers["Host"] = address.header
    headers |= signature(
        service, path, headers, body, credentials=_credentials(), at=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    )
    while True:
        connection = _take_idle(address)
        reused = connection is not None
        connection = connection or _connect(address)
        try:
            connection.sock.settimeout(seconds)
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (ConnectionError, http.client.BadStatusLine):
            connection.close()
            if reused:  # the other side had given it up while it was idle: that is no failed try
                continue
            raise
        except BaseException:
            connection.close()
            raise
        break
    if response.will_close:
        connection.close()
    else:
        _idle.setdefault(address, []).append((connection, time.monotonic()))
    if response.getheader("X-Amz-Function-Error"):
        raise FunctionFailed(answer[:2000].decode(errors="replace"))
    return response.status, answer


def _take_idle(address: _Address) -> http.client.HTTPConnection | None:
    """A kept connection, the youngest first. list.append and list.pop are atomic: threads need no lock here."""
    idle = _idle.get(address, [])
    while idle:
        try:
            connection, since = idle.pop()
        except IndexError:  # another thread was quicker
            return None
        if time.monotonic() - since < _LONGEST_IDLE and connection.sock is not None:
            return connection
        connection.close()
    return None


def _connect(address: _Address) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if address.tls else http.client.HTTPConnection
    options: dict[str, Any] = {"context": tls_context()} if address.tls else {}
    connection = kind(address.host, address.port, timeout=_CONNECT_SECONDS, **options)
    connection.connect()
    return connection


@cache
def tls_context() -> ssl.SSLContext:
    """The process's TLS settings. Reading the root certificates costs milliseconds: best done at start."""
    return ssl.create_default_context()


@cache
def _address(service: str) -> _Address:
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        parts = urlsplit(endpoint)
        return _Address(parts.hostname or "localhost", parts.port, parts.scheme == "https", parts.netloc)
    suffix = "amazonaws.com.cn" if region().startswith("cn-") else "amazonaws.com"
    host = f"{service}.{region()}.{suffix}"
    return _Address(host, None, tls=True, header=host)


@cache
def _credentials() -> Credentials:
    env = os.environ
    return Credentials(
        env.get("AWS_ACCESS_KEY_ID", ""), env.get("AWS_SECRET_ACCESS_KEY", ""), env.get("AWS_SESSION_TOKEN", "")
    )


# ── Signature Version 4 ──────────────────────────────────────────────────────────────────────────────────


def signature(
    service: str, path: str, headers: Mapping[str, str], body: bytes, *, credentials: Credentials, at: str
) -> dict[str, str]:
    """The headers that sign a POST: `X-Amz-Date`, `X-Amz-Security-Token` where there is one, `Authorization`.

    `path` is the percent-encoded path, `headers` are the others that are sent and all signed, Host among them; `at`
    is the time as `YYYYMMDDTHHMMSSZ`.
    """
    added = {"X-Amz-Date": at}
    if credentials.session_token:
        added["X-Amz-Security-Token"] = credentials.session_token
    signed = sorted((name.lower(), " ".join(value.split())) for name, value in {**headers, **added}.items())
    names = ";".join(name for name, _ in signed)
    canonical = "\n".join(
        [
            "POST",
            quote(path, safe="/~"),  # encoded a second time, as every service but S3 wants it
            "",
            *(f"{name}:{value}" for name, value in signed),
            "",
            names,
            sha256(body).hexdigest(),
        ]
    )
    scope = f"{at[:8]}/{region()}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    key = _signing_key(credentials.secret_key, at[:8], region(), service)
    proof = hmac.new(key, text.encode(), sha256).hexdigest()
    added["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={proof}"
    )
    return added


_signing_keys: dict[tuple[str, str, str, str], bytes] = {}


def _signing_key(secret: str, day: str, region_name: str, service: str) -> bytes:
    wanted = (secret, day, region_name, service)
    key = _signing_keys.get(wanted)
    if key is None:
        key = b"AWS4" + secret.encode()
        for part in (day, region_name, service, "aws4_request"):
            key = hmac.new(key, part.encode(), sha256).digest()
        if len(_signing_keys) >= 8:  # a new day makes new ones
            _signing_keys.clear()
        _signing_keys[wanted] = key
    return key


# ── JSON ───────────────────────────────────────────────────────────────────────────────────────


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, default=_binary, separators=(",", ":")).encode()


def _binary(value: object) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no JSON")
