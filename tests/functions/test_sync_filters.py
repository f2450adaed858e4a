"""Every field of a sync filter, inline and as a stored filter: a table for each part of the answer."""

import json
import re
from importlib import import_module
from typing import Any

import pytest

from functions.ephemeral import mark_read, type_in
from functions.harness import User, call, register
from functions.rooms import create_room, follow, path, post, put, say, send, set_state, texts
from functions.syncing import Device, ask, keys, sync

pytestmark = pytest.mark.usefixtures("set_up")

JSON = dict[str, Any]
Table = list[tuple[JSON, Any]]


def stored(user: User, definition: JSON) -> str:
    answer = call("client_user", "POST", path("user", user.user_id, "filter"), definition, token=user.token)
    assert answer.status == 200, answer
    filter_id: str = answer.json["filter_id"]
    return filter_id


def both(user: User, definition: JSON, since: str | None = None) -> JSON:
    """The answer with a filter, which is the same inline and by the ID of a stored one."""
    inline = sync(user, since, filter=definition)
    by_id = sync(user, since, filter=stored(user, definition))
    inline_text, text_by_id = (re.sub(r'"age": \d+', '"age": 0', json.dumps(body)) for body in (inline, by_id))
    assert inline_text == text_by_id
    return inline


def put_account_data(user: User, data_type: str, content: JSON, *room: str) -> None:
    segments = ["user", user.user_id, *(["rooms", *room] if room else []), "account_data", data_type]
    assert call("client_user", "PUT", path(*segments), content, token=user.token).status == 200


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    """A room of alice and bob, in which both said something."""
    room_id = create_room(alice, bob)
    say(alice, room_id, "one")
    image = {"msgtype": "m.image", "body": "image", "url": "mxc://example.org/abc"}
    assert put(alice, room_id, "send", "m.room.message", "i", body=image).status == 200
    assert put(bob, room_id, "send", "org.example.note", "n", body={"body": "note"}).status == 200
    say(bob, room_id, "two")
    follow()
    return room_id


def timeline_of(body: JSON, room_id: str) -> list[str]:
    room = body.get("rooms", {}).get("join", {}).get(room_id, {})
    return [event["content"].get("body", event["type"]) for event in room.get("timeline", {}).get("events", [])]


def test_the_fields_of_the_timeline(room_id: str, alice: User, bob: User) -> None:
    messages = {"types": ["m.room.message"]}
    other = "!other:example.org"
    table: Table = [
        ({"limit": 2}, ["note", "two"]),
        (messages, ["one", "image", "two"]),
        ({"types": ["m.room.mess*", "org.*.note"]}, ["one", "image", "note", "two"]),
        ({"types": ["*"], "not_types": ["m.*"]}, ["note"]),
        ({**messages, "not_types": ["m.room.message"]}, []),
        ({**messages, "senders": [alice.user_id]}, ["one", "image"]),
        ({**messages, "not_senders": [alice.user_id]}, ["two"]),
        ({**messages, "senders": [bob.user_id], "not_senders": [bob.user_id]}, []),
        ({**messages, "rooms": [room_id]}, ["one", "image", "two"]),
        ({**messages, "rooms": [other]}, []),
        ({**messages, "not_rooms": [room_id]}, []),
        ({**messages, "rooms": [room_id], "not_rooms": [room_id]}, []),
        ({**messages, "contains_url": True}, ["image"]),
        ({**messages, "contains_url": False}, ["one", "two"]),
        ({**messages, "unread_thread_notifications": True, "lazy_load_members": True}, ["one", "image", "two"]),
        ({"types": []}, []),
    ]
    for timeline, expected in table:
        body = both(bob, {"room": {"timeline": timeline}})
        assert timeline_of(body, room_id) == expected, timeline
        room = body["rooms"]["join"][room_id]
        assert "unread_thread_notifications" not in room
        if not expected:
            assert room["timeline"]["limited"] is False, timeline


def test_the_fields_of_the_state(room_id: str, alice: User, bob: User) -> None:
    def state(fields: JSON) -> set[tuple[str, str | None]]:
        body = both(bob, {"room": {"timeline": {"types": []}, "state": fields}})
        return keys(body["rooms"]["join"][room_id]["state"]["events"])

    whole = state({})
    members = {("m.room.member", user.user_id) for user in (alice, bob)}
    assert members < whole
    table: Table = [
        ({"types": ["m.room.member"]}, members),
        ({"types": ["m.room.m*"]}, members),
        ({"not_types": ["m.room.member"]}, whole - members),
        ({"senders": [bob.user_id]}, {("m.room.member", bob.user_id)}),
        ({"not_senders": [alice.user_id]}, {("m.room.member", bob.user_id)}),
        ({"rooms": [room_id]}, whole),
        ({"rooms": ["!other:example.org"]}, set()),
        ({"not_rooms": [room_id]}, set()),
        ({"contains_url": True}, set()),
        ({"contains_url": False}, whole),
        ({"types": ["m.room.member"], "lazy_load_members": True}, members),  # as alice is the hero
        ({"unread_thread_notifications": True}, whole),
    ]
    for fields, expected in table:
        assert state(fields) == expected, fields
    assert len(state({"limit": 2})) == 2


def test_the_fields_of_the_rooms(room_id: str, alice: User, bob: User) -> None:
    second, invited = create_room(bob), create_room(alice, invite=[bob.user_id])
    left = create_room(bob)
    post(bob, left, "leave")
    follow()
    table: Table = [
        ({}, ({room_id, second}, {invited}, set())),
        ({"rooms": [room_id]}, ({room_id}, set(), set())),
        ({"rooms": []}, (set(), set(), set())),
        ({"not_rooms": [room_id, invited]}, ({second}, set(), set())),
        ({"rooms": [room_id, second], "not_rooms": [second]}, ({room_id}, set(), set())),
        ({"include_leave": True}, ({room_id, second}, {invited}, {left})),
        ({"include_leave": True, "not_rooms": [left]}, ({room_id, second}, {invited}, set())),
    ]
    for fields, expected in table:
        rooms = both(bob, {"room": fields}).get("rooms", {})
        told = tuple(set(rooms.get(section, {})) for section in ("join", "invite", "leave"))
        assert told == expected, fields


def test_the_fields_of_ephemeral_events(room_id: str, alice: User, bob: User) -> None:
    (event_id,) = say(alice, room_id, "read me")
    assert mark_read(alice, room_id, event_id).status == 200
    assert type_in(alice, room_id, timeout=60_000).status == 200
    follow()
    table: Table = [
        ({}, ["m.receipt", "m.typing"]),
        ({"types": ["m.typing"]}, ["m.typing"]),
        ({"types": ["m.rec*"]}, ["m.receipt"]),
        ({"not_types": ["m.typing"]}, ["m.receipt"]),
        ({"limit": 1}, ["m.receipt"]),
        ({"types": []}, []),
        ({"senders": [alice.user_id]}, []),  # these events have no sender
        ({"not_senders": [alice.user_id]}, ["m.receipt", "m.typing"]),
        ({"rooms": [room_id]}, ["m.receipt", "m.typing"]),
        ({"rooms": ["!other:example.org"]}, []),
        ({"not_rooms": [room_id]}, []),
        ({"contains_url": True}, []),
        ({"contains_url": False}, ["m.receipt", "m.typing"]),
        ({"lazy_load_members": True, "unread_thread_notifications": True}, ["m.receipt", "m.typing"]),
    ]
    for fields, expected in table:
        room = both(bob, {"room": {"ephemeral": fields}})["rooms"]["join"][room_id]
        assert [event["type"] for event in room.get("ephemeral", {"events": []})["events"]] == expected, fields


def test_the_fields_of_account_data(room_id: str, bob: User) -> None:
    for data_type in ("m.direct", "org.example.a", "org.example.b"):
        put_account_data(bob, data_type, {"value": data_type})
    put_account_data(bob, "m.tag", {"tags": {}}, room_id)
    put_account_data(bob, "org.example.room", {"url": "x"}, room_id)

    def told(definition: JSON) -> tuple[list[str], list[str]]:
        body = both(bob, definition)
        room = body.get("rooms", {}).get("join", {}).get(room_id, {})
        return tuple(  # type: ignore[return-value]  # two parts make two lists
            [event["type"] for event in part.get("account_data", {"events": []})["events"]] for part in (body, room)
        )

    everything = (["m.direct", "org.example.a", "org.example.b"], ["m.tag", "org.example.room"])
    assert told({}) == everything
    glob: Table = [
        ({"types": ["org.*"]}, ["org.example.a", "org.example.b"]),
        ({"not_types": ["org.example.a"]}, ["m.direct", "org.example.b"]),
        ({"types": []}, []),
        ({"senders": [bob.user_id]}, []),
        ({"not_senders": [bob.user_id]}, everything[0]),
    ]
    for fields, expected in glob:
        assert told({"account_data": fields}) == (expected, everything[1]), fields
    room: Table = [
        ({"types": ["m.tag"]}, ["m.tag"]),
        ({"not_types": ["m.*"]}, ["org.example.room"]),
        ({"types": []}, []),
        ({"senders": [bob.user_id]}, []),
        ({"not_senders": [bob.user_id]}, everything[1]),
        ({"rooms": [room_id]}, everything[1]),
        ({"rooms": ["!other:example.org"]}, []),
        ({"not_rooms": [room_id]}, []),
        ({"contains_url": True}, ["org.example.room"]),
        ({"contains_url": False}, ["m.tag"]),
        ({"lazy_load_members": True, "unread_thread_notifications": True}, everything[1]),
    ]
    for fields, expected in room:
        assert told({"room": {"account_data": fields}}) == (everything[0], expected), fields


def test_account_data_beyond_its_limit_comes_with_the_next_answers(room_id: str, bob: User) -> None:
    for number in range(3):
        put_account_data(bob, f"org.example.{number}", {})
    put_account_data(bob, "org.example.room", {}, room_id)
    definition = {"account_data": {"limit": 2}, "room": {"account_data": {"limit": 1}}}
    body = both(bob, definition)
    assert [event["type"] for event in body["account_data"]["events"]] == ["org.example.0", "org.example.1"]
    rest = both(bob, definition, body["next_batch"])
    assert [event["type"] for event in rest["account_data"]["events"]] == ["org.example.2"]
    assert rest["rooms"]["join"][room_id]["account_data"]["events"][0]["type"] == "org.example.room"
    assert list(sync(bob, rest["next_batch"], filter=definition)) == ["next_batch"]


def test_presence_is_left_out_whatever_its_filter_says(room_id: str, alice: User, bob: User) -> None:
    for presence in ({}, {"types": ["m.presence"], "senders": [alice.user_id]}, {"limit": 1, "not_types": ["*"]}):
        assert "presence" not in both(bob, {"presence": presence, "room": {"rooms": [room_id]}})


def unchecked(user: User, definition: JSON) -> JSON:
    """The schema knows neither projected events nor PDUs: these answers are not checked by it."""
    question = {"user_id": user.user_id, "device_id": user.device_id, "filter": json.dumps(definition)}
    answer = import_module("sync_answer.app").lambda_handler(question, None)
    assert answer["status"] == 200
    body: JSON = json.loads(answer["body"])
    return body


def test_the_format_of_federation_is_the_pdu_with_its_id(room_id: str, bob: User) -> None:
    definition = {"event_format": "federation", "room": {"timeline": {"limit": 1}}}
    room = unchecked(bob, definition)["rooms"]["join"][room_id]
    (event,) = room["timeline"]["events"]
    pdu = {"type", "sender", "room_id", "content", "origin_server_ts", "depth", "prev_events", "auth_events"}
    assert pdu | {"hashes", "signatures", "event_id", "unsigned"} <= set(event)
    assert (event["content"]["body"], event["room_id"]) == ("two", room_id)
    assert all("signatures" in event and "state_key" in event for event in room["state"]["events"])
    client = unchecked(bob, {**definition, "event_format": "client"})["rooms"]["join"][room_id]
    assert "signatures" not in client["timeline"]["events"][0]
    assert client["timeline"]["events"][0]["event_id"] == event["event_id"]


def test_event_fields_are_taken_from_the_format_that_was_asked_for(room_id: str, bob: User) -> None:
    fields = ["content.body", "depth", "type"]
    definition = {"event_fields": fields, "room": {"timeline": {"limit": 1}}}
    (event,) = unchecked(bob, definition)["rooms"]["join"][room_id]["timeline"]["events"]
    assert event == {"content": {"body": "two"}, "type": "m.room.message"}
    definition["event_format"] = "federation"
    (event,) = unchecked(bob, definition)["rooms"]["join"][room_id]["timeline"]["events"]
    assert set(event) == {"content", "type", "depth"}


@pytest.mark.parametrize(
    ("text", "errcode"),
    [
        ("{", "M_NOT_JSON"),
        ('{"room": []}', "M_BAD_JSON"),
        ('{"room": {"timeline": {"limit": 0}}}', "M_INVALID_PARAM"),
        ('{"event_format": "pdu"}', "M_INVALID_PARAM"),
        ('{"room": {"rooms": ["room"]}}', "M_INVALID_PARAM"),
        ("no-such-filter", "M_INVALID_PARAM"),
    ],
)
def test_what_is_no_filter_is_refused(alice: User, text: str, errcode: str) -> None:
    answer = ask(alice, filter=text)
    assert (answer["status"], json.loads(answer["body"])["errcode"]) == (400, errcode)


def test_redundant_members_are_told_once_unless_the_filter_wants_them(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, carol, name="Tea")
    follow()
    lazy = {"room": {"state": {"lazy_load_members": True}}}
    every = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
    thrifty, generous = Device(bob, query={"filter": lazy}), Device(bob, query={"filter": every})
    for device in (thrifty, generous):
        device.sync()
    told: dict[str, list[set[str | None]]] = {"thrifty": [], "generous": []}
    for number in range(3):
        send(alice, room_id, f"text {number}", f"t{number}")
        follow()
        for name, device in (("thrifty", thrifty), ("generous", generous)):
            room = device.sync()["rooms"]["join"][room_id]
            told[name].append({key for _, key in keys(room["state"]["events"])})
    assert told["generous"] == [{alice.user_id}] * 3
    assert told["thrifty"] == [set()] * 3  # the first answer had her, as she sent what its timeline shows


def test_what_a_lost_answer_told_is_told_again(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name="Tea")
    say(bob, room_id, *[f"mine {number}" for number in range(11)])
    follow()
    device = Device(bob, query={"filter": {"room": {"state": {"lazy_load_members": True}}}})
    device.sync()
    say(alice, room_id, "hello")
    follow()
    before = device.since
    for _ in range(2):
        device.since = before
        room = device.sync()["rooms"]["join"][room_id]
        assert keys(room["state"]["events"]) == {("m.room.member", alice.user_id)}


def test_a_changed_member_is_told_again_although_known(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name="Tea")
    say(alice, room_id, "one")
    follow()
    device = Device(bob, query={"filter": {"room": {"timeline": {"limit": 1}, "state": {"lazy_load_members": True}}}})
    device.sync()
    content = {"membership": "join", "displayname": "Alice"}
    assert set_state(alice, room_id, "m.room.member", content, alice.user_id).status == 200
    say(alice, room_id, "two")
    follow()
    room = device.sync()["rooms"]["join"][room_id]
    assert [event["content"] for event in room["state"]["events"]] == [content]
    assert texts(room["timeline"]["events"]) == ["two"]
