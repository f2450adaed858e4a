"""Lambda handlers called as API Gateway calls them, on moto's DynamoDB with the tables of `infra/data.yaml`.

    def test_a_room_can_be_made(call, alice):
        answer = call("client_rooms", "POST", "/_matrix/client/v3/createRoom", {}, token=alice.token)
        assert answer.status == 200

`call` is a fixture of conftest.py. A path is written as a client writes it, percent-encoded; the event that the
handler gets has it decoded, and cut at a decoded question mark, as API Gateway hands it over.
"""

import base64
import copy
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode

import orjson

from homeserver.adapters import aws
from homeserver.settings import table_name
from local import template

ROOT = Path(__file__).resolve().parents[2]
SERVER_NAME = "example.org"
PASSWORD = "correct horse battery staple"


class Answer(NamedTuple):
    """What a handler answered: status, parsed JSON (or the text, where it is none), headers in lower case."""

    status: int
    json: Any
    headers: dict[str, str]

    @property
    def errcode(self) -> str | None:
        return self.json.get("errcode") if isinstance(self.json, dict) else None


@dataclass(frozen=True, slots=True)
class User:
    """A registered user with one logged-in device."""

    user_id: str
    device_id: str
    token: str
    password: str = PASSWORD


class LambdaContext:
    """The part of the context object that handlers may look at."""

    function_name = "test"
    aws_request_id = "6bc28136-xmpl-4365-b021-0ce6b2e64ab0"
    memory_limit_in_mb = 512

    def get_remaining_time_in_millis(self) -> int:
        return 29_000


@cache
def payload(name: str) -> dict[str, Any]:
    """The event in `events/<name>.json`: HTTP API, payload format 2.0. Not to be changed: copy it."""
    event: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text(encoding="utf-8"))
    return event


def http_event(
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    address: str = "192.0.2.1",
) -> dict[str, Any]:
    """The API Gateway event of a request. `body`: bytes and strings go as they are, anything else as JSON."""
    event = copy.deepcopy(payload("client_login_flows"))
    encoded, _, raw_query = path.partition("?")
    raw_query = "&".join(filter(None, [raw_query, urlencode(query or {}, doseq=True)]))
    decoded = unquote(encoded).partition("?")[0]
    event["headers"] = {"host": event["headers"]["host"], "x-forwarded-proto": "https"}
    event["headers"].update({name.lower(): value for name, value in (headers or {}).items()})
    if token is not None:
        event["headers"]["authorization"] = f"Bearer {token}"
    event["rawPath"] = event["requestContext"]["http"]["path"] = decoded
    event["rawQueryString"] = raw_query
    event["requestContext"]["http"] |= {"method": method, "sourceIp": address}
    event["routeKey"] = event["requestContext"]["routeKey"] = f"{method} {decoded}"
    event.pop("body", None)
    if body is not None:
        data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else orjson.dumps(body)
        event["headers"] |= {"content-type": "application/json", "content-length": str(len(data))}
        try:
            event["body"], event["isBase64Encoded"] = data.decode(), False
        except UnicodeDecodeError:
            event["body"], event["isBase64Encoded"] = base64.b64encode(data).decode(), True
    return event


def invoke(function: str, event: dict[str, Any]) -> Answer:
    """Run the handler of `functions/<function>/app.py` on an event."""
    answer = import_module(f"{function}.app").lambda_handler(event, LambdaContext())
    text = answer.get("body") or ""
    data = base64.b64decode(text) if answer.get("isBase64Encoded") else text.encode()
    try:
        parsed = orjson.loads(data) if data else None
    except orjson.JSONDecodeError:
        parsed = data.decode()
    return Answer(answer["statusCode"], parsed, {k.lower(): v for k, v in (answer.get("headers") or {}).items()})


def call(
    function: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    address: str = "192.0.2.1",
) -> Answer:
    """One request through the handler of a function."""
    return invoke(function, http_event(method, path, body, token=token, query=query, headers=headers, address=address))


_numbers = itertools.count(1)


def register(localpart: str | None = None, **extra: Any) -> User:
    """A new user, registered over HTTP in one request; under a name of its own where none is given."""
    name = localpart or f"user{next(_numbers)}"
    body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}, **extra}
    answer = call("client_login", "POST", "/_matrix/client/v3/register", body)
    assert answer.status == 200, answer.json
    return User(answer.json["user_id"], answer.json["device_id"], answer.json["access_token"])


@cache
def table_definitions() -> list[dict[str, Any]]:
    """What `CreateTable` takes, of each table in `infra/data.yaml`, under the name that the layer looks for."""
    definitions = []
    for name, resource in template.load(ROOT / "infra" / "data.yaml")["Resources"].items():
        if resource["Type"] != "AWS::DynamoDB::Table":
            continue
        properties = resource["Properties"]
        definition = {key: properties[key] for key in ("AttributeDefinitions", "KeySchema")}
        for kind in ("GlobalSecondaryIndexes", "LocalSecondaryIndexes"):
            if kind in properties:
                wanted = ("IndexName", "KeySchema", "Projection")
                definition[kind] = [{key: index[key] for key in wanted} for index in properties[kind]]
        noun = template.snake(name.removesuffix("Table"))
        definitions.append({"TableName": table_name(noun), "BillingMode": "PAY_PER_REQUEST", **definition})
    return definitions


def create_tables() -> None:
    """Make all tables, empty."""
    client = aws.client("dynamodb")
    for definition in table_definitions():
        client.create_table(**definition)
