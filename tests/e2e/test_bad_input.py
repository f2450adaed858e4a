"""Requests that are wrong: each gets the specification's status and errcode, stores nothing, and learns nothing."""

import itertools
import json
from typing import Any

import pytest

from e2e.client import PASSWORD, V3, Client, segments
from e2e.local_run import SERVER_NAME
from e2e.place import UNKNOWN_HASH_ROOM, UNKNOWN_ROOM, Place, refused

_numbers = itertools.count(1)


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


BODIES = {
    "half an object": (b"{", 400, "M_NOT_JSON"),
    "no UTF-8": (b"\xff\xfe{}", 400, "M_NOT_JSON"),
    "something after the object": (b"{} {}", 400, "M_NOT_JSON"),
    "NaN": (b'{"x": NaN}', 400, "M_NOT_JSON"),
    "half a surrogate pair": (b'{"x": "\\ud800"}', 400, "M_NOT_JSON"),
    "an array": (b"[]", 400, "M_BAD_JSON"),
    "null": (b"null", 400, "M_BAD_JSON"),
    "a string": (b'"x"', 400, "M_BAD_JSON"),
    "a number": (b"1", 400, "M_BAD_JSON"),
    "a float": (b'{"x": 1.5}', 400, "M_BAD_JSON"),
    "a float deep inside": (b'{"x": [{"y": 0.1}]}', 400, "M_BAD_JSON"),
    "an exponent": (b'{"x": 1e2}', 400, "M_BAD_JSON"),
    "an integer of 2^53": (b'{"x": 9007199254740992}', 400, "M_BAD_JSON"),
    "an integer of -2^53": (b'{"x": -9007199254740992}', 400, "M_BAD_JSON"),
    "an integer of 65 bits": (b'{"x": 36893488147419103232}', 400, "M_BAD_JSON"),
    "an integer of 400 digits": (b'{"x": 1' + b"0" * 400 + b"}", 400, "M_NOT_JSON"),
    "500 levels": (nested(500), 400, "M_BAD_JSON"),
    "100,000 levels": (nested(100_000), 400, "M_NOT_JSON"),
    "more than 65,536 bytes": (json.dumps({"x": "a" * 65_536}).encode(), 413, "M_TOO_LARGE"),
    "more than 65,536 bytes with its envelope": (json.dumps({"x": "a" * 65_500}).encode(), 413, "M_TOO_LARGE"),
}


@pytest.mark.parametrize("path", ["send/m.room.message/txn", "state/org.example.state/key"])
@pytest.mark.parametrize(("body", "status", "errcode"), BODIES.values(), ids=BODIES)
def test_an_event_with_a_bad_body_is_refused(place: Place, path: str, body: bytes, status: int, errcode: str) -> None:
    before = place.picture()
    address = segments("rooms", place.room_id, *path.replace("txn", f"bad{next(_numbers)}").split("/"))
    refused(place, place.alice.ask("PUT", address, body), status, errcode, before)


@pytest.mark.parametrize("body", [b"{", b"[]", b"null"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "createRoom"),
        ("POST", "join/{room}"),
        ("POST", "rooms/{room}/invite"),
        ("POST", "rooms/{room}/leave"),
        ("POST", "rooms/{room}/kick"),
        ("POST", "rooms/{room}/ban"),
        ("POST", "login"),
        ("POST", "register"),
        ("POST", "refresh"),
        ("POST", "account/password"),
        ("POST", "account/deactivate"),
        ("POST", "delete_devices"),
        ("PUT", "rooms/{room}/redact/{event}/txn"),
        ("PUT", "directory/room/%23somewhere:e2e.test"),
        ("PUT", "profile/{user}/displayname"),
        ("PUT", "user/{user}/account_data/org.example.x"),
        ("PUT", "user/{user}/rooms/{room}/account_data/org.example.x"),
        ("POST", "user/{user}/filter"),
    ],
)
def test_every_endpoint_refuses_what_is_no_json_object(place: Place, method: str, path: str, body: bytes) -> None:
    before = place.picture()
    address = f"{V3}/" + path.format(room=place.room_id, user=place.alice.user_id, event=place.event_id)
    answer = place.alice.ask(method, address, body)
    refused(place, answer, 400, "M_NOT_JSON" if body == b"{" else "M_BAD_JSON", before)


LONG = "x" * 256
ACTIONS: dict[str, tuple[str, list[str], Any, int, str]] = {
    "a message in an unknown room": ("PUT", ["rooms", UNKNOWN_ROOM, "send", "m.x", "1"], {}, 403, "M_FORBIDDEN"),
    "a message in an unknown room of version 12": (
        "PUT",
        ["rooms", UNKNOWN_HASH_ROOM, "send", "m.x", "1"],
        {},
        403,
        "M_FORBIDDEN",
    ),
    "a message in what is no room ID": ("PUT", ["rooms", "here", "send", "m.x", "1"], {}, 400, "M_INVALID_PARAM"),
    "state of an unknown room": ("GET", ["rooms", UNKNOWN_ROOM, "state"], None, 403, "M_FORBIDDEN"),
    "members of an unknown room": ("GET", ["rooms", UNKNOWN_ROOM, "members"], None, 403, "M_FORBIDDEN"),
    "joining an unknown room": ("POST", ["rooms", UNKNOWN_ROOM, "join"], {}, 404, "M_NOT_FOUND"),
    "joining another server's room": ("POST", ["join", "!room:other.test"], {}, 502, "M_UNKNOWN"),
    "joining an unknown alias": ("POST", ["join", f"#nowhere:{SERVER_NAME}"], {}, 404, "M_NOT_FOUND"),
    "joining what is neither ID nor alias": ("POST", ["join", "here"], {}, 400, "M_INVALID_PARAM"),
    "leaving an unknown room": ("POST", ["rooms", UNKNOWN_ROOM, "leave"], {}, 403, "M_FORBIDDEN"),
    "inviting another server's user": (
        "POST",
        ["rooms", "{room}", "invite"],
        {"user_id": "@x:other.test"},
        502,  # nobody answers under that name
        "M_UNKNOWN",
    ),
    "inviting nobody": ("POST", ["rooms", "{room}", "invite"], {}, 400, "M_MISSING_PARAM"),
    "inviting a number": ("POST", ["rooms", "{room}", "invite"], {"user_id": 1}, 400, "M_BAD_JSON"),
    "inviting what is no user ID": ("POST", ["rooms", "{room}", "invite"], {"user_id": "bob"}, 400, "M_INVALID_PARAM"),
    "inviting a user ID of 256 bytes": (
        "POST",
        ["rooms", "{room}", "invite"],
        {"user_id": f"@{LONG}:{SERVER_NAME}"},
        400,
        "M_INVALID_PARAM",
    ),
    "kicking who is not there": ("POST", ["rooms", "{room}", "kick"], {"user_id": "@x:other.test"}, 403, "M_FORBIDDEN"),
    "a reason that is a number": ("POST", ["rooms", "{room}", "leave"], {"reason": 1}, 400, "M_BAD_JSON"),
    "an event type of 256 bytes": ("PUT", ["rooms", "{room}", "send", LONG, "1"], {}, 413, "M_TOO_LARGE"),
    "an event type of 256 bytes in UTF-8": ("PUT", ["rooms", "{room}", "send", "ü" * 128, "1"], {}, 413, "M_TOO_LARGE"),
    "a state key of 256 bytes": ("PUT", ["rooms", "{room}", "state", "m.x", LONG], {}, 413, "M_TOO_LARGE"),
    "a transaction ID of 256 bytes": ("PUT", ["rooms", "{room}", "send", "m.x", LONG], {}, 400, "M_INVALID_PARAM"),
    "an alias of more than 255 bytes": (
        "PUT",
        ["directory", "room", f"#{LONG}:{SERVER_NAME}"],
        {"room_id": "{room}"},
        400,
        "M_INVALID_PARAM",
    ),
    "another server's alias": (
        "PUT",
        ["directory", "room", "#a:other.test"],
        {"room_id": "{room}"},
        400,
        "M_INVALID_PARAM",
    ),
    "a membership that there is not": (
        "PUT",
        ["rooms", "{room}", "state", "m.room.member", "{user}"],
        {"membership": "dance"},
        403,
        "M_FORBIDDEN",
    ),
    "power levels that are strings": (
        "PUT",
        ["rooms", "{room}", "state", "m.room.power_levels", ""],
        {"users_default": "100"},
        403,
        "M_FORBIDDEN",
    ),
    "a second creation": ("PUT", ["rooms", "{room}", "state", "m.room.create", ""], {}, 403, "M_FORBIDDEN"),
    "another user's state key": ("PUT", ["rooms", "{room}", "state", "m.x", "{other}"], {}, 403, "M_FORBIDDEN"),
    "an unknown event": ("GET", ["rooms", "{room}", "event", "$unknown"], None, 404, "M_NOT_FOUND"),
    "the context of an unknown event": ("GET", ["rooms", "{room}", "context", "$unknown"], None, 404, "M_NOT_FOUND"),
    "redacting an unknown event": ("PUT", ["rooms", "{room}", "redact", "$unknown", "1"], {}, 404, "M_NOT_FOUND"),
    "an unknown state event": ("GET", ["rooms", "{room}", "state", "m.nothing", ""], None, 404, "M_NOT_FOUND"),
    "an unknown user's profile": ("GET", ["profile", f"@nobody:{SERVER_NAME}"], None, 404, "M_NOT_FOUND"),
    "another user's profile": ("PUT", ["profile", "{other}", "displayname"], {"displayname": "x"}, 403, "M_FORBIDDEN"),
    "a display name that is a number": (
        "PUT",
        ["profile", "{user}", "displayname"],
        {"displayname": 1},
        400,
        "M_BAD_JSON",
    ),
    "another user's account data": ("PUT", ["user", "{other}", "account_data", "m.x"], {}, 403, "M_FORBIDDEN"),
    "account data that the server keeps": (
        "PUT",
        ["user", "{user}", "account_data", "m.fully_read"],
        {},
        405,
        "M_BAD_JSON",
    ),
    "a filter that is none": ("POST", ["user", "{user}", "filter"], {"room": 1}, 400, "M_BAD_JSON"),
    "a room name that is a number": ("POST", ["createRoom"], {"name": 1}, 400, "M_BAD_JSON"),
    "an unknown room version": ("POST", ["createRoom"], {"room_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
    "a room version that is a number": ("POST", ["createRoom"], {"room_version": 11}, 400, "M_BAD_JSON"),
    "an unknown preset": ("POST", ["createRoom"], {"preset": "secret_chat"}, 400, "M_BAD_JSON"),
    "a room for one guest string": ("POST", ["createRoom"], {"invite": "@bob:e2e.test"}, 400, "M_BAD_JSON"),
    "a room for what is no user ID": ("POST", ["createRoom"], {"invite": ["bob"]}, 400, "M_INVALID_PARAM"),
    "initial state without content": (
        "POST",
        ["createRoom"],
        {"initial_state": [{"type": "m.x"}]},
        400,
        "M_MISSING_PARAM",
    ),
    "initial state with a float": (
        "POST",
        ["createRoom"],
        {"initial_state": [{"type": "m.x", "content": {"x": 0.5}}]},
        400,
        "M_BAD_JSON",
    ),
    "initial state that is too large": (
        "POST",
        ["createRoom"],
        {"initial_state": [{"type": "m.x", "content": {"x": "a" * 65_536}}]},
        413,
        "M_TOO_LARGE",
    ),
    "power levels that the room refuses": (
        "POST",
        ["createRoom"],
        {"power_level_content_override": {"ban": "50"}},
        400,
        "M_INVALID_ROOM_STATE",
    ),
    "an alias with a colon": ("POST", ["createRoom"], {"room_alias_name": "a:b"}, 400, "M_INVALID_PARAM"),
    "an invitation by e-mail, by a server of the own network": (
        "POST",
        ["createRoom"],
        {"invite_3pid": [{"medium": "email", "address": "a@b.test", "id_server": "10.0.0.1", "id_access_token": "x"}]},
        403,
        "M_SERVER_NOT_TRUSTED",
    ),
    "a user name with a space": (
        "POST",
        ["register"],
        {"username": "a b", "password": PASSWORD},
        400,
        "M_INVALID_USERNAME",
    ),
    "a user name of 256 bytes": (
        "POST",
        ["register"],
        {"username": LONG, "password": PASSWORD},
        400,
        "M_INVALID_USERNAME",
    ),
    "a user name that is a number": ("POST", ["register"], {"username": 1}, 400, "M_BAD_JSON"),
    "an unknown login type": ("POST", ["login"], {"type": "org.example.unknown"}, 400, "M_UNKNOWN"),
    "a login without a type": ("POST", ["login"], {}, 400, "M_MISSING_PARAM"),
    "a wrong password": (
        "POST",
        ["login"],
        {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "mallory"}, "password": "x"},
        403,
        "M_FORBIDDEN",
    ),
    "an unknown refresh token": ("POST", ["refresh"], {"refresh_token": "x"}, 401, "M_UNKNOWN_TOKEN"),
}


def filled(place: Place, value: Any) -> Any:
    names = {"{room}": place.room_id, "{user}": place.alice.user_id, "{other}": place.bob.user_id}
    if isinstance(value, dict):
        return {key: filled(place, entry) for key, entry in value.items()}
    return names.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_what_cannot_be_is_refused(place: Place, action: tuple[str, list[str], Any, int, str]) -> None:
    method, path, body, status, errcode = action
    before = place.picture()
    answer = place.alice.ask(method, segments(*(filled(place, part) for part in path)), filled(place, body))
    refused(place, answer, status, errcode, before)


QUERIES = {
    "sync?since=nonsense": "M_INVALID_PARAM",
    "sync?since=t1_0": "M_INVALID_PARAM",
    "sync?since=s72594_4483_1934": "M_INVALID_PARAM",
    "sync?since={cut}": "M_INVALID_PARAM",
    "sync?since={foreign}": "M_INVALID_PARAM",
    "sync?since=s" + "A" * 4000: "M_INVALID_PARAM",
    "sync?timeout=soon": "M_INVALID_PARAM",
    "sync?full_state=perhaps": "M_INVALID_PARAM",
    "sync?filter=%7B": "M_NOT_JSON",
    "sync?filter=%7B%22room%22:1%7D": "M_BAD_JSON",
    "sync?filter=unknown": "M_INVALID_PARAM",
    "rooms/{room}/messages": "M_INVALID_PARAM",
    "rooms/{room}/messages?dir=up": "M_INVALID_PARAM",
    "rooms/{room}/messages?dir=b&limit=many": "M_INVALID_PARAM",
    "rooms/{room}/messages?dir=b&from=nonsense": "M_INVALID_PARAM",
    "rooms/{room}/messages?dir=b&from={foreign}": "M_INVALID_PARAM",
    "rooms/{room}/messages?dir=b&filter=%5B%5D": "M_BAD_JSON",
    "rooms/{room}/members?membership=dance": "M_INVALID_PARAM",
    "rooms/{room}/context/{event}?limit=-1": "M_INVALID_PARAM",
}


@pytest.mark.parametrize(("path", "errcode"), QUERIES.items(), ids=lambda value: str(value)[:50])
def test_tokens_and_parameters_that_cannot_be_are_refused(place: Place, path: str, errcode: str) -> None:
    before = place.picture()
    assert place.alice.since is not None
    address = path.format(room=place.room_id, event=place.event_id, cut=place.alice.since[:-2], foreign=place.bob.since)
    refused(place, place.alice.ask("GET", f"{V3}/{address}"), 400, errcode, before)


def test_no_changed_sync_token_is_more_than_a_bad_parameter(place: Place) -> None:
    """A forged token says that less or more was delivered than was: never an error of the server, or another's room."""
    since = place.alice.since
    assert since is not None
    mine = {place.room_id}
    for at in range(1, len(since)):
        for letter in "AQgw_":
            forged = since[:at] + letter + since[at + 1 :]
            answer = place.alice.ask("GET", f"{V3}/sync", query={"since": forged})
            assert answer.status in {200, 400}, (forged, answer)
            if answer.status == 400:
                assert answer.errcode == "M_INVALID_PARAM"
            else:
                assert set(answer.json.get("rooms", {}).get("join", {})) <= mine


GUARDED = [
    ("GET", "sync"),
    ("GET", "account/whoami"),
    ("GET", "joined_rooms"),
    ("GET", "capabilities"),
    ("GET", "devices"),
    ("POST", "logout"),
    ("POST", "createRoom"),
    ("GET", "rooms/{room}/messages?dir=b"),
    ("GET", "rooms/{room}/state"),
    ("PUT", "rooms/{room}/send/m.x/1"),
    ("POST", "rooms/{room}/join"),
    ("PUT", "profile/{user}/displayname"),
    ("GET", "user/{user}/account_data/m.x"),
    ("POST", "user/{user}/filter"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=lambda value: value)
def test_who_asks_must_say_so(place: Place, method: str, path: str) -> None:
    before = place.picture()
    address = f"{V3}/" + path.format(room=place.room_id, user=place.alice.user_id)
    with Client(place.server.url) as nobody:
        refused(place, nobody.ask(method, address), 401, "M_MISSING_TOKEN", before)
        for token in ("nonsense", "x" * 3000, place.alice.token + "x", place.alice.token[:-1]):
            refused(place, nobody.ask(method, address, token=token), 401, "M_UNKNOWN_TOKEN", before)
