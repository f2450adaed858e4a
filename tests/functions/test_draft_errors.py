"""What every writing endpoint of the 2014 draft answers to requests that are wrong, and which names it takes."""

from typing import Any

import pytest

from functions.draft import OLDEST, L, draft_room, post, put, refusal, write
from functions.harness import User, call, invoke, payload
from homeserver.services import rate_limits

ROOM, WHO = "!r:example.org", "@alice:example.org"
# Method, path, and whether a body is read.
ROUTES: list[tuple[str, tuple[str, ...]]] = [
    ("POST", ("createRoom",)),
    ("PUT", ("createRoom", "t1")),
    ("POST", ("join", "#pub:example.org")),
    ("PUT", ("join", "#pub:example.org", "t1")),
    *[("POST", ("rooms", ROOM, action)) for action in ("join", "leave", "invite", "kick", "ban")],
    *[("PUT", ("rooms", ROOM, action, "t1")) for action in ("join", "leave", "invite", "kick", "ban")],
    ("POST", ("rooms", ROOM, "send", "m.room.message")),
    ("PUT", ("rooms", ROOM, "send", "m.room.message", "t1")),
    ("POST", ("rooms", ROOM, "send", "m.room.message.feedback")),
    ("PUT", ("rooms", ROOM, "state", "m.room.topic")),
    ("PUT", ("rooms", ROOM, "state", "m.room.topic", "")),
    ("PUT", ("rooms", ROOM, "state", "m.room.member", WHO)),
    ("PUT", ("rooms", ROOM, "state", "m.room.config")),
    ("PUT", ("rooms", ROOM, "state", "m.room.ops_levels")),
    ("POST", ("rooms", ROOM, "redact", "$e:example.org")),
    ("PUT", ("rooms", ROOM, "redact", "$e:example.org", "t1")),
    ("PUT", ("rooms", ROOM, "typing", WHO)),
    ("PUT", ("directory", "room", "#pub:example.org")),
    ("PUT", ("profile", WHO, "displayname")),
    ("PUT", ("profile", WHO, "avatar_url")),
]
WITHOUT_BODY: list[tuple[str, tuple[str, ...]]] = [("DELETE", ("directory", "room", "#pub:example.org"))]


def named(route: Any) -> str:
    return f"{route[0]} {'/'.join(route[1])}" if isinstance(route, tuple) else str(route)


@pytest.mark.parametrize("root", [L, OLDEST])
@pytest.mark.parametrize("route", [*ROUTES, *WITHOUT_BODY], ids=named)
def test_nobody_is_served_without_a_token_that_is_one(route: tuple[str, tuple[str, ...]], root: str) -> None:
    method, segments = route
    assert refusal(write(None, method, *segments, body={}, root=root)) == (401, "M_MISSING_TOKEN")
    stranger = User(WHO, "D", "syt_no-such-token")
    assert refusal(write(stranger, method, *segments, body={}, root=root)) == (401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_a_body_that_is_no_object_is_refused(alice: User, route: tuple[str, tuple[str, ...]]) -> None:
    method, segments = route
    assert refusal(write(alice, method, *segments, body='{"a":')) == (400, "M_NOT_JSON")
    assert refusal(write(alice, method, *segments, body="[]")) == (400, "M_BAD_JSON")
    assert refusal(write(alice, method, *segments, body='"text"')) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "route",
    [
        ("PUT", ("createRoom",)),
        ("POST", ("createRoom", "t1")),
        ("PUT", ("join", "#pub:example.org")),
        ("POST", ("join", "#pub:example.org", "t1")),
        ("PUT", ("join", "!" + "h" * 43)),
        ("POST", ("join", "!" + "h" * 43, "t1")),
        ("DELETE", ("join", "#pub:example.org", "t1")),
        *[("PUT", ("rooms", ROOM, action)) for action in ("join", "leave", "invite", "kick", "ban")],
        *[("POST", ("rooms", ROOM, action, "t1")) for action in ("join", "leave", "invite", "kick", "ban")],
        ("PUT", ("rooms", ROOM, "send", "m.room.message")),
        ("POST", ("rooms", ROOM, "send", "m.room.message", "t1")),
        ("POST", ("rooms", ROOM, "state", "m.room.topic")),
        ("POST", ("rooms", ROOM, "state", "m.room.topic", "")),
        ("DELETE", ("rooms", ROOM, "state", "m.room.topic")),
        ("PUT", ("rooms", ROOM, "redact", "$e:example.org")),
        ("POST", ("rooms", ROOM, "redact", "$e:example.org", "t1")),
        ("PUT", ("rooms", ROOM, "redact", "$" + "h" * 43)),
        ("POST", ("rooms", ROOM, "redact", "$" + "h" * 43, "t1")),
        ("POST", ("rooms", ROOM, "typing", WHO)),
        ("POST", ("directory", "room", "#pub:example.org")),
        ("DELETE", ("profile", WHO, "displayname")),
    ],
    ids=named,
)
@pytest.mark.parametrize("root", [L, OLDEST])
def test_another_method_is_405_also_with_and_without_a_transaction_id(
    alice: User, route: tuple[str, tuple[str, ...]], root: str
) -> None:
    method, segments = route
    answer = write(alice, method, *segments, body={}, root=root)
    assert refusal(answer) == (405, "M_UNRECOGNIZED")
    assert method not in answer.headers["allow"].split(", ")


def test_state_takes_no_transaction_id(alice: User) -> None:
    room_id = draft_room(alice)
    answer = put(alice, "rooms", room_id, "state", "m.room.topic", "", "t1", topic="t")
    assert answer.status in {404, 405}
    assert answer.errcode == "M_UNRECOGNIZED"
    assert refusal(put(alice, "rooms", room_id, "state", "org.example.x", "key", "t1", x=1)) == (405, "M_UNRECOGNIZED")


def test_what_is_nowhere_in_the_draft_is_unknown(alice: User) -> None:
    assert refusal(post(alice, "rooms", ROOM, "upgrade", new_version="11")) == (404, "M_UNRECOGNIZED")
    assert refusal(post(alice, "knock", ROOM)) == (404, "M_UNRECOGNIZED")


@pytest.mark.parametrize(
    ("segments", "body"),
    [
        (("rooms", ROOM, "invite"), {}),
        (("rooms", ROOM, "invite"), {"user_id": 7}),
        (("rooms", ROOM, "kick"), {"reason": "x"}),
        (("rooms", ROOM, "ban"), {"user_id": WHO, "reason": 7}),
        (("createRoom",), {"visibility": "secret"}),
        (("createRoom",), {"visibility": True}),
        (("createRoom",), {"name": {}}),
        (("createRoom",), {"topic": []}),
        (("createRoom",), {"invite": "@bob:example.org"}),
        (("createRoom",), {"invite": [7]}),
        (("createRoom",), {"room_alias_name": 7}),
        (("createRoom",), {"direct_to": WHO}),
        (("createRoom",), {"direct_to": "bob"}),
        (("createRoom",), {"direct_to": "@bob:example.org", "invite": ["@carol:example.org"]}),
        (("rooms", ROOM, "send", "m.room.message"), {"body": "no type"}),
        (("rooms", ROOM, "send", "m.room.message"), {"body": "x", "msgtype": 7}),
    ],
)
def test_keys_that_are_missing_or_wrong_are_bad_json(
    alice: User, segments: tuple[str, ...], body: dict[str, Any]
) -> None:
    assert refusal(write(alice, "POST", *segments, body=body)) == (400, "M_BAD_JSON")


def test_a_transaction_id_is_neither_empty_nor_longer_than_an_identifier(alice: User) -> None:
    assert refusal(put(alice, "createRoom", "t" * 256)) == (400, "M_INVALID_PARAM")
    assert put(alice, "createRoom", "t" * 255).status == 200


def test_the_token_may_stand_in_the_query_as_in_2014(alice: User) -> None:
    answer = call("client_legacy_rooms", "POST", f"{L}/createRoom", {}, query={"access_token": alice.token})
    assert answer.status == 200


def test_recorded_requests_are_refused_for_their_tokens() -> None:
    for name in ("create", "send"):
        answer = invoke("client_legacy_rooms", payload(f"client_legacy_rooms_{name}"))
        assert refusal(answer) == (401, "M_UNKNOWN_TOKEN")


def test_who_sends_too_fast_is_told_when_to_go_on(alice: User, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    room_id = draft_room(alice)
    server(RATE_LIMITS="on")
    monkeypatch.setattr(rate_limits.time, "time_ns", lambda: 1_700_000_000_000_000_000)
    answers = [post(alice, "rooms", room_id, "send", "m.room.message", msgtype="m.text", body="x") for _ in range(80)]
    late = answers[-1]
    assert refusal(late) == (429, "M_LIMIT_EXCEEDED")
    assert late.json["retry_after_ms"] > 0
    assert int(late.headers["retry-after"]) * 1000 >= late.json["retry_after_ms"]


# ── Names that people read ───────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["the pub", "a:b", "a#b", "", "p\u0443b", "pub\u200b", "\uff50ub", "pub\n"])
def test_a_name_that_cannot_be_given_fails_the_check_of_human_ids(alice: User, name: str) -> None:
    answer = post(alice, "createRoom", room_alias_name=name)
    assert refusal(answer) == (400, "M_FAILED_HUMAN_ID_CHECK")
    assert answer.json["failed_keys"] == ["room_alias_name"]
    room_id = draft_room(alice)
    config = put(alice, "rooms", room_id, "state", "m.room.config", room_alias_name=name or "a b")
    assert (config.status, config.json["failed_keys"]) == (400, ["room_alias_name"])


@pytest.mark.parametrize("alias", ["#the pub:example.org", "#a:b:example.org", "#p\u0443b:example.org"])
def test_an_alias_that_cannot_be_given_fails_it_too(alice: User, alias: str) -> None:
    room_id = draft_room(alice)
    answer = put(alice, "directory", "room", alias, room_id=room_id)
    assert refusal(answer) == (400, "M_FAILED_HUMAN_ID_CHECK")
    assert answer.json["failed_keys"] == ["room_alias"]


def test_a_name_that_is_too_long_fails_it(alice: User) -> None:
    assert refusal(post(alice, "createRoom", room_alias_name="x" * 256)) == (400, "M_FAILED_HUMAN_ID_CHECK")


def test_an_alias_of_another_server_cannot_be_made(alice: User) -> None:
    room_id = draft_room(alice)
    assert refusal(put(alice, "directory", "room", "#pub:peer.test", room_id=room_id)) == (400, "M_INVALID_PARAM")
    assert refusal(put(alice, "directory", "room", "pub", room_id=room_id)) == (400, "M_INVALID_PARAM")


def test_a_taken_alias_is_in_use_however_it_is_asked_for(alice: User, bob: User) -> None:
    assert post(alice, "createRoom", room_alias_name="pub").json["room_alias"] == "#pub:example.org"
    assert refusal(post(bob, "createRoom", room_alias_name="pub")) == (400, "M_ROOM_IN_USE")
    room_id = draft_room(bob)
    assert refusal(put(bob, "directory", "room", "#pub:example.org", room_id=room_id)) == (400, "M_ROOM_IN_USE")
    config = put(bob, "rooms", room_id, "state", "m.room.config", room_alias_name="pub", name="Bob's")
    assert refusal(config) == (400, "M_ROOM_IN_USE")
    modern = call("client_history", "GET", f"/_matrix/client/v3/rooms/{room_id}/state/m.room.name", token=bob.token)
    assert modern.status == 404  # nothing of the body was taken


def test_an_alias_needs_a_room(alice: User) -> None:
    assert refusal(put(alice, "directory", "room", "#pub:example.org")) == (400, "M_BAD_JSON")
    assert refusal(put(alice, "directory", "room", "#pub:example.org", room_id="pub")) == (400, "M_BAD_JSON")
    assert refusal(put(alice, "directory", "room", "#pub:example.org", room_id=ROOM)) == (403, "M_FORBIDDEN")


def test_an_alias_is_made_and_removed_by_who_may(alice: User, bob: User) -> None:
    room_id = draft_room(alice, bob)
    assert put(bob, "directory", "room", "#bar:example.org", room_id=room_id).json == {}
    assert write(alice, "DELETE", "directory", "room", "#bar:example.org").json == {}
    assert refusal(write(alice, "DELETE", "directory", "room", "#bar:example.org")) == (404, "M_NOT_FOUND")
    assert put(alice, "directory", "room", "#bar:example.org", room_id=room_id).json == {}
    assert refusal(write(bob, "DELETE", "directory", "room", "#bar:example.org")) == (403, "M_FORBIDDEN")


def test_historic_ids_of_other_servers_are_taken_as_they_are(alice: User) -> None:
    room_id = draft_room(alice)
    assert (
        put(alice, "rooms", room_id, "state", "m.room.power_levels", **{"@Dave!:peer.test": 5, "default": 0}).json == {}
    )
