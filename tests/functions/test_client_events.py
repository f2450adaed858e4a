"""PUT /rooms/{roomId}/send and /state: what is stored, what is refused, and what a repetition makes."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import PASSWORD, SERVER_NAME, Answer, User, invoke, payload
from functions.rooms import (
    call,
    create_room,
    event,
    events_of,
    get,
    messages,
    path,
    post,
    put,
    request,
    say,
    send,
    set_state,
    state,
    texts,
)
from homeserver.services import rate_limits
from homeserver.services.rate_limits import RateLimit

UNKNOWN_ROOM = f"!unknown:{SERVER_NAME}"


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


@pytest.mark.parametrize("name", ["client_events_send", "client_events_state"])
def test_documented_payloads_reach_their_endpoint(name: str) -> None:
    assert refusal(invoke("client_events", payload(name))) == (401, "M_UNKNOWN_TOKEN")


def test_a_message_is_stored_as_it_was_said_with_keys_nobody_knows(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    content = {"msgtype": "m.text", "body": "h\u00e9\U0001f642\u0000", "org.example": {"a": [1, None, True, 2**53 - 1]}}
    event_id = put(alice, room_id, "send", "m.room.message", "t1", body=content).json["event_id"]
    shown = event(bob, room_id, event_id).json
    assert shown["content"] == content
    assert (shown["sender"], shown["type"], shown["room_id"]) == (alice.user_id, "m.room.message", room_id)
    assert 0 <= shown["unsigned"]["age"] < 60_000
    assert shown["unsigned"].keys() == {"age", "membership"}
    assert event(alice, room_id, event_id).json["unsigned"]["transaction_id"] == "t1"


def test_a_transaction_id_is_one_event_of_its_device_and_room(alice: User, bob: User) -> None:
    room_id, other = create_room(alice, bob), create_room(alice)
    first = send(alice, room_id, "one", "t")
    assert send(alice, room_id, "something else", "t").json == first.json
    assert send(alice, other, "one", "t").json != first.json
    assert send(bob, room_id, "one", "t").json != first.json
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
    token = request("client_login", "POST", path("login"), login).json
    second_device = User(alice.user_id, token["device_id"], token["access_token"])
    answer = send(second_device, room_id, "two", "t")
    assert answer.json != first.json
    assert "transaction_id" not in event(second_device, room_id, first.json["event_id"]).json["unsigned"]
    assert texts(messages(alice, room_id, dir="f").json["chunk"]) == ["one", "one", "two"]


def test_a_repetition_is_answered_even_when_the_sender_was_banned_meanwhile(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    first = send(bob, room_id, "one", "t")
    assert post(alice, room_id, "ban", {"user_id": bob.user_id}).status == 200
    assert send(bob, room_id, "one", "t").json == first.json
    assert refusal(send(bob, room_id, "two", "u")) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("txn", ["a b", "a/b", "100%", "#1", "\u00fc", "t" * 255, "~.-_", "a%2Fb"])
def test_a_transaction_id_may_have_any_character(alice: User, txn: str) -> None:
    room_id = create_room(alice)
    answer = send(alice, room_id, "x", txn)
    assert answer.status == 200, answer
    assert send(alice, room_id, "y", txn).json == answer.json
    assert event(alice, room_id, answer.json["event_id"]).json["unsigned"]["transaction_id"] == txn


@pytest.mark.parametrize("txn", ["t" * 256, "\u00fc" * 128, ""])
def test_a_transaction_id_has_1_to_255_bytes(alice: User, txn: str) -> None:
    room_id = create_room(alice)
    answer = call("client_events", "PUT", path("rooms", room_id, "send", "m.room.message", txn), {}, token=alice.token)
    assert refusal(answer) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("event_type", ["org.example.a b", "100%", "#", "\u00fc", "t" * 255])
def test_an_event_type_may_have_any_character_but_a_slash(alice: User, event_type: str) -> None:
    room_id = create_room(alice)
    answer = put(alice, room_id, "send", event_type, "1", body={"n": 1})
    assert event(alice, room_id, answer.json["event_id"]).json["type"] == event_type
    assert set_state(alice, room_id, event_type, {"n": 2}).status == 200
    assert state(alice, room_id, event_type).json == {"n": 2}


@pytest.mark.parametrize("key", ["a/b", "a b", "100%", "#x", "\u00fc", "/", "a//b", "k" * 255, "%2F", "a/"])
def test_a_state_key_may_have_any_character(alice: User, key: str) -> None:
    room_id = create_room(alice)
    assert set_state(alice, room_id, "org.example.t", {"of": key}, key).status == 200
    assert set_state(alice, room_id, "org.example.t", {"of": "another"}, "another").status == 200
    assert state(alice, room_id, "org.example.t", key).json == {"of": key}
    shown = get(alice, "rooms", room_id, "state", "org.example.t", key, format="event").json
    assert (shown["state_key"], shown["type"]) == (key, "org.example.t")


def test_the_empty_state_key_needs_no_slash(alice: User) -> None:
    room_id = create_room(alice)
    for number, form in enumerate(("", "/")):
        where = path("rooms", room_id, "state", "m.room.name") + form
        answer = call("client_events", "PUT", where, {"name": f"n{number}"}, token=alice.token)
        assert answer.status == 200
        for read in ("", "/"):
            where = path("rooms", room_id, "state", "m.room.name") + read
            shown = call("client_history", "GET", where, token=alice.token)
            assert shown.json == {"name": f"n{number}"}


BAD_BODIES = [
    (b"{", 400, "M_NOT_JSON"),
    (b"nonsense", 400, "M_NOT_JSON"),
    (b"\xff", 400, "M_NOT_JSON"),
    (b'{"a":Infinity}', 400, "M_NOT_JSON"),
    (b'{"a":"\\ud800"}', 400, "M_NOT_JSON"),
    (b'{"a":' * 2000 + b"1" + b"}" * 2000, 400, "M_NOT_JSON"),
    (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", 400, "M_BAD_JSON"),
    (b"[]", 400, "M_BAD_JSON"),
    (b'"text"', 400, "M_BAD_JSON"),
    (b"1", 400, "M_BAD_JSON"),
    (b"null", 400, "M_BAD_JSON"),
    (b'{"a":1.5}', 400, "M_BAD_JSON"),
    (b'{"a":[{"b":1e3}]}', 400, "M_BAD_JSON"),
    (b'{"a":-0}', 400, "M_BAD_JSON"),
    (b'{"a":9007199254740992}', 400, "M_BAD_JSON"),
    (b'{"a":-9007199254740992}', 400, "M_BAD_JSON"),
    (b'{"a":' + b"9" * 50 + b"}", 400, "M_BAD_JSON"),
    (b'{"body":"' + b"x" * 65_536 + b'"}', 413, "M_TOO_LARGE"),
]


@pytest.mark.parametrize("kind", ["send", "state"])
@pytest.mark.parametrize(("body", "status", "errcode"), BAD_BODIES)
def test_content_that_can_be_no_event_is_refused_and_not_stored(
    alice: User, kind: str, body: bytes, status: int, errcode: str
) -> None:
    room_id = create_room(alice)
    before = events_of(alice, room_id)
    assert refusal(put(alice, room_id, kind, "org.example.t", "k", body=body)) == (status, errcode)
    assert events_of(alice, room_id) == before
    assert send(alice, room_id, "still here", "k").status == 200


@pytest.mark.parametrize("number", [b"9007199254740992", b"9" * 50, b"1e300"])
def test_numbers_that_clients_cannot_read_are_refused_in_old_rooms_too(alice: User, number: bytes) -> None:
    room_id = create_room(alice, room_version="5")
    answer = put(alice, room_id, "send", "org.example.t", "1", body=b'{"n":' + number + b"}")
    assert refusal(answer) == (400, "M_BAD_JSON")
    fraction = put(alice, room_id, "send", "org.example.t", "2", body=b'{"n":1.5}')
    assert event(alice, room_id, fraction.json["event_id"]).json["content"] == {"n": 1.5}


def test_the_largest_event_is_65536_bytes_of_canonical_json(alice: User) -> None:
    room_id = create_room(alice)
    low, high = 64_000, 65_536
    while high - low > 1:
        middle = (low + high) // 2
        answer = put(alice, room_id, "send", "t", f"n{middle}", body={"b": "x" * middle})
        assert refusal(answer) in {(200, None), (413, "M_TOO_LARGE")}
        low, high = (middle, high) if answer.status == 200 else (low, middle)
    # The rest is what every event has: its own keys, two signatures' worth of base64, the IDs of its parents.
    assert 64_900 < low < 65_200


@pytest.mark.parametrize(("kind", "key"), [("send", "1"), ("state", "k")])
def test_names_of_more_than_255_bytes_are_refused(alice: User, kind: str, key: str) -> None:
    room_id = create_room(alice)
    for event_type in ("t" * 256, "\u00fc" * 128, "t" * 3000):
        assert refusal(put(alice, room_id, kind, event_type, key, body={})) == (413, "M_TOO_LARGE")
    for state_key in ("k" * 256, "\u00fc" * 128, "k" * 3000):
        assert refusal(set_state(alice, room_id, "t", {}, state_key)) == (413, "M_TOO_LARGE")


@pytest.mark.parametrize(("kind", "key"), [("send", "1"), ("state", "k"), ("redact", "1")])
def test_who_may_send_nothing(alice: User, bob: User, kind: str, key: str) -> None:
    room_id = create_room(alice)
    what = say(alice, room_id, "x")[0] if kind == "redact" else "org.example.t"
    before = events_of(alice, room_id)
    assert refusal(put(bob, room_id, kind, what, key, body={})) == (403, "M_FORBIDDEN")
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    assert refusal(put(bob, room_id, kind, what, key, body={})) == (403, "M_FORBIDDEN")
    post(bob, room_id, "join")
    post(bob, room_id, "leave")
    assert refusal(put(bob, room_id, kind, what, key, body={})) == (403, "M_FORBIDDEN")
    assert refusal(put(alice, UNKNOWN_ROOM, kind, what, key, body={})) == (403, "M_FORBIDDEN")
    for malformed in ("room", "#a:example.org", "!" + "r" * 300 + ":example.org", "!" + "r" * 3000):
        assert refusal(put(alice, malformed, kind, what, key, body={})) == (400, "M_INVALID_PARAM")
    where = path("rooms", room_id, kind, what, key)
    assert refusal(request("client_events", "PUT", where, {})) == (401, "M_MISSING_TOKEN")
    assert refusal(request("client_events", "PUT", where, {}, token="wrong")) == (401, "M_UNKNOWN_TOKEN")
    kinds = [kind for kind, _ in events_of(alice, room_id)[len(before) :]]
    assert kinds == ["m.room.member"] * 3


@pytest.mark.parametrize("cut", ["!a%2Fb:example.org", "!a%3Fb:example.org"])
@pytest.mark.parametrize("rest", ["send/m.room.message/1", "state/m.room.name/", "redact/$e/1"])
def test_a_room_id_with_a_slash_or_a_question_mark_is_refused_clearly(alice: User, cut: str, rest: str) -> None:
    answer = call("client_events", "PUT", f"/_matrix/client/v3/rooms/{cut}/{rest}", {}, token=alice.token)
    assert refusal(answer) == (400, "M_INVALID_PARAM")


def test_events_take_the_level_of_their_type(alice: User, bob: User) -> None:
    override = {"events": {"org.example.low": 0, "org.example.high": 50}, "events_default": 0}
    room_id = create_room(alice, bob, power_level_content_override=override)
    assert refusal(set_state(bob, room_id, "m.room.name", {"name": "x"})) == (403, "M_FORBIDDEN")
    assert set_state(bob, room_id, "org.example.low", {}).status == 200
    assert refusal(put(bob, room_id, "send", "org.example.high", "1", body={})) == (403, "M_FORBIDDEN")
    assert send(bob, room_id, "x", "2").status == 200
    # A state key that is a user belongs to that user.
    assert refusal(set_state(bob, room_id, "org.example.low", {}, alice.user_id)) == (403, "M_FORBIDDEN")
    assert set_state(bob, room_id, "org.example.low", {}, bob.user_id).status == 200


def test_power_levels_cannot_be_raised_above_ones_own(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, room_version="11")
    levels = state(alice, room_id, "m.room.power_levels").json
    levels["users"][bob.user_id] = 50
    levels["events"]["m.room.power_levels"] = 50
    assert set_state(alice, room_id, "m.room.power_levels", levels).status == 200
    levels["users"][bob.user_id] = 60
    assert refusal(set_state(bob, room_id, "m.room.power_levels", levels)) == (403, "M_FORBIDDEN")
    broken: dict[str, Any]
    for broken in ({"users": {"bob": 1}}, {"ban": "50"}, {"events": []}):
        assert refusal(set_state(alice, room_id, "m.room.power_levels", broken)) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("version", ["11", "12"])
def test_a_second_create_event_is_refused(alice: User, version: str) -> None:
    room_id = create_room(alice, room_version=version)
    assert refusal(set_state(alice, room_id, "m.room.create", {"room_version": "12"})) == (403, "M_FORBIDDEN")
    assert refusal(set_state(alice, room_id, "m.room.create", {}, "x")) == (403, "M_FORBIDDEN")
    assert refusal(put(alice, room_id, "send", "m.room.create", "1", body={})) == (403, "M_FORBIDDEN")


def test_setting_the_same_state_again_makes_no_event(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, power_level_content_override={"state_default": 0})
    first = set_state(alice, room_id, "org.example.t", {"a": 1, "b": [2]})
    assert set_state(alice, room_id, "org.example.t", {"b": [2], "a": 1}).json == first.json
    # True is not 1, another key is another state, and another sender says it for themselves.
    assert set_state(alice, room_id, "org.example.t", {"a": True, "b": [2]}).json != first.json
    assert state(alice, room_id, "org.example.t").json["a"] is True
    again = set_state(alice, room_id, "org.example.t", {"a": 1, "b": [2]})
    assert again.json != first.json
    assert set_state(alice, room_id, "org.example.t", {"a": 1, "b": [2]}, "k").json != again.json
    assert set_state(bob, room_id, "org.example.t", {"a": 1, "b": [2]}).json != again.json
    post(bob, room_id, "leave")
    assert refusal(set_state(bob, room_id, "org.example.t", {"a": 1, "b": [2]})) == (403, "M_FORBIDDEN")


def test_a_state_event_tells_what_it_replaced(alice: User) -> None:
    room_id = create_room(alice)
    first = set_state(alice, room_id, "org.example.t", {"n": 1}).json["event_id"]
    second = set_state(alice, room_id, "org.example.t", {"n": 2}).json["event_id"]
    shown = event(alice, room_id, second).json["unsigned"]
    assert (shown["replaces_state"], shown["prev_content"]) == (first, {"n": 1})
    assert "prev_content" not in event(alice, room_id, first).json["unsigned"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"alias": "#tea:example.org"}, (200, None)),
        ({"alias": "#tea:example.org", "alt_aliases": ["#tea:example.org", "#also:example.org"]}, (200, None)),
        ({"alias": None, "alt_aliases": []}, (200, None)),
        ({"alias": ""}, (200, None)),
        ({}, (200, None)),
        ({"alias": "#other:example.org"}, (400, "M_BAD_ALIAS")),
        ({"alias": "#nowhere:example.org"}, (400, "M_BAD_ALIAS")),
        ({"alias": "#tea:else.org"}, (400, "M_BAD_ALIAS")),
        ({"alt_aliases": ["#other:example.org"]}, (400, "M_BAD_ALIAS")),
        ({"alias": "tea"}, (400, "M_INVALID_PARAM")),
        ({"alias": "#tea"}, (400, "M_INVALID_PARAM")),
        ({"alias": 5}, (400, "M_INVALID_PARAM")),
        ({"alt_aliases": "#tea:example.org"}, (400, "M_INVALID_PARAM")),
        ({"alt_aliases": [None]}, (400, "M_INVALID_PARAM")),
    ],
)
def test_a_canonical_alias_points_to_its_room(alice: User, content: dict[str, Any], expected: Any) -> None:
    room_id = create_room(alice)
    create_room(alice, room_alias_name="other")
    for name in ("#tea:example.org", "#also:example.org"):
        where = path("directory", "room", name)
        assert request("client_rooms", "PUT", where, {"room_id": room_id}, token=alice.token).json == {}
    assert refusal(set_state(alice, room_id, "m.room.canonical_alias", content)) == expected


def test_an_alias_that_was_listed_before_is_not_looked_up_again(alice: User) -> None:
    room_id = create_room(alice, room_alias_name="tea")
    where = path("directory", "room", "#tea:example.org")
    assert request("client_rooms", "DELETE", where, token=alice.token).status == 200
    content = {"alias": "#tea:example.org", "org.example": 1}
    assert set_state(alice, room_id, "m.room.canonical_alias", content).status == 200
    gone = {"alias": "#gone:example.org"}
    assert refusal(set_state(alice, room_id, "m.room.canonical_alias", gone)) == (400, "M_BAD_ALIAS")


@pytest.mark.parametrize("kind", ["send", "state", "redact"])
def test_sending_is_limited_and_says_how_long_to_wait(
    server: Callable[..., None], monkeypatch: pytest.MonkeyPatch, alice: User, kind: str
) -> None:
    monkeypatch.setattr(rate_limits, "SENDING_PER_USER", RateLimit("send-user", per_second=0.01, burst=2))
    room_id = create_room(alice)
    (target,) = say(alice, room_id, "x")
    server(RATE_LIMITS="on")
    what = target if kind == "redact" else "org.example.t"
    assert [put(alice, room_id, kind, what, str(n), body={}).status for n in range(2)] == [200, 200]
    refused = put(alice, room_id, kind, what, "3", body={})
    assert refusal(refused) == (429, "M_LIMIT_EXCEEDED")
    assert 90_000 < refused.json["retry_after_ms"] <= 100_000
    assert int(refused.headers["retry-after"]) in range(90, 101)
