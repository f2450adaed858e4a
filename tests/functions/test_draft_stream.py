"""The event stream of the 2014 draft: /initialSync, and /events that go on from there."""

import random
from typing import Any

import pytest

from functions.draft_reading import JSON, OLD_L, events, give_alias, publish, react, read, room_in, snapshot
from functions.ephemeral import type_in
from functions.harness import User, call, register
from functions.rooms import create_room, follow, path, post, say, set_state, state, texts
from functions.syncing import ids, sync
from functions.waiting import Backend, backend
from homeserver.services import draft_stream

__all__ = ["backend"]

pytestmark = pytest.mark.usefixtures("set_up", "backend")


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    made = create_room(alice, bob)
    follow()
    return made


# ── /initialSync ─────────────────────────────────────────────────────────────


def test_a_room_is_told_with_its_last_messages_and_its_state(alice: User, bob: User, room_id: str) -> None:
    sent = say(alice, room_id, *[f"text {number}" for number in range(4)])
    follow()
    body = snapshot(bob, limit=3)
    assert set(body) == {"end", "rooms", "presence"}
    assert body["presence"] == []
    room = room_in(body, room_id)
    assert set(room) == {"room_id", "membership", "visibility", "messages", "state"}
    assert (room["membership"], room["visibility"]) == ("join", "private")
    assert ids(room["messages"]["chunk"]) == sent[1:]
    assert {event["type"] for event in room["state"]} >= {"m.room.create", "m.room.member", "m.room.power_levels"}
    before = read(bob, "rooms", room_id, "messages", **{"from": room["messages"]["start"], "dir": "b", "limit": 1})
    assert ids(before.json["chunk"]) == sent[:1]


def test_without_a_limit_ten_messages_are_told_and_with_none_none(alice: User, room_id: str) -> None:
    say(alice, room_id, *[f"text {number}" for number in range(12)])
    follow()
    assert len(room_in(snapshot(alice), room_id)["messages"]["chunk"]) == 10
    assert room_in(snapshot(alice, limit=0), room_id)["messages"]["chunk"] == []


def test_events_have_what_the_draft_has_at_the_top_and_nothing_is_missing(alice: User, room_id: str) -> None:
    (event_id,) = say(alice, room_id, "hello")
    set_state(alice, room_id, "m.room.topic", {"topic": "one"})
    set_state(alice, room_id, "m.room.topic", {"topic": "two"})
    follow()
    message, _, topic = room_in(snapshot(alice, limit=3), room_id)["messages"]["chunk"]
    assert message["event_id"] == event_id
    assert message["user_id"] == message["sender"] == alice.user_id
    assert message["room_id"] == room_id
    assert 0 <= message["age"] <= 60_000
    assert message["age"] == message["unsigned"]["age"] or abs(message["age"] - message["unsigned"]["age"]) < 1000
    assert "required_power_level" not in message
    assert topic["required_power_level"] == 50
    assert topic["prev_content"] == {"topic": "one"}


def test_an_invitation_names_who_sent_it(alice: User, bob: User) -> None:
    invited = create_room(alice, invite=[bob.user_id])
    publish(alice, invited)
    follow()
    assert snapshot(bob)["rooms"] == [
        {"room_id": invited, "membership": "invite", "inviter": alice.user_id, "visibility": "public"}
    ]


def test_the_state_announces_the_aliases_of_this_server(alice: User, room_id: str) -> None:
    create = next(e for e in room_in(snapshot(alice), room_id)["state"] if e["type"] == "m.room.create")
    assert "m.room.aliases" not in {event["type"] for event in room_in(snapshot(alice), room_id)["state"]}
    aliases = [give_alias(alice, room_id, name) for name in ("tea", "chai")]
    (told,) = [e for e in room_in(snapshot(alice), room_id)["state"] if e["type"] == "m.room.aliases"]
    assert told["state_key"] == "example.org"
    assert told["content"] == {"aliases": sorted(aliases)}
    assert (told["user_id"], told["room_id"], told["event_id"][0]) == (create["user_id"], room_id, "$")
    # It is no state of the room: for clients of today it is not there.
    assert state(alice, room_id, "m.room.aliases", "example.org").status == 404


@pytest.mark.parametrize(("version", "level"), [("11", 100), ("12", 9007199254740991)])
def test_levels_are_flat_here_and_as_they_are_there(alice: User, version: str, level: int) -> None:
    made = create_room(alice, room_version=version)
    follow()
    (told,) = [e for e in room_in(snapshot(alice), made)["state"] if e["type"] == "m.room.power_levels"]
    assert told["content"] == {alice.user_id: level, "default": 0}
    modern = state(alice, made, "m.room.power_levels").json
    assert modern["users"] == ({alice.user_id: 100} if version == "11" else {})
    assert {"ban", "events", "state_default"} <= set(modern)


def test_rooms_that_were_left_are_not_told(alice: User, bob: User, room_id: str) -> None:
    post(bob, room_id, "leave")
    follow()
    assert snapshot(bob)["rooms"] == []


def test_a_limit_that_is_no_number_is_refused(alice: User) -> None:
    assert read(alice, "initialSync", limit="ten").errcode == "M_INVALID_PARAM"
    assert read(alice, "initialSync", feedback="maybe").status == 400


# ── /events ──────────────────────────────────────────────────────────────────


def test_events_go_on_where_the_snapshot_ended(alice: User, bob: User, room_id: str) -> None:
    say(alice, room_id, "before")
    follow()
    since = snapshot(bob)["end"]
    assert events(bob, since)["chunk"] == []
    sent = say(alice, room_id, "one", "two")
    follow()
    body = events(bob, since)
    assert ids(body["chunk"]) == sent
    assert body["start"] == since
    assert [event["user_id"] for event in body["chunk"]] == [alice.user_id] * 2
    assert all(event["room_id"] == room_id and event["age"] >= 0 for event in body["chunk"])
    assert events(bob, body["end"])["chunk"] == []


def test_a_token_can_be_used_again_and_tells_the_same(alice: User, bob: User, room_id: str) -> None:
    since = snapshot(bob)["end"]
    say(alice, room_id, "one")
    follow()
    first, second = events(bob, since), events(bob, since)
    assert ids(first["chunk"]) == ids(second["chunk"])
    assert (first["start"], first["end"]) == (second["start"], second["end"])


def test_no_more_than_the_limit_is_told_and_the_rest_comes_next(alice: User, bob: User) -> None:
    rooms = [create_room(alice, bob) for _ in range(2)]
    follow()
    since = snapshot(bob)["end"]
    sent = [say(alice, rooms[number % 2], f"text {number}")[0] for number in range(7)]
    follow()
    told = []
    while chunk := (body := events(bob, since, limit=3))["chunk"]:
        told.append(ids(chunk))
        since = body["end"]
    assert told == [sent[:3], sent[3:6], sent[6:]]


def test_what_the_reader_may_not_see_does_not_hold_up_the_rest(alice: User, bob: User, room_id: str) -> None:
    ignored = register("noisy")
    post(alice, room_id, "invite", {"user_id": ignored.user_id})
    post(ignored, room_id, "join")
    ignore(bob, ignored)
    follow()
    since = snapshot(bob)["end"]
    for number in range(4):
        say(ignored, room_id, f"noise {number}")
    (event_id,) = say(alice, room_id, "tea?")
    follow()
    body = events(bob, since, limit=1)
    assert ids(body["chunk"]) == [event_id]
    assert events(bob, body["end"])["chunk"] == []


def ignore(user: User, other: User) -> None:
    where = path("user", user.user_id, "account_data", "m.ignored_user_list")
    body = {"ignored_users": {other.user_id: {}}}
    assert call("client_user", "PUT", where, body, token=user.token).status == 200


@pytest.mark.parametrize("since", [None, "END"])
def test_without_a_token_listening_begins_now(alice: User, bob: User, room_id: str, since: str | None) -> None:
    say(alice, room_id, "before")
    follow()
    body = events(bob, since)
    assert (body["chunk"], body["start"]) == ([], body["end"])
    sent = say(alice, room_id, "after")
    follow()
    assert ids(events(bob, body["end"])["chunk"]) == sent


def test_from_the_start_is_from_the_last_events_of_all_rooms(alice: User, bob: User, room_id: str) -> None:
    other = create_room(alice, bob)
    sent = [say(alice, [room_id, other][number % 2], f"text {number}")[0] for number in range(6)]
    follow()
    body = events(bob, "START", limit=4)
    assert ids(body["chunk"]) == sent[2:]
    assert events(bob, body["end"])["chunk"] == []
    # The token that stands for it tells no less.
    assert ids(events(bob, body["start"])["chunk"])[-4:] == sent[2:]
    whole = events(bob, "START")["chunk"]
    assert [event["event_id"] for event in whole if event["event_id"] in sent] == sent
    assert {event["type"] for event in whole} >= {"m.room.member", "m.room.message"}


def test_from_the_start_tells_no_room_that_was_left(alice: User, bob: User, room_id: str) -> None:
    say(alice, room_id, "farewell")
    post(bob, room_id, "leave")
    follow()
    assert events(bob, "START")["chunk"] == []


def test_a_wait_ends_with_what_comes(backend: Backend, alice: User, bob: User, room_id: str) -> None:
    since = snapshot(bob)["end"]

    def speak() -> None:
        say(alice, room_id, "hello")
        follow()

    backend.while_asleep = [lambda: None, speak]
    assert texts(events(bob, since, timeout=20_000)["chunk"]) == ["hello"]
    assert 0.9 <= backend.elapsed <= 1.2


@pytest.mark.parametrize(("timeout", "seconds"), [(0, 0.0), (300, 0.3), (3_000, 3.0), (120_000, 25.0)])
def test_a_wait_for_nothing_takes_as_long_as_was_said(
    backend: Backend, alice: User, timeout: int, seconds: float
) -> None:
    since = snapshot(alice)["end"]
    body = events(alice, since, timeout=timeout)
    assert body == {"start": since, "end": since, "chunk": []}
    assert backend.elapsed == pytest.approx(seconds)


def test_who_says_nothing_of_a_time_waits_for_as_long_as_this_server_can(backend: Backend, alice: User) -> None:
    since = snapshot(alice)["end"]
    answer = read(alice, "events", **{"from": since})
    assert (answer.status, answer.json["chunk"]) == (200, [])
    assert backend.elapsed == pytest.approx(25.0)


def test_without_a_token_one_waits_for_what_comes_from_now_on(backend: Backend, alice: User, room_id: str) -> None:
    def speak() -> None:
        say(alice, room_id, "hello")
        follow()

    backend.while_asleep = [speak]
    assert texts(events(alice, timeout=5_000)["chunk"]) == ["hello"]


@pytest.mark.parametrize("timeout", ["-1", "soon", "1.5", ""])
def test_a_timeout_that_is_no_number_is_refused(alice: User, timeout: str) -> None:
    answer = read(alice, "events", timeout=timeout)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_of_events_is_a_number_above_zero(alice: User, limit: str) -> None:
    answer = read(alice, "events", timeout="0", limit=limit)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("timeout", ["0", "1000"])
@pytest.mark.parametrize("token", ["l1_84_3_9", "s3456_9_0", "t5_0", "start"])
def test_what_is_no_token_of_the_stream_is_bad_pagination(alice: User, token: str, timeout: str) -> None:
    answer = read(alice, "events", timeout=timeout, **{"from": token})
    assert (answer.status, answer.errcode) == (400, "M_BAD_PAGINATION")
    assert answer.json["error"]


def test_the_token_of_another_user_is_bad_pagination(alice: User, bob: User) -> None:
    answer = read(alice, "events", timeout="0", **{"from": snapshot(bob)["end"]})
    assert (answer.status, answer.errcode) == (400, "M_BAD_PAGINATION")


def test_a_token_of_sync_goes_on_here_and_back(alice: User, bob: User, room_id: str) -> None:
    since = sync(bob)["next_batch"]
    say(alice, room_id, "one")
    follow()
    body = events(bob, since)
    assert texts(body["chunk"]) == ["one"]
    say(alice, room_id, "two")
    follow()
    assert texts(sync(bob, body["end"])["rooms"]["join"][room_id]["timeline"]["events"]) == ["two"]


def test_invitation_join_and_leave_are_told_and_leaving_ends_it(alice: User, bob: User) -> None:
    since = snapshot(bob)["end"]
    made = create_room(alice, invite=[bob.user_id])
    say(alice, made, "before bob came")
    follow()
    body = events(bob, since)
    (invited,) = body["chunk"]
    assert (invited["room_id"], invited["content"]["membership"]) == (made, "invite")
    assert (invited["state_key"], invited["user_id"]) == (bob.user_id, alice.user_id)
    post(bob, made, "join")
    say(alice, made, "welcome")
    post(alice, made, "kick", {"user_id": bob.user_id})
    say(alice, made, "after bob left")
    follow()
    body = events(bob, body["end"])
    assert [event["content"].get("membership") for event in body["chunk"]] == ["join", None, "leave"]
    assert texts(body["chunk"]) == ["welcome"]
    assert body["chunk"][0]["prev_content"]["membership"] == "invite"
    say(alice, made, "much later")
    follow()
    assert events(bob, body["end"])["chunk"] == []


def test_a_ban_is_told_to_who_is_banned(alice: User, bob: User, room_id: str) -> None:
    since = snapshot(bob)["end"]
    post(alice, room_id, "ban", {"user_id": bob.user_id, "reason": "tea"})
    follow()
    (event,) = events(bob, since)["chunk"]
    assert event["content"] == {"membership": "ban", "reason": "tea"}


def test_who_is_ignored_is_not_heard_but_their_state_is(alice: User, bob: User, room_id: str) -> None:
    since = snapshot(bob)["end"]
    ignore(bob, alice)
    say(alice, room_id, "unheard")
    set_state(alice, room_id, "m.room.name", {"name": "Tea"})
    follow()
    assert [event["type"] for event in events(bob, since)["chunk"]] == ["m.room.name"]


def test_a_level_that_changes_is_told_flat_with_what_it_takes(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, room_version="11")
    follow()
    since = snapshot(bob)["end"]
    levels = state(alice, room_id, "m.room.power_levels").json
    levels["users"][bob.user_id] = 50
    levels["state_default"] = 70
    set_state(alice, room_id, "m.room.power_levels", levels)
    set_state(alice, room_id, "m.room.name", {"name": "Tea"})
    follow()
    changed, named = events(bob, since)["chunk"]
    assert changed["content"] == {alice.user_id: 100, bob.user_id: 50, "default": 0}
    assert changed["prev_content"] == {alice.user_id: 100, "default": 0}
    # What the event of its type takes, and what any other does.
    assert (changed["required_power_level"], named["required_power_level"]) == (100, 50)
    set_state(alice, room_id, "org.example.other", {})
    follow()
    assert events(bob, since)["chunk"][-1]["required_power_level"] == 70


def test_typing_is_told_and_that_it_ended(backend: Backend, alice: User, bob: User, room_id: str) -> None:
    since = snapshot(bob)["end"]
    type_in(alice, room_id)
    body = events(bob, since)
    assert body["chunk"] == [{"type": "m.typing", "room_id": room_id, "content": {"user_ids": [alice.user_id]}}]
    type_in(alice, room_id, typing=False)
    body = events(bob, body["end"])
    assert body["chunk"] == [{"type": "m.typing", "room_id": room_id, "content": {"user_ids": []}}]


def test_who_types_while_the_snapshot_is_taken_is_told_first(alice: User, bob: User, room_id: str) -> None:
    type_in(alice, room_id)
    follow()
    (event,) = events(bob, snapshot(bob)["end"])["chunk"]
    assert event["content"] == {"user_ids": [alice.user_id]}


def test_receipts_are_told_here_and_those_of_others_only_if_they_are_public(
    alice: User, bob: User, room_id: str
) -> None:
    since = snapshot(bob)["end"]
    first, second = say(alice, room_id, "one", "two")
    follow()
    since = events(bob, since)["end"]
    react(alice, room_id, first)
    react(alice, room_id, second, "m.read.private")
    body = events(bob, since)
    (receipt,) = body["chunk"]
    assert (receipt["type"], receipt["room_id"]) == ("m.receipt", room_id)
    assert set(receipt["content"]) == {first}
    assert set(receipt["content"][first]["m.read"]) == {alice.user_id}


def test_a_room_that_does_not_fit_comes_with_the_next_answer(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = [create_room(alice, bob) for _ in range(3)]
    follow()
    since = snapshot(bob)["end"]
    sent = {say(alice, room, f"to {room}")[0] for room in rooms}
    react(alice, rooms[0], next(iter(say(alice, rooms[0], "more"))))
    follow()
    monkeypatch.setattr(draft_stream, "MOST_BYTES", 1)
    told: list[JSON] = []
    while chunk := (body := events(bob, since))["chunk"]:
        assert len({event["room_id"] for event in chunk}) == 1
        told += chunk
        since = body["end"]
    assert {event["event_id"] for event in told if event["type"] == "m.room.message"} >= sent
    assert [event["type"] for event in told].count("m.receipt") == 1


def test_the_older_prefix_answers_the_same(alice: User, bob: User, room_id: str) -> None:
    since = read(bob, "initialSync", prefix=OLD_L).json["end"]
    sent = say(alice, room_id, "hello")
    follow()
    answer = read(bob, "events", prefix=OLD_L, **{"from": since, "timeout": "0"})
    assert ids(answer.json["chunk"]) == sent


def test_the_api_of_today_never_gets_the_drafts_keys(alice: User, bob: User, room_id: str) -> None:
    since = sync(bob)["next_batch"]
    say(alice, room_id, "one")
    set_state(alice, room_id, "m.room.name", {"name": "Tea"})
    follow()
    told: list[Any] = sync(bob, since)["rooms"]["join"][room_id]["timeline"]["events"]
    answer = call("client_sync", "GET", path("events"), token=bob.token, query={"from": since, "timeout": "0"})
    for event in [*told, *answer.json["chunk"]]:
        assert not {"user_id", "age", "prev_content", "required_power_level", "feedback"} & set(event)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_each_event_is_told_once_and_in_the_rooms_order(alice: User, bob: User, seed: int) -> None:
    """A random afternoon, told in pieces of random size: what is missing or told twice would show."""
    chance = random.Random(seed)
    rooms = [create_room(alice, bob) for _ in range(2)]
    follow()
    body = snapshot(bob, limit=100)
    seen = {room: ids(room_in(body, room)["messages"]["chunk"]) for room in rooms}
    since = body["end"]

    def listen() -> list[JSON]:
        nonlocal since
        told = events(bob, since, limit=chance.choice([1, 2, 5, 100]))
        since = told["end"]
        for event in told["chunk"]:
            if "event_id" in event and event["room_id"] in seen:
                seen[event["room_id"]].append(event["event_id"])
        chunk: list[JSON] = told["chunk"]
        return chunk

    for number in range(30):
        room = chance.choice(rooms)
        match chance.randrange(7):
            case 0 | 1:
                say(alice, room, *[f"{number}.{part}" for part in range(chance.randrange(1, 4))])
            case 2:
                say(bob, room, f"{number}")
            case 3:
                set_state(alice, room, "m.room.topic", {"topic": str(number)})
            case 4:
                (event_id,) = say(alice, room, f"{number}")
                react(alice, room, event_id)
            case 5:
                type_in(alice, room, typing=chance.random() < 0.5)
            case 6:
                listen()
        if chance.random() < 0.6:
            follow()
    follow()
    while listen():
        pass
    for room in rooms:
        history = read(bob, "rooms", room, "messages", dir="f", limit=100, **{"from": "START"}).json["chunk"]
        assert seen[room] == ids(history)
