"""GET /rooms/{roomId}/messages, /event and /context."""

import json
from typing import Any

import pytest

from functions.harness import SERVER_NAME, Answer, User, invoke, payload, register
from functions.rooms import (
    call,
    create_room,
    event,
    follow,
    get,
    make,
    messages,
    path,
    post,
    put,
    redact,
    request,
    say,
    set_state,
    sync,
    texts,
)
from homeserver.matrix.sync_token import RoomToken, SyncToken, user_tag
from homeserver.storage.connection import connection
from homeserver.storage.sync_bases import store_base_request

UNKNOWN_ROOM = f"!unknown:{SERVER_NAME}"
UNKNOWN_EVENT = "$" + "a" * 43


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def all_pages(user: User, room_id: str, **query: Any) -> list[dict[str, Any]]:
    """Every event that paging on to the end brings, and that each page begins where the one before ended."""
    found: list[dict[str, Any]] = []
    for _ in range(200):
        page = messages(user, room_id, **query).json
        assert "from" not in query or page["start"] == query["from"]
        found += page["chunk"]
        if "end" not in page:
            return found
        query["from"] = page["end"]
    raise AssertionError("paging does not end")


def context(user: User, room_id: str, event_id: str, **query: Any) -> Answer:
    return get(user, "rooms", room_id, "context", event_id, **query)


def test_the_documented_payload_reaches_its_endpoint() -> None:
    assert refusal(invoke("client_history", payload("client_history_messages"))) == (401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_pages_in_both_directions_bring_everything_once_and_end(alice: User, limit: int) -> None:
    room_id = create_room(alice)
    say(alice, room_id, *"abcde")
    forwards = all_pages(alice, room_id, dir="f", limit=limit)
    assert [found["type"] for found in forwards[:2]] == ["m.room.create", "m.room.member"]
    assert texts(forwards) == list("abcde")
    assert [found["event_id"] for found in all_pages(alice, room_id, dir="b", limit=limit)] == [
        found["event_id"] for found in reversed(forwards)
    ]


def test_ten_events_are_a_page_unless_told_otherwise(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, *[str(n) for n in range(20)])
    where = path("rooms", room_id, "messages")
    page = request("client_history", "GET", where, token=alice.token, query={"dir": "b"}).json
    assert texts(page["chunk"]) == [str(n) for n in range(19, 9, -1)]
    assert page["start"] != page["end"]


def test_the_start_of_the_history_has_no_end_and_later_events_follow_a_forward_page(alice: User) -> None:
    room_id = create_room(alice)
    assert "end" not in messages(alice, room_id, dir="b").json
    page = messages(alice, room_id, dir="f").json
    assert messages(alice, room_id, dir="f", **{"from": page["end"]}).json == {"chunk": [], "start": page["end"]}
    say(alice, room_id, "later")
    assert texts(messages(alice, room_id, dir="f", **{"from": page["end"]}).json["chunk"]) == ["later"]


def test_a_page_between_a_place_before_an_event_and_the_event_before_it_is_empty_and_the_last(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, "a", "b")
    last = len(all_pages(alice, room_id, dir="f"))
    before_b, behind_a = RoomToken.before(last).encode(), RoomToken(last - 1).encode()
    page = messages(alice, room_id, dir="b", **{"from": before_b, "to": behind_a}).json
    assert page == {"chunk": [], "start": before_b}
    again = messages(alice, room_id, dir="b", **{"from": before_b, "limit": 1}).json
    assert texts(again["chunk"]) == ["a"]


def test_history_of_many_buckets_is_whole(alice: User) -> None:
    initial = [{"type": "org.example.n", "state_key": str(n), "content": {"n": n}} for n in range(200)]
    room_id = create_room(alice, initial_state=initial)
    say(alice, room_id, *[f"m{n}" for n in range(60)])
    everything = all_pages(alice, room_id, dir="f", limit=500)
    assert len(everything) == 266
    assert [found["content"]["n"] for found in everything if found["type"] == "org.example.n"] == list(range(200))
    assert texts(everything) == [f"m{n}" for n in range(60)]
    for limit in (33, 100, 250):
        backwards = all_pages(alice, room_id, dir="b", limit=limit)
        assert [found["event_id"] for found in reversed(backwards)] == [found["event_id"] for found in everything]
    # A filter that hides more than is looked at in one go needs no more than a few pages.
    only = {"types": ["m.room.create"]}
    assert [found["type"] for found in all_pages(alice, room_id, dir="b", limit=5, filter=only)] == ["m.room.create"]


def test_a_page_can_end_at_a_token(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, *"abc")
    middle = messages(alice, room_id, limit=2).json["end"]  # between a and b
    say(alice, room_id, *"de")
    until = messages(alice, room_id, to=middle).json
    assert texts(until["chunk"]) == ["e", "d", "c", "b"]
    assert "end" not in until
    assert texts(messages(alice, room_id, dir="f", to=middle).json["chunk"]) == ["a"]
    assert messages(alice, room_id, dir="f", to=middle, **{"from": middle}).json["chunk"] == []
    assert texts(messages(alice, room_id, dir="f", **{"from": middle}).json["chunk"]) == ["b", "c", "d", "e"]


@pytest.mark.usefixtures("set_up")
def test_tokens_of_sync_are_tokens_of_the_timeline(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    say(alice, room_id, *[f"m{n}" for n in range(15)])
    follow()
    answer = sync(bob, filter={"room": {"timeline": {"limit": 3}}})
    timeline = answer["rooms"]["join"][room_id]["timeline"]
    assert texts(timeline["events"]) == ["m12", "m13", "m14"]
    assert timeline["limited"] is True
    before = messages(bob, room_id, limit=3, **{"from": timeline["prev_batch"]}).json
    assert texts(before["chunk"]) == ["m11", "m10", "m9"]
    since = answer["next_batch"]
    assert texts(messages(bob, room_id, limit=2, **{"from": since}).json["chunk"]) == ["m14", "m13"]
    say(alice, room_id, "new")
    assert texts(messages(bob, room_id, dir="f", **{"from": since}).json["chunk"]) == ["new"]
    assert texts(messages(bob, room_id, limit=9, to=since).json["chunk"]) == ["new"]
    # It is the token of one user, and says nothing of rooms that the user is not in.
    assert refusal(messages(alice, room_id, **{"from": since})) == (400, "M_INVALID_PARAM")


def test_a_sync_token_may_lean_on_a_stored_base(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, "old", "older")
    stored = {0: 7}  # the first slot, told up to "old"
    connection().dispatch("PutItem", store_base_request(alice.user_id, alice.device_id, 3, stored, {}))

    def of_base(number: int) -> str:
        return SyncToken(1, user_tag(alice.user_id), base=number).encode()

    assert texts(messages(alice, room_id, limit=1, **{"from": of_base(3)}).json["chunk"]) == ["old"]
    assert texts(messages(alice, room_id, dir="f", **{"from": of_base(3)}).json["chunk"]) == ["older"]
    # A base that was replaced long ago, and a token of another device.
    assert refusal(messages(alice, room_id, **{"from": of_base(1)})) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    "query",
    [
        {"dir": "x"},
        {"dir": ""},
        {"from": "nonsense"},
        {"from": "t1"},
        {"from": "t-1_0"},
        {"from": "s" + "A" * 50},
        {"from": ""},
        {"to": "t1_1"},
        {"limit": "x"},
        {"limit": "-1"},
        {"limit": "0"},
        {"limit": "1.5"},
        {"filter": "{"},
    ],
)
def test_parameters_that_make_no_sense_are_refused(alice: User, query: dict[str, Any]) -> None:
    room_id = create_room(alice)
    assert refusal(messages(alice, room_id, **query)) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("text", ["[]", '"x"', '{"types":"m.room.message"}', '{"limit":"1"}', '{"senders":[1]}'])
def test_a_filter_of_the_wrong_shape_is_refused(alice: User, text: str) -> None:
    room_id = create_room(alice)
    (sent,) = say(alice, room_id, "x")
    assert refusal(messages(alice, room_id, filter=text)) == (400, "M_BAD_JSON")
    assert refusal(context(alice, room_id, sent, filter=text)) == (400, "M_BAD_JSON")


def test_the_direction_must_be_given(alice: User) -> None:
    where = path("rooms", create_room(alice), "messages")
    assert refusal(request("client_history", "GET", where, token=alice.token)) == (400, "M_INVALID_PARAM")


def test_a_token_beyond_the_end_is_the_end(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, "x")
    assert texts(messages(alice, room_id, **{"from": "t999999_0"}).json["chunk"]) == ["x"]
    assert messages(alice, room_id, dir="f", **{"from": "t999999_0"}).json["chunk"] == []
    assert len(messages(alice, room_id, limit=10**17).json["chunk"]) == 7


def test_a_filter_picks_types_senders_and_links(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    say(alice, room_id, "from alice")
    say(bob, room_id, "from bob")
    put(bob, room_id, "send", "m.room.message", "u", body={"msgtype": "m.file", "body": "f", "url": "mxc://a/b"})
    put(bob, room_id, "send", "m.reaction", "r", body={})

    def found(**wanted: Any) -> list[str]:
        chunk = all_pages(alice, room_id, dir="f", limit=2, filter=wanted)
        return [event["content"].get("body", event["type"]) for event in chunk]

    assert found(types=["m.room.message"]) == ["from alice", "from bob", "f"]
    assert found(types=["m.room.m*"], not_types=["m.room.member"], not_senders=[alice.user_id]) == ["from bob", "f"]
    assert found(types=["m.rea*"]) == ["m.reaction"]
    assert found(senders=[bob.user_id], types=["m.room.message"], contains_url=False) == ["from bob"]
    assert found(contains_url=True) == ["f"]
    assert found(types=[]) == []
    assert found(not_types=["*"]) == []
    assert found(not_rooms=[room_id]) == []
    assert found(rooms=[room_id], types=["m.reaction"]) == ["m.reaction"]


def test_lazily_loaded_members_are_those_who_sent_what_is_shown(alice: User, bob: User) -> None:
    carol = register()
    room_id = create_room(alice, bob, carol)
    say(bob, room_id, "x")
    lazily = {"lazy_load_members": True}
    page = messages(alice, room_id, limit=1, filter=lazily).json
    assert [(member["type"], member["state_key"]) for member in page["state"]] == [("m.room.member", bob.user_id)]
    assert page["state"][0]["content"]["membership"] == "join"
    page = messages(alice, room_id, limit=2, filter=lazily).json
    assert {member["state_key"] for member in page["state"]} == {bob.user_id, carol.user_id}
    assert "state" not in messages(alice, room_id, limit=1).json
    nobody = messages(alice, room_id, filter={**lazily, "types": ["none"]}).json
    assert nobody["chunk"] == []
    assert "state" not in nobody


def test_an_event_is_found_in_its_own_room_only(alice: User, bob: User) -> None:
    room_id, other = create_room(alice), create_room(alice)
    (sent,) = say(alice, room_id, "x")
    shown = event(alice, room_id, sent).json
    assert (shown["event_id"], shown["room_id"], shown["content"]["body"]) == (sent, room_id, "x")
    for room, event_id in ((other, sent), (room_id, UNKNOWN_EVENT), (room_id, "x"), (room_id, "$" + "e" * 3000)):
        assert refusal(event(alice, room, event_id)) == (404, "M_NOT_FOUND")
        assert refusal(context(alice, room, event_id)) == (404, "M_NOT_FOUND")
    # Who may not read the room does not learn whether the event exists.
    assert refusal(event(bob, room_id, sent)) == (404, "M_NOT_FOUND")
    assert refusal(event(bob, room_id, UNKNOWN_EVENT)) == (404, "M_NOT_FOUND")
    assert refusal(context(bob, room_id, sent)) == (403, "M_FORBIDDEN")
    assert refusal(context(bob, room_id, UNKNOWN_EVENT)) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("limit", "before", "after"),
    [
        (0, [], []),
        (1, [], ["e"]),
        (2, ["c"], ["e"]),
        (3, ["c"], ["e", "f"]),
        (4, ["c", "b"], ["e", "f"]),
        (6, ["c", "b", "a"], ["e", "f", "g"]),
    ],
)
def test_the_context_of_an_event_is_half_before_and_half_after(
    alice: User, limit: int, before: list[str], after: list[str]
) -> None:
    room_id = create_room(alice)
    sent = dict(zip("abcdefg", say(alice, room_id, *"abcdefg"), strict=True))
    found = context(alice, room_id, sent["d"], limit=limit).json
    assert found["event"]["content"]["body"] == "d"
    assert (texts(found["events_before"]), texts(found["events_after"])) == (before, after)
    on = messages(alice, room_id, dir="f", limit=1, **{"from": found["end"]}).json["chunk"]
    assert texts(on) == ["abcdefg"[4 + len(after)]] if len(after) < 3 else texts(on) == []
    back = messages(alice, room_id, dir="b", limit=1, **{"from": found["start"]}).json["chunk"]
    assert texts(back) == (["abcdefg"[2 - len(before)]] if len(before) < 3 else [])


def test_the_context_has_the_state_at_its_last_event(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name="Old")
    first, second = say(alice, room_id, "one", "two")
    set_state(alice, room_id, "m.room.name", {"name": "New"})
    (third,) = say(bob, room_id, "three")

    def state_around(event_id: str, **query: Any) -> dict[tuple[str, str], Any]:
        found = context(alice, room_id, event_id, **query).json["state"]
        return {(entry["type"], entry["state_key"]): entry["content"] for entry in found}

    assert state_around(first, limit=1)["m.room.name", ""] == {"name": "Old"}
    assert state_around(second, limit=2)["m.room.name", ""] == {"name": "New"}
    assert {key for kind, key in state_around(third) if kind == "m.room.member"} == {alice.user_id, bob.user_id}
    lazily = state_around(second, limit=0, filter={"lazy_load_members": True})
    assert {key for kind, key in lazily if kind == "m.room.member"} == {alice.user_id}
    assert ("m.room.name", "") in lazily
    assert set(state_around(first, filter={"types": ["m.room.name"]})) == {("m.room.name", "")}


def test_the_filter_of_a_context_does_not_touch_its_event(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    sent = [say(user, room_id, f"m{n}")[0] for n, user in enumerate((alice, bob, alice, bob))]
    found = context(alice, room_id, sent[1], filter={"senders": [alice.user_id], "types": ["m.room.message"]}).json
    assert found["event"]["content"]["body"] == "m1"
    assert (texts(found["events_before"]), texts(found["events_after"])) == (["m0"], ["m2"])


def test_event_ids_of_old_versions_are_found(alice: User) -> None:
    for version in ("1", "3"):
        room_id = create_room(alice, room_version=version)
        (sent,) = say(alice, room_id, f"in {version}")
        assert event(alice, room_id, sent).json["content"]["body"] == f"in {version}"
        assert context(alice, room_id, sent).json["event"]["event_id"] == sent


@pytest.mark.parametrize("rest", ["messages", "event/" + UNKNOWN_EVENT, "context/" + UNKNOWN_EVENT])
def test_rooms_that_cannot_be_read(alice: User, bob: User, rest: str) -> None:
    kind, *more = rest.split("/")
    query = {"dir": "b"} if kind == "messages" else {}
    expected = (404, "M_NOT_FOUND") if kind == "event" else (403, "M_FORBIDDEN")
    room_id = create_room(alice)
    for room in (room_id, UNKNOWN_ROOM):
        assert refusal(get(bob, "rooms", room, kind, *more, **query)) == expected
    for malformed in ("room", "!" + "r" * 300 + ":example.org", "!" + "r" * 3000):
        assert refusal(get(bob, "rooms", malformed, kind, *more, **query)) == (400, "M_INVALID_PARAM")
    where = path("rooms", room_id, kind, *more)
    assert refusal(request("client_history", "GET", where, query=query)) == (401, "M_MISSING_TOKEN")
    assert refusal(request("client_history", "GET", where, query=query, token="x")) == (401, "M_UNKNOWN_TOKEN")
    cut = call("client_history", "GET", f"/_matrix/client/v3/rooms/!a%3Fb:example.org/{rest}", token=alice.token)
    assert refusal(cut) == (400, "M_INVALID_PARAM")


def test_what_is_deeply_nested_can_be_read_back(alice: User) -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    room_id = create_room(alice)
    sent = put(alice, room_id, "send", "org.example.t", "1", body={"deep": deep}).json["event_id"]
    assert json.dumps(event(alice, room_id, sent).json["content"]["deep"]) == json.dumps(deep)
    assert len(messages(alice, room_id).json["chunk"]) == 7
    redact(alice, room_id, sent)
    assert event(alice, room_id, sent).json["content"] == {}


def test_a_room_is_readable_by_whoever_is_in_it_and_nobody_else(alice: User, bob: User) -> None:
    answer = make(alice, invite=[bob.user_id])
    room_id = answer.json["room_id"]
    assert refusal(messages(bob, room_id)) == (403, "M_FORBIDDEN")
    post(bob, room_id, "join")
    assert len(messages(bob, room_id).json["chunk"]) == 8
