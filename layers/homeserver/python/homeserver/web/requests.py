"""What an endpoint reads from a request and how it answers."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.canonical_json import parse_json
from homeserver.matrix.errors import BadJson, InvalidParam, MissingParam
from homeserver.services.login_stages.stage import Origin

_JSON = "application/json"


def raw_body(request: Request) -> bytes:
    """The body as it came, from the API Gateway event: endpoints need not be coroutines to read it."""
    event = request.scope["aws.event"]
    body: str = event.get("body") or ""
    return base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()


def json_body(request: Request) -> Any:
    """The body parsed as JSON, with every number as it was written. Raises NotJson.

    An empty body is `{}`, as many clients send none.
    """
    data = raw_body(request)
    return parse_json(data) if data.strip() else {}


def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises NotJson or BadJson."""
    value = json_body(request)
    if not isinstance(value, dict):
        raise BadJson("The body must be a JSON object.")
    return value


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    try:
        body = orjson.dumps(value)
    except orjson.JSONEncodeError:
        # What room versions 1 to 5 and account data may hold: integers beyond 64 bits.
        body = json.dumps(value, separators=(",", ":")).encode()
    return Response(body, status_code=status, headers=headers, media_type=_JSON)


def field(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], *, required: bool = False) -> Any:
    """`body[name]` of the given JSON type, or None if it is absent.

    Raises MissingParam if a required key is absent, BadJson if the value has another type. `null` counts as absent.
    """
    value = body.get(name)
    if value is None:
        if required:
            raise MissingParam(f"{name} is required.")
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise BadJson(f"{name} has the wrong type: it must be {_type_name(kind)}.")
    return value


_TYPE_NAMES = {str: "a string", int: "an integer", bool: "a boolean", dict: "an object", list: "an array"}


def _type_name(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(_TYPE_NAMES.get(k, k.__name__) for k in kinds)


def string_list(body: Mapping[str, Any], name: str) -> list[str]:
    """`body[name]` as a list of strings; empty if absent. Raises BadJson."""
    value = field(body, name, list) or []
    if not all(isinstance(entry, str) for entry in value):
        raise BadJson(f"{name} must be an array of strings.")
    return list(value)


_INTEGER = re.compile(r"-?[0-9]{1,18}\Z")


def query(request: Request, name: str) -> str | None:
    """The first value of a query parameter."""
    return request.query_params.get(name)


def query_integer(request: Request, name: str, default: int, *, minimum: int = 0, maximum: int) -> int:
    """An integer parameter, cut to the maximum. Raises InvalidParam if it is no integer or below the minimum."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _INTEGER.match(text) or int(text) < minimum:
        raise InvalidParam(f"{name} must be an integer of at least {minimum}.")
    return min(int(text), maximum)


def query_boolean(request: Request, name: str, *, default: bool = False) -> bool:
    """A `true` or `false` parameter. Raises InvalidParam for anything else."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if text not in {"true", "false"}:
        raise InvalidParam(f"{name} must be true or false.")
    return text == "true"


def query_choice(request: Request, name: str, choices: tuple[str, ...]) -> str | None:
    """A parameter that takes one of a few words. Raises InvalidParam for another."""
    text = request.query_params.get(name)
    if text is not None and text not in choices:
        raise InvalidParam(f"{name} must be one of {', '.join(choices)}.")
    return text


def source_address(request: Request) -> str:
    """The address the request came from, as API Gateway saw it."""
    return str(request.scope["aws.event"]["requestContext"]["http"]["sourceIp"])


def origin_of(request: Request) -> Origin:
    """Where the request came from, and the address under which it reached us."""
    host = request.headers.get("host", "")
    base_url = f"{request.scope['scheme']}://{host}" if host else ""
    return Origin(source_address(request), request.headers.get("user-agent", ""), base_url)
