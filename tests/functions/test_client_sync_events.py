"""The endpoints before /sync: /events, alone and of one room, and /initialSync; through the waiting loop."""

from typing import Any

import pytest

from contract_check import check
from functions.harness import Answer, User, call, register
from functions.rooms import create_room, follow, get, path, post, redact, say, send, set_state, texts
from functions.syncing import ids, sync
from functions.waiting import Backend, backend
from homeserver.services import initial_sync, legacy_events

__all__ = ["backend"]

pytestmark = pytest.mark.usefixtures("set_up", "backend")
JSON = dict[str, Any]


def ask(user: User | None, endpoint: str, **query: Any) -> Answer:
    """One request to client_sync, whose answer must be what the specification documents."""
    answer = call("client_sync", "GET", path(endpoint), token=user.token if user else None, query=query)
    check("GET", path(endpoint), answer.status, answer.json)
    return answer


def events(user: User, since: str | None = None, **query: Any) -> JSON:
    answer = ask(user, "events", **({"from": since} if since else {}), **query)
    assert answer.status == 200, answer
    body: JSON = answer.json
    assert set(body) == {"start", "end", "chunk"}
    return body


# ── /events ──────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_token_listening_begins_now(alice: User) -> None:
    create_room(alice)
    body = events(alice)
    assert (body["chunk"], body["start"]) == ([], body["end"])


def test_all_events_since_a_token_come_in_order_and_name_their_rooms(alice: User, bob: User) -> None:
    rooms = [create_room(alice, bob) for _ in range(2)]
    follow()
    since = events(bob)["end"]
    sent = [say(alice, rooms[number % 2], f"text {number}")[0] for number in range(4)]
    follow()
    body = events(bob, since)
    assert ids(body["chunk"]) == sent
    assert [event["room_id"] for event in body["chunk"]] == [rooms[number % 2] for number in range(4)]
    assert body["start"] == since
    assert events(bob, body["end"])["chunk"] == []


def test_more_events_than_an_answer_has_come_with_the_next_ones(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy_events, "MOST_EVENTS", 3)
    room_id = create_room(alice, bob)
    follow()
    since = events(bob)["end"]
    sent = say(alice, room_id, *[f"text {number}" for number in range(7)])
    follow()
    told = []
    while body := events(bob, since)["chunk"]:
        told.append(ids(body))
        since = events(bob, since)["end"]
    assert told == [sent[:3], sent[3:6], sent[6:]]


def test_a_wait_ends_with_what_comes(backend: Backend, alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    follow()

    def speak() -> None:
        say(alice, room_id, "hello")
        follow()

    backend.while_asleep = [lambda: None, speak]
    assert texts(events(bob, timeout=20_000)["chunk"]) == ["hello"]
    assert 0.9 <= backend.elapsed <= 1.2


def test_a_wait_for_nothing_ends_with_the_time(backend: Backend, alice: User) -> None:
    since = events(alice)["end"]
    body = events(alice, since, timeout=3_000)
    assert body == {"start": since, "end": since, "chunk": []}
    assert backend.elapsed == pytest.approx(3.0)


def test_account_data_is_no_event_and_ends_no_wait(backend: Backend, alice: User) -> None:
    since = events(alice)["end"]
    where = path("user", alice.user_id, "account_data", "org.example.a")
    assert call("client_user", "PUT", where, {}, token=alice.token).status == 200
    body = events(alice, since, timeout=3_000)
    assert (body["chunk"], backend.elapsed) == ([], pytest.approx(3.0))
    assert body["end"] != since


def test_invitations_joins_and_leaves_are_events(alice: User, bob: User) -> None:
    since = events(bob)["end"]
    room_id = create_room(alice, invite=[bob.user_id])
    say(alice, room_id, "before bob came")
    follow()
    (invited,) = events(bob, since)["chunk"]
    assert (invited["room_id"], invited["content"]["membership"]) == (room_id, "invite")
    since = events(bob, since)["end"]
    post(bob, room_id, "join")
    say(alice, room_id, "welcome")
    post(alice, room_id, "kick", {"user_id": bob.user_id})
    say(alice, room_id, "after bob left")
    follow()
    body = events(bob, since)
    assert [event["content"].get("membership") for event in body["chunk"]] == ["join", None, "leave"]
    assert texts(body["chunk"]) == ["welcome"]
    assert events(bob, body["end"])["chunk"] == []


def test_a_token_of_sync_goes_on_in_events_and_back(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    follow()
    since = sync(bob)["next_batch"]
    say(alice, room_id, "one")
    follow()
    body = events(bob, since)
    assert texts(body["chunk"]) == ["one"]
    say(alice, room_id, "two")
    follow()
    timeline = sync(bob, body["end"])["rooms"]["join"][room_id]["timeline"]
    assert texts(timeline["events"]) == ["two"]


@pytest.mark.parametrize(
    ("query", "errcode"),
    [({"from": "s3456_9_0"}, "M_INVALID_PARAM"), ({"timeout": "soon"}, "M_INVALID_PARAM")],
)
def test_what_is_no_question_is_refused(alice: User, query: JSON, errcode: str) -> None:
    answer = ask(alice, "events", **query)
    assert (answer.status, answer.errcode) == (400, errcode)


@pytest.mark.parametrize("endpoint", ["events", "initialSync"])
def test_a_token_is_needed(endpoint: str) -> None:
    answer = ask(None, endpoint)
    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


# ── /events of one room ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def open_room(alice: User) -> str:
    room_id = create_room(alice, preset="public_chat")
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    say(alice, room_id, "early")
    follow()
    return room_id


def test_an_open_room_can_be_listened_to_by_who_is_not_in_it(backend: Backend, open_room: str, alice: User) -> None:
    stranger = register("stranger")
    at = get(stranger, "rooms", open_room, "initialSync").json["messages"]["end"]
    (sent,) = say(alice, open_room, "hello")
    body = events(stranger, at, room_id=open_room)
    assert (ids(body["chunk"]), body["start"]) == ([sent], at)
    backend.while_asleep = [lambda: None, lambda: say(alice, open_room, "late")]
    assert texts(events(stranger, body["end"], room_id=open_room, timeout=20_000)["chunk"]) == ["late"]
    assert 0.9 <= backend.elapsed <= 1.1


def test_without_a_token_a_room_is_listened_to_from_now_on(backend: Backend, open_room: str) -> None:
    stranger = register("stranger")
    body = events(stranger, room_id=open_room, timeout=2_000)
    assert (body["chunk"], body["start"]) == ([], body["end"])
    assert backend.elapsed == pytest.approx(2.0)


def test_a_room_that_is_not_open_is_not_listened_to(alice: User, bob: User) -> None:
    closed = create_room(alice)
    answer = ask(bob, "events", room_id=closed, timeout=10_000)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    answer = ask(bob, "events", room_id="tea")
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    answer = ask(alice, "events", room_id=closed, **{"from": "nonsense"})
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_a_member_may_listen_to_one_room_with_a_token_of_sync(alice: User, bob: User) -> None:
    rooms = [create_room(alice, bob) for _ in range(2)]
    follow()
    since = sync(bob)["next_batch"]
    for room_id in rooms:
        say(alice, room_id, room_id)
    follow()
    assert texts(events(bob, since, room_id=rooms[0])["chunk"]) == [rooms[0]]


# ── /initialSync ─────────────────────────────────────────────────────────────────────────────────────────


def first(user: User, **query: Any) -> JSON:
    answer = ask(user, "initialSync", **query)
    assert answer.status == 200, answer
    body: JSON = answer.json
    return body


def test_the_first_answer_has_rooms_with_their_state_and_last_messages(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name="Tea", visibility="public")
    sent = say(alice, room_id, "one", "two", "three")
    where = path("user", bob.user_id, "rooms", room_id, "account_data", "m.tag")
    assert call("client_user", "PUT", where, {"tags": {}}, token=bob.token).status == 200
    where = path("user", bob.user_id, "account_data", "m.direct")
    assert call("client_user", "PUT", where, {}, token=bob.token).status == 200
    follow()
    body = first(bob, limit=2)
    assert (body["presence"], body["account_data"]) == ([], [{"type": "m.direct", "content": {}}])
    (room,) = body["rooms"]
    assert (room["room_id"], room["membership"], room["visibility"]) == (room_id, "join", "public")
    assert ids(room["messages"]["chunk"]) == sent[1:]
    whole = {event["event_id"] for event in get(bob, "rooms", room_id, "state").json}
    assert set(ids(room["state"])) == whole
    assert room["account_data"] == [{"type": "m.tag", "content": {"tags": {}}}]
    page = get(bob, "rooms", room_id, "messages", dir="b", limit=1, **{"from": room["messages"]["start"]})
    assert ids(page.json["chunk"]) == sent[:1]
    say(alice, room_id, "four")
    follow()
    assert texts(events(bob, body["end"])["chunk"]) == ["four"]


def test_invitations_are_told_and_left_rooms_only_if_asked_for(alice: User, bob: User) -> None:
    invited, left = create_room(alice, invite=[bob.user_id]), create_room(alice, bob)
    post(bob, left, "leave")
    say(alice, left, "behind bob's back")
    follow()
    (room,) = first(bob)["rooms"]
    assert (room["room_id"], room["membership"]) == (invited, "invite")
    assert (room["invite"]["room_id"], room["invite"]["sender"]) == (invited, alice.user_id)
    rooms = {room["room_id"]: room for room in first(bob, archived="true")["rooms"]}
    assert (set(rooms), rooms[left]["membership"]) == ({invited, left}, "leave")
    assert rooms[left]["messages"]["chunk"][-1]["content"]["membership"] == "leave"
    assert texts(rooms[left]["messages"]["chunk"]) == []


def test_no_messages_are_told_where_none_are_wanted(alice: User) -> None:
    room_id = create_room(alice)
    (secret,) = say(alice, room_id, "secret")
    assert redact(alice, room_id, secret).status == 200
    follow()
    (room,) = first(alice, limit=0)["rooms"]
    assert room["messages"]["chunk"] == []
    (room,) = first(alice, limit=2)["rooms"]
    assert texts(room["messages"]["chunk"]) == [None]


@pytest.mark.parametrize("query", [{"limit": "-1"}, {"limit": "x"}, {"archived": "yes"}])
def test_what_is_no_first_question_is_refused(alice: User, query: JSON) -> None:
    answer = ask(alice, "initialSync", **query)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_what_does_not_fit_into_one_answer_is_refused_and_not_left_out(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_room(alice)
    monkeypatch.setattr(initial_sync, "MOST_BYTES", 100)
    answer = ask(alice, "initialSync")
    assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")


# ── One room, one event: client_history ──────────────────────────────────────────────────────────────────


def test_one_room_is_told_as_it_is(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name="Tea")
    sent = say(alice, room_id, "one", "two")
    follow()
    room = get(bob, "rooms", room_id, "initialSync", limit=2).json
    assert (room["room_id"], room["membership"], room["visibility"]) == (room_id, "join", "private")
    assert ids(room["messages"]["chunk"]) == sent
    assert {event["event_id"] for event in get(bob, "rooms", room_id, "state").json} == set(ids(room["state"]))
    assert room["account_data"] == []
    page = get(bob, "rooms", room_id, "messages", dir="b", limit=1, **{"from": room["messages"]["start"]}).json
    assert page["chunk"][0]["type"] == "m.room.member"
    assert get(bob, "rooms", room_id, "messages", dir="f", **{"from": room["messages"]["end"]}).json["chunk"] == []


def test_a_room_is_told_to_who_may_look_into_it_and_to_nobody_else(open_room: str, alice: User) -> None:
    stranger = register("stranger")
    room = get(stranger, "rooms", open_room, "initialSync").json
    assert "membership" not in room
    assert texts(room["messages"]["chunk"]) == ["early"]
    answer = get(stranger, "rooms", create_room(alice), "initialSync")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    answer = get(alice, "rooms", open_room, "initialSync", limit=0)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_who_left_gets_the_room_as_it_was_then(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name="before")
    post(bob, room_id, "leave")
    set_state(alice, room_id, "m.room.name", {"name": "after"})
    room = get(bob, "rooms", room_id, "initialSync").json
    assert room["membership"] == "leave"
    assert {"name": "before"} in [event["content"] for event in room["state"]]
    assert room["messages"]["chunk"][-1]["content"]["membership"] == "leave"


def test_an_event_is_found_without_its_room(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    sent = send(alice, room_id, "hello", "t").json["event_id"]
    found = get(alice, "events", sent)
    assert (found.status, found.json["event_id"], found.json["room_id"]) == (200, sent, room_id)
    for user, event_id in ((bob, sent), (alice, "$unknown"), (alice, "nonsense")):
        answer = get(user, "events", event_id)
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
