"""Addresses: unknown ones, wrong methods, odd characters, what API Gateway cuts or limits, and other origins."""

import itertools
import json

import pytest

from e2e.client import V3, segments
from e2e.local_run import SERVER_NAME, Server
from e2e.place import UNKNOWN_HASH_ROOM, Place, refused

_numbers = itertools.count(1)


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/_matrix",
        "/_matrix/client/v3/nowhere",
        "/_matrix/client/v3/sync/",
        "/_matrix/client/v2/sync",
        "/_matrix/client/v1/sync",
        "/_matrix/client/v3/rooms",
        "/_matrix/federation/v2/version",
        "/_matrix/client/../client/versions",
        "/%00",
        "/_matrix/client/v3/%E2%82%AC",
        "//_matrix/client/versions",
    ],
)
def test_an_unknown_endpoint_is_not_recognised(place: Place, path: str) -> None:
    status, headers, body = place.server.ask("GET", path, headers={"Authorization": f"Bearer {place.alice.token}"})
    answer = json.loads(body)
    assert (status, answer["errcode"]) == (404, "M_UNRECOGNIZED")
    assert headers["content-type"] == "application/json"
    assert path.lower() not in body.decode().lower()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"{V3}/sync"),
        ("POST", "/_matrix/client/versions"),
        ("PATCH", f"{V3}/rooms/{UNKNOWN_HASH_ROOM}/state"),
        ("GET", f"{V3}/createRoom"),
        ("DELETE", f"{V3}/rooms/{UNKNOWN_HASH_ROOM}/send/m.x/1"),
        ("PUT", f"{V3}/login"),
        ("POST", f"{V3}/profile/@a:{SERVER_NAME}/displayname"),
        ("PUT", "/"),
    ],
)
def test_a_wrong_method_is_refused(place: Place, method: str, path: str) -> None:
    before = place.picture()
    answer = place.alice.ask_anything(method, path, {} if method in {"POST", "PUT"} else None)
    refused(place, answer, 405, "M_UNRECOGNIZED", before)


ODD = ["a/b", "100%", "%2F", "#hash", "two words", "grüße 😀", "a+b&c=d", "ends with /"]


@pytest.mark.parametrize("odd", ODD)
def test_odd_ids_in_a_path_are_taken_as_they_are(server: Server, odd: str) -> None:
    alice = server.register(f"odd{next(_numbers)}")
    room_id = alice.create_room(preset="public_chat")
    alice.set_state(room_id, "org.example.odd", {"is": odd}, odd)
    assert alice.state(room_id)["org.example.odd", odd]["content"] == {"is": odd}
    # The checker takes the content of a state event for an answer with keys of its own.
    found = alice.ask_anything("GET", segments("rooms", room_id, "state", "org.example.odd", odd))
    assert (found.status, found.json) == (200, {"is": odd})
    event_id = alice.send(room_id, odd, odd)
    assert alice.send(room_id, "the same transaction", odd) == event_id
    assert alice.ok("GET", segments("rooms", room_id, "event", event_id))["content"]["body"] == odd
    alias = f"#{odd}:{SERVER_NAME}"
    assert alice.ok("PUT", segments("directory", "room", alias), {"room_id": room_id}) == {}
    assert alice.ok("POST", segments("join", alias), {}) == {"room_id": room_id}
    data = segments("user", alice.user_id, "account_data", f"org.example.{odd}")
    assert alice.ok("PUT", data, {"is": odd}) == {}
    assert alice.ok("GET", data) == {"is": odd}


@pytest.mark.parametrize("odd", [odd for odd in ODD if "/" not in odd])
def test_odd_event_types_are_taken_as_they_are(server: Server, odd: str) -> None:
    alice = server.register(f"odd{next(_numbers)}")
    room_id = alice.create_room()
    event_id = alice.ok("PUT", segments("rooms", room_id, "send", odd, "1"), {"is": odd})["event_id"]
    assert alice.ok("GET", segments("rooms", room_id, "event", event_id))["type"] == odd


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("PUT", ["rooms", f"!a?b:{SERVER_NAME}", "send", "m.x", "1"]),
        ("PUT", ["rooms", f"!a/b:{SERVER_NAME}", "send", "m.x", "1"]),
        ("GET", ["rooms", f"!a?b:{SERVER_NAME}", "state"]),
        ("POST", ["rooms", f"!a?b:{SERVER_NAME}", "join"]),
        ("GET", ["profile", f"@a?b:{SERVER_NAME}"]),
        ("PUT", ["user", f"@a/b:{SERVER_NAME}", "account_data", "m.x"]),
        ("GET", ["directory", "room", f"#a?b:{SERVER_NAME}"]),
        ("POST", ["join", f"#a?b:{SERVER_NAME}"]),
        ("POST", ["join", f"!a?b:{SERVER_NAME}"]),
    ],
)
def test_ids_that_api_gateway_cuts_are_refused(place: Place, method: str, parts: list[str]) -> None:
    before = place.picture()
    answer = place.alice.ask(method, segments(*parts), None if method == "GET" else {})
    refused(place, answer, 400, "M_INVALID_PARAM", before)


def test_the_limits_of_api_gateway_hold(place: Place) -> None:
    before = place.picture()
    alice = place.alice
    path = segments("rooms", place.room_id, "send", "m.x", "large")
    assert alice.ask("PUT", path, b'{"x":"' + b"a" * 6_400_000 + b'"}').status == 413
    assert alice.ask("GET", f"{V3}/sync", headers={"X-Long": "x" * 11_000}).status == 431
    assert alice.ask("GET", f"{V3}/sync", query={"filter": "x" * 11_000}).status == 414
    assert place.picture() == before


def test_a_browser_may_ask_from_any_page(place: Place) -> None:
    origin = {"Origin": "https://client.example"}
    status, headers, body = place.server.ask(
        "OPTIONS",
        f"{V3}/rooms/{place.room_id}/send/m.x/1",
        headers=origin
        | {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,content-type"},
    )
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-origin"] == "*"
    assert {"GET", "POST", "PUT", "DELETE", "OPTIONS"} <= set(headers["access-control-allow-methods"].split(","))
    allowed = set(headers["access-control-allow-headers"].split(","))
    assert {"authorization", "content-type", "x-requested-with", "date"} <= allowed
    for path, wanted in ((f"{V3}/account/whoami", 401), ("/_matrix/client/versions", 200), ("/nowhere", 404)):
        status, headers, _ = place.server.ask("GET", path, headers=origin)
        assert (status, headers["access-control-allow-origin"]) == (wanted, "*")
