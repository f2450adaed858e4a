"""What comes with an event: its latest edit, its thread, what refers to it."""

import json
from typing import Any

import pytest

from functions.harness import User, call
from functions.relating import JSON, bundle, edit, message, react, refer, relates, relations, reply, say, sent
from functions.rooms import create_room, event, follow, get, messages, path, post, redact, set_state
from functions.syncing import sync


def ignore(user: User, *others: User) -> None:
    where = path("user", user.user_id, "account_data", "m.ignored_user_list")
    body = {"ignored_users": {other.user_id: {} for other in others}}
    assert call("client_user", "PUT", where, body, token=user.token).status == 200


def by_id(events: list[JSON]) -> dict[str, JSON]:
    return {found["event_id"]: found["unsigned"].get("m.relations", {}) for found in events}


def test_the_latest_edit_comes_whole_with_the_event_that_keeps_its_content(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent = say(alice, room_id, "original")
    edit(alice, room_id, parent, "first")
    second = edit(alice, room_id, parent, "second")
    shown = event(bob, room_id, parent).json
    assert shown["content"] == message("original")
    latest = shown["unsigned"]["m.relations"]["m.replace"]
    assert latest["unsigned"].pop("age") >= 0
    assert latest.pop("origin_server_ts") >= shown["origin_server_ts"]
    assert latest == {
        "event_id": second,
        "room_id": room_id,
        "sender": alice.user_id,
        "type": "m.room.message",
        "content": message("* second", **{"m.new_content": message("second")}, **relates("m.replace", parent)),
        "unsigned": {"membership": "join"},
    }
    assert shown["unsigned"]["m.relations"].keys() == {"m.replace"}


def test_edits_that_are_not_valid_are_not_shown_with_the_event(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent = say(alice, room_id, "original")
    topic = set_state(alice, room_id, "m.room.topic", {"topic": "t"}).json["event_id"]
    edit(bob, room_id, parent, "by somebody else")
    new = {"m.new_content": message("new")}
    sent(alice, room_id, "m.room.message", message("no new content", **relates("m.replace", parent)))
    sent(alice, room_id, "m.room.message", {**message("x"), "m.new_content": "x", **relates("m.replace", parent)})
    sent(alice, room_id, "org.example.other", {**new, **relates("m.replace", parent)})
    set_state(alice, room_id, "m.room.message", {**message("state"), **new, **relates("m.replace", parent)})
    sent(alice, room_id, "m.room.topic", {**new, **relates("m.replace", topic)})
    assert bundle(alice, room_id, parent) == bundle(alice, room_id, topic) == {}
    valid = edit(alice, room_id, parent, "valid")
    edit(alice, room_id, valid, "an edit of an edit")
    assert bundle(alice, room_id, parent)["m.replace"]["event_id"] == valid
    assert bundle(alice, room_id, valid) == {}
    assert len(relations(alice, room_id, parent, "m.replace").json["chunk"]) == 6


def test_encrypted_events_are_edited_without_anybody_seeing_the_content(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    cipher = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}
    parent = sent(alice, room_id, "m.room.encrypted", cipher)
    sent(bob, room_id, "m.room.encrypted", {**cipher, **relates("m.replace", parent)})
    assert bundle(alice, room_id, parent) == {}
    valid = sent(alice, room_id, "m.room.encrypted", {**cipher, **relates("m.replace", parent)})
    assert bundle(alice, room_id, parent)["m.replace"]["event_id"] == valid


def test_redacting_edits_goes_back_through_them(alice: User) -> None:
    room_id = create_room(alice)
    parent = say(alice, room_id, "original")
    edits = [edit(alice, room_id, parent, body) for body in ("one", "two", "three")]
    redact(alice, room_id, edits[1], "1")
    assert bundle(alice, room_id, parent)["m.replace"]["event_id"] == edits[2]
    redact(alice, room_id, edits[2], "2")
    assert bundle(alice, room_id, parent)["m.replace"]["event_id"] == edits[0]
    redact(alice, room_id, edits[0], "3")
    assert bundle(alice, room_id, parent) == {}
    edited = edit(alice, room_id, parent, "four")
    assert bundle(alice, room_id, parent)["m.replace"]["event_id"] == edited


def test_a_redacted_event_has_no_edit_any_more_but_its_thread(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent = say(alice, room_id, "original")
    edit(alice, room_id, parent, "edited")
    replied = reply(bob, room_id, parent, "reply")
    redact(alice, room_id, parent)
    shown = bundle(alice, room_id, parent)
    assert shown.keys() == {"m.thread"}
    assert (shown["m.thread"]["latest_event"]["event_id"], shown["m.thread"]["count"]) == (replied, 1)


def test_references_are_listed_in_their_order(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent = say(alice, room_id, "parent")
    first, second, third = (refer(user, room_id, parent) for user in (alice, bob, alice))
    assert bundle(alice, room_id, parent) == {
        "m.reference": {"chunk": [{"event_id": event_id} for event_id in (first, second, third)]}
    }
    ignore(alice, bob)
    assert bundle(alice, room_id, parent)["m.reference"]["chunk"] == [{"event_id": first}, {"event_id": third}]
    for number, event_id in enumerate((first, third)):
        redact(alice, room_id, event_id, str(number))
    assert bundle(alice, room_id, parent) == {}
    assert bundle(bob, room_id, parent)["m.reference"]["chunk"] == [{"event_id": second}]


def test_annotations_are_not_bundled(alice: User) -> None:
    room_id = create_room(alice)
    parent = say(alice, room_id, "parent")
    react(alice, room_id, parent)
    assert "m.relations" not in event(alice, room_id, parent).json["unsigned"]


def test_every_endpoint_that_shows_an_event_shows_what_relates_to_it(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    root = say(alice, room_id, "root")
    replied = reply(bob, room_id, root, "reply")
    edited = edit(alice, room_id, root, "edited root")
    edited_reply = edit(bob, room_id, replied, "edited reply")
    after = say(alice, room_id, "after")
    shown: list[dict[str, JSON]] = [by_id(messages(alice, room_id, dir=way).json["chunk"]) for way in ("b", "f")]
    around = get(alice, "rooms", room_id, "context", after, limit=20).json
    shown.append(by_id(around["events_before"]))
    around = get(alice, "rooms", room_id, "context", replied, limit=20).json
    shown.append(by_id([around["event"], *around["events_before"]]))
    shown.append(by_id([event(alice, room_id, event_id).json for event_id in (root, replied)]))
    for found in shown:
        assert found[root]["m.replace"]["event_id"] == edited
        thread = found[root]["m.thread"]
        assert (thread["count"], thread["current_user_participated"]) == (1, True)
        assert thread["latest_event"]["event_id"] == replied
        # The latest event has its own edit with it.
        assert thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == edited_reply
        assert found[replied]["m.replace"]["event_id"] == edited_reply
    child = relations(alice, room_id, root, "m.thread").json["chunk"][0]
    assert child["unsigned"]["m.relations"]["m.replace"]["event_id"] == edited_reply


def test_who_left_sees_what_there_was_when_they_left(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    root = say(alice, room_id, "root")
    edited = edit(alice, room_id, root, "seen")
    replied = reply(alice, room_id, root, "seen")
    referred = refer(alice, room_id, root)
    post(bob, room_id, "leave")
    edit(alice, room_id, root, "unseen")
    reply(alice, room_id, root, "unseen")
    refer(alice, room_id, root)
    shown = bundle(bob, room_id, root)
    assert shown["m.replace"]["event_id"] == edited
    assert shown["m.reference"] == {"chunk": [{"event_id": referred}]}
    assert (shown["m.thread"]["latest_event"]["event_id"], shown["m.thread"]["count"]) == (replied, 1)
    assert bundle(alice, room_id, root)["m.thread"]["count"] == 2


@pytest.mark.parametrize(
    ("event_filter", "expected"),
    [
        ({"not_rel_types": ["m.thread"]}, {"root", "reaction"}),
        ({"rel_types": ["m.thread"]}, {"reply"}),
        ({"rel_types": [None, "m.annotation"]}, {"root", "reaction"}),
        ({"rel_types": [None], "not_rel_types": [None]}, set()),
    ],
)
def test_events_can_be_filtered_by_what_they_relate_to(
    alice: User, event_filter: dict[str, Any], expected: set[str]
) -> None:
    room_id = create_room(alice)
    root = say(alice, room_id, "root")
    ids = {
        root: "root",
        reply(alice, room_id, root, "reply"): "reply",
        react(alice, room_id, root).json["event_id"]: "reaction",
    }
    unstable = {f"org.matrix.msc3874.{name}": value for name, value in event_filter.items()}
    wanted = json.dumps({**unstable, "types": ["m.room.message", "m.reaction"]})
    found = messages(alice, room_id, filter=wanted).json["chunk"]
    assert {ids[shown["event_id"]] for shown in found} == expected


def test_a_filter_by_relation_types_that_are_none_is_refused(alice: User) -> None:
    room_id = create_room(alice)
    for value in ("m.thread", [1], {}):
        answer = messages(alice, room_id, filter=json.dumps({"org.matrix.msc3874.rel_types": value}))
        assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


@pytest.mark.usefixtures("set_up")
def test_a_sync_filter_takes_what_somebody_relates_to(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    root, _ = say(alice, room_id, "root"), say(alice, room_id, "nothing")
    follow()
    wanted = {"room": {"timeline": {"related_by_rel_types": ["m.thread"]}}}
    assert sync(bob, filter=wanted)["rooms"]["join"][room_id]["timeline"]["events"] == []
    reply(bob, room_id, root, "reply")
    follow()
    timeline = sync(bob, filter=wanted)["rooms"]["join"][room_id]["timeline"]
    assert [shown["event_id"] for shown in timeline["events"]] == [root]


@pytest.mark.parametrize(
    ("event_filter", "expected"),
    [
        ({"related_by_rel_types": ["m.thread"]}, {"thread"}),
        ({"related_by_rel_types": ["m.annotation"]}, {"reacted"}),
        ({"related_by_rel_types": ["m.annotation", "m.thread"]}, {"thread", "reacted"}),
        ({"related_by_rel_types": ["m.thread"], "related_by_senders": ["@bob:example.org"]}, {"thread"}),
        ({"related_by_rel_types": ["m.thread"], "related_by_senders": ["@alice:example.org"]}, set()),
        ({"related_by_senders": ["@bob:example.org"]}, {"thread", "reacted"}),
        ({"related_by_senders": ["@alice:example.org"]}, {"edited"}),
        ({"related_by_senders": ["@alice:example.org"], "not_senders": ["@alice:example.org"]}, set()),
        ({"related_by_rel_types": []}, set()),
    ],
)
def test_events_can_be_filtered_by_what_relates_to_them(
    alice: User, bob: User, event_filter: dict[str, Any], expected: set[str]
) -> None:
    room_id = create_room(alice, bob)
    ids = {name: say(alice, room_id, name) for name in ("plain", "thread", "edited", "reacted")}
    reply(bob, room_id, ids["thread"], "reply")
    edit(alice, room_id, ids["edited"], "edit")
    react(bob, room_id, ids["reacted"])
    found = messages(bob, room_id, filter=json.dumps(event_filter)).json["chunk"]
    assert {shown["event_id"] for shown in found} == {ids[name] for name in expected}


def test_the_membership_of_the_reader_at_the_event_comes_with_it(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    early = say(alice, room_id, "before bob")
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    invited = say(alice, room_id, "while invited")
    post(bob, room_id, "join")
    there = say(alice, room_id, "while there")
    post(bob, room_id, "leave")
    shown = messages(bob, room_id).json["chunk"]
    found = {e["event_id"]: e["unsigned"].get("membership") for e in shown}
    assert (found[early], found[invited], found[there]) == ("leave", "invite", "join")
    own = [e["unsigned"]["membership"] for e in shown if e.get("state_key") == bob.user_id]
    assert own == ["leave", "join", "invite"]
    assert event(bob, room_id, early).json["unsigned"]["membership"] == "leave"
    assert event(alice, room_id, early).json["unsigned"]["membership"] == "join"
