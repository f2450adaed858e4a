"""Redactions: who may, what is left, and that no copy of what was redacted is shown again."""

from typing import Any

import pytest

from functions.harness import Answer, User
from functions.rooms import (
    create_room,
    event,
    events_of,
    follow,
    get,
    messages,
    post,
    put,
    redact,
    say,
    send,
    set_state,
    state,
    sync,
    texts,
)
from functions.test_client_events import UNKNOWN_ROOM, refusal
from homeserver.adapters import aws
from homeserver.matrix.event_codec import unpack
from homeserver.settings import table_name

SECRET = "the-secret-of-the-room"


def stored_copies() -> list[str]:
    """Where the secret is still stored, in whatever table, packed or not."""
    client = aws.client("dynamodb")
    found = []
    for noun in ("ROOMS", "TIMELINE", "EVENTS"):
        for item in client.scan(TableName=table_name(noun))["Items"]:
            for name, value in item.items():
                packed = next(iter(value.values()))
                if name in {"j", "pc", "rb"} and SECRET in str(unpack(bytes(packed))):
                    found.append(f"{noun}.{name}")
    return found


def redacted(answer: Answer) -> str:
    assert answer.status == 200, answer
    event_id: str = answer.json["event_id"]
    return event_id


def test_ones_own_message_is_redacted_everywhere(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (target,) = say(bob, room_id, SECRET)
    because = redacted(redact(bob, room_id, target, reason="typo"))
    shown = event(alice, room_id, target).json
    assert shown["content"] == {}
    assert shown["unsigned"]["redacted_because"]["event_id"] == because
    assert shown["unsigned"]["redacted_because"]["sender"] == bob.user_id
    assert shown["unsigned"]["redacted_because"]["room_id"] == room_id
    redaction = event(alice, room_id, because).json
    assert (redaction["type"], redaction["redacts"]) == ("m.room.redaction", target)
    assert redaction["content"] == {"reason": "typo", "redacts": target}
    assert texts(messages(alice, room_id).json["chunk"]) == [None]
    around = get(alice, "rooms", room_id, "context", because, limit=2).json["events_before"][0]
    assert (around["event_id"], around["content"]) == (target, {})
    assert stored_copies() == []


def test_a_user_redacts_what_others_said_only_with_the_level_for_it(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (target,) = say(alice, room_id, "mine")
    before = events_of(alice, room_id)
    assert refusal(redact(bob, room_id, target)) == (403, "M_FORBIDDEN")
    assert refusal(put(bob, room_id, "send", "m.room.redaction", "x", body={"redacts": target})) == (
        403,
        "M_FORBIDDEN",
    )
    assert events_of(alice, room_id) == before
    assert event(bob, room_id, target).json["content"]["body"] == "mine"
    levels = state(alice, room_id, "m.room.power_levels").json
    assert set_state(alice, room_id, "m.room.power_levels", {**levels, "users": {bob.user_id: 50}}).status == 200
    redacted(redact(bob, room_id, target))
    assert event(alice, room_id, target).json["content"] == {}


def test_redactions_themselves_can_take_a_level(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, power_level_content_override={"events": {"m.room.redaction": 50}})
    (target,) = say(bob, room_id, "mine")
    assert refusal(redact(bob, room_id, target)) == (403, "M_FORBIDDEN")
    redacted(redact(alice, room_id, target))


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_redactions_can_be_sent_like_messages(alice: User, bob: User, version: str) -> None:
    room_id = create_room(alice, bob, room_version=version)
    (target,) = say(bob, room_id, "x")
    content = {"redacts": target, "reason": "r"}
    because = redacted(put(bob, room_id, "send", "m.room.redaction", "t", body=content))
    assert put(bob, room_id, "send", "m.room.redaction", "t", body=content).json == {"event_id": because}
    assert event(alice, room_id, target).json["content"] == {}
    shown = event(alice, room_id, because).json
    assert (shown["redacts"], shown["content"]) == (target, content)
    for body in ({}, {"redacts": 1}, {"redacts": None}):
        assert refusal(put(bob, room_id, "send", "m.room.redaction", "u", body=body)) == (400, "M_BAD_JSON")
    assert refusal(set_state(bob, room_id, "m.room.redaction", content)) == (400, "M_INVALID_PARAM")


def test_the_body_cannot_name_another_event_than_the_path(alice: User) -> None:
    room_id = create_room(alice, room_version="10")
    first, second = say(alice, room_id, "one", "two")
    because = redacted(redact(alice, room_id, first, redacts=second))
    assert event(alice, room_id, because).json["redacts"] == first
    assert event(alice, room_id, because).json["content"] == {"redacts": first}
    assert event(alice, room_id, second).json["content"]["body"] == "two"


def test_a_transaction_id_is_one_redaction(alice: User) -> None:
    room_id = create_room(alice)
    first, second = say(alice, room_id, "one", "two")
    because = redact(alice, room_id, first, "t")
    assert redact(alice, room_id, first, "t").json == because.json
    assert redact(alice, room_id, second, "t").json == because.json  # as the first request's repetition
    assert event(alice, room_id, second).json["content"]["body"] == "two"
    assert event(alice, room_id, because.json["event_id"]).json["unsigned"]["transaction_id"] == "t"
    # Another endpoint has transaction IDs of its own.
    assert put(alice, room_id, "send", "m.room.redaction", "t", body={"redacts": second}).json != because.json


def test_redacting_twice_keeps_the_first_reason(alice: User) -> None:
    room_id = create_room(alice)
    (target,) = say(alice, room_id, "one")
    first = redacted(redact(alice, room_id, target, "1", reason="first"))
    second = redacted(redact(alice, room_id, target, "2", reason="second"))
    assert first != second
    assert event(alice, room_id, target).json["unsigned"]["redacted_because"]["event_id"] == first


def test_what_cannot_be_redacted(alice: User, bob: User) -> None:
    room_id, other = create_room(alice, bob), create_room(alice, bob)
    (elsewhere,) = say(alice, other, "x")
    create = get(alice, "rooms", room_id, "state", "m.room.create", "", format="event").json["event_id"]
    acl = set_state(alice, room_id, "m.room.server_acl", {"allow": ["*"]}).json["event_id"]
    before = events_of(alice, room_id)
    assert refusal(redact(alice, room_id, create)) == (403, "M_FORBIDDEN")
    assert refusal(redact(alice, room_id, acl)) == (403, "M_FORBIDDEN")
    for unknown in (elsewhere, "$" + "a" * 43, "$unknown:example.org", "nonsense", "$" + "e" * 3000, "$a b:c#%"):
        assert refusal(redact(alice, room_id, unknown)) == (404, "M_NOT_FOUND")
    assert refusal(redact(alice, UNKNOWN_ROOM, elsewhere)) == (403, "M_FORBIDDEN")
    assert events_of(alice, room_id) == before
    assert event(alice, other, elsewhere).json["content"]["body"] == "x"


@pytest.mark.parametrize("body", [b"x", b"[]", b'{"reason":1}', b'{"a":1.5}'])
def test_a_redaction_takes_an_object_with_a_reason(alice: User, body: bytes) -> None:
    room_id = create_room(alice)
    (target,) = say(alice, room_id, "x")
    errcode = "M_NOT_JSON" if body == b"x" else "M_BAD_JSON"
    assert refusal(put(alice, room_id, "redact", target, "1", body=body)) == (400, errcode)
    assert event(alice, room_id, target).json["content"]["body"] == "x"


def test_current_state_is_redacted_in_place(alice: User) -> None:
    room_id = create_room(alice, name=SECRET)
    target = get(alice, "rooms", room_id, "state", "m.room.name", "", format="event").json["event_id"]
    because = redacted(redact(alice, room_id, target))
    assert state(alice, room_id, "m.room.name").json == {}
    whole = {found["event_id"]: found for found in get(alice, "rooms", room_id, "state").json}
    assert whole[target]["content"] == {}
    assert whole[target]["unsigned"]["redacted_because"]["event_id"] == because
    assert stored_copies() == []
    # What replaces it has nothing left to quote.
    second = set_state(alice, room_id, "m.room.name", {"name": "New"}).json["event_id"]
    assert event(alice, room_id, second).json["unsigned"]["prev_content"] == {}
    assert state(alice, room_id, "m.room.name").json == {"name": "New"}


@pytest.mark.parametrize("later", [1, 2, 7])
def test_what_replaced_a_state_event_does_not_quote_it_after_its_redaction(alice: User, later: int) -> None:
    room_id = create_room(alice)
    target = set_state(alice, room_id, "m.room.topic", {"topic": SECRET}).json["event_id"]
    say(alice, room_id, *[f"between {n}" for n in range(later)])
    second = set_state(alice, room_id, "m.room.topic", {"topic": "decent"}).json["event_id"]
    say(alice, room_id, *[f"after {n}" for n in range(later)])
    third = set_state(alice, room_id, "m.room.topic", {"topic": "third"}).json["event_id"]
    assert event(alice, room_id, second).json["unsigned"]["prev_content"] == {"topic": SECRET}
    redacted(redact(alice, room_id, target))
    shown = event(alice, room_id, second).json
    assert "prev_content" not in shown["unsigned"]
    assert (shown["unsigned"]["replaces_state"], shown["content"]) == (target, {"topic": "decent"})
    assert event(alice, room_id, third).json["unsigned"]["prev_content"] == {"topic": "decent"}
    assert state(alice, room_id, "m.room.topic").json == {"topic": "third"}
    assert SECRET not in str(messages(alice, room_id).json)
    assert stored_copies() == []


@pytest.mark.parametrize(
    ("event_type", "content", "kept"),
    [
        ("m.room.power_levels", {"users": {}, "org.example": SECRET, "redact": 7}, {"users": {}, "redact": 7}),
        ("m.room.join_rules", {"join_rule": "public", "org.example": SECRET}, {"join_rule": "public"}),
        (
            "m.room.history_visibility",
            {"history_visibility": "joined", "org.example": SECRET},
            {"history_visibility": "joined"},
        ),
    ],
)
def test_the_state_that_authorises_events_keeps_what_it_needs_and_no_more(
    alice: User, event_type: str, content: dict[str, Any], kept: dict[str, Any]
) -> None:
    room_id = create_room(alice)
    target = set_state(alice, room_id, event_type, content).json["event_id"]
    say(alice, room_id, "so that the state is read")
    assert state(alice, room_id, event_type).json == content
    redacted(redact(alice, room_id, target))
    assert state(alice, room_id, event_type).json == kept
    say(alice, room_id, "and once more")
    assert state(alice, room_id, event_type).json == kept
    assert stored_copies() == []


def test_a_redacted_membership_is_still_one(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    target = set_state(bob, room_id, "m.room.member", {"membership": "join", "displayname": SECRET}, bob.user_id)
    redacted(redact(alice, room_id, target.json["event_id"]))
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "join"}
    assert get(alice, "rooms", room_id, "joined_members").json["joined"][bob.user_id] == {}
    say(bob, room_id, "still here")
    assert stored_copies() == []


def test_a_redaction_can_be_redacted_and_its_reason_disappears(alice: User) -> None:
    room_id = create_room(alice)
    (target,) = say(alice, room_id, "x")
    because = redacted(redact(alice, room_id, target, "1", reason=SECRET))
    second = redacted(redact(alice, room_id, because, "2"))
    assert event(alice, room_id, because).json["unsigned"]["redacted_because"]["event_id"] == second
    shown = event(alice, room_id, target).json
    assert shown["content"] == {}
    assert shown["unsigned"]["redacted_because"]["content"] == {"redacts": target}
    assert stored_copies() == []


def test_event_ids_of_room_version_3_may_have_slashes(alice: User) -> None:
    room_id = create_room(alice, room_version="3")
    for number in range(60):
        (target,) = say(alice, room_id, f"m{number}")
        if "/" in target:
            break
    assert "/" in target  # a third of them: one in 60 is as good as certain
    assert event(alice, room_id, target).status == 200
    redacted(redact(alice, room_id, target, "a/b"))
    assert event(alice, room_id, target).json["content"] == {}


@pytest.mark.parametrize("event_type", ["m.room.topic", "m.room.power_levels"])
def test_the_reason_disappears_from_redacted_state_too(alice: User, event_type: str) -> None:
    room_id = create_room(alice)
    target = set_state(alice, room_id, event_type, {"topic": "t", "users": {}}).json["event_id"]
    because = redacted(redact(alice, room_id, target, "1", reason=SECRET))

    def shown() -> dict[str, Any]:
        whole = {found["event_id"]: found for found in get(alice, "rooms", room_id, "state").json}
        content: dict[str, Any] = whole[target]["unsigned"]["redacted_because"]["content"]
        return content

    assert shown() == {"reason": SECRET, "redacts": target}
    redacted(redact(alice, room_id, because, "2"))
    assert shown() == {"redacts": target}
    assert event(alice, room_id, target).json["unsigned"]["redacted_because"]["content"] == {"redacts": target}
    say(alice, room_id, "the room still works")
    assert stored_copies() == []


@pytest.mark.usefixtures("set_up")
def test_a_sync_shows_what_is_left(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name=SECRET)
    target = send(alice, room_id, SECRET, "t").json["event_id"]
    name = get(alice, "rooms", room_id, "state", "m.room.name", "", format="event").json["event_id"]
    follow()
    assert SECRET in str(sync(alice))
    redacted(redact(alice, room_id, target, "1"))
    redacted(redact(alice, room_id, name, "2"))
    assert SECRET not in str(sync(alice))
    post(bob, room_id, "leave")
    assert SECRET not in str(messages(bob, room_id).json)
