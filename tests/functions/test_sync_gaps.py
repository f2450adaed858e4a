"""A /sync since a token over a gap in which the room's state changed: what it tells, and how many rounds it takes."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.caches import forget_everything
from functions.harness import User, register
from functions.rooms import create_room, follow, post, say, set_state
from functions.syncing import ask, ids, keys, sync
from homeserver.matrix import state_tree
from homeserver.matrix.sync_token import SyncToken
from homeserver.observability import metered
from homeserver.services import sync_changes, sync_rooms
from homeserver.storage import large_rooms, state_nodes, timeline_cache
from homeserver.storage.room_items import HEAD, Head
from homeserver.storage.state_nodes import StateNodes, read_trees

pytestmark = pytest.mark.usefixtures("set_up")
LAZY = {"room": {"state": {"lazy_load_members": True}, "timeline": {"lazy_load_members": True}}}
MESSAGES_ONLY = {"room": {"timeline": {"types": ["m.room.message"]}}}
QUERIES = [
    {},
    {"filter": LAZY},
    {"use_state_after": True, "query": {"use_state_after": "true"}},
    {"filter": MESSAGES_ONLY},
    {"filter": {"room": {"timeline": {"limit": 1}}}},
    {"filter": {"room": {"timeline": {"types": []}}}},
]
NAMED = ["whole", "lazy", "state_after", "messages only", "one event", "no timeline"]


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_tree, "LEAF_LIMIT", 120)


class Moved:
    """A room that moved on since a token of Bob's: its state changed before the last ten events, and among them."""

    def __init__(self, alice: User, bob: User) -> None:
        self.alice, self.bob = alice, bob
        self.carol, self.dave = register("carol"), register("dave")
        self.room_id = create_room(alice, bob, preset="public_chat")
        for number in range(12):
            self.note(number, "first")
        follow()
        self.since = sync(bob)["next_batch"]

    def note(self, number: int, text: str) -> None:
        answer = set_state(self.alice, self.room_id, "org.example.note", {"text": text}, key=f"key {number}")
        assert answer.status == 200

    def move(self) -> None:
        post(self.carol, self.room_id, "join")
        for number in (0, 3, 7):
            self.note(number, "second")
        say(self.alice, self.room_id, *(f"before {number}" for number in range(9)))
        post(self.dave, self.room_id, "join")
        for number in (3, 5):
            self.note(number, "third")
        say(self.carol, self.room_id, "the last", "of all")
        follow()

    def told(self, query: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """What Bob is told by a process that was just started, and in how many rounds."""
        forget_everything()
        with metered() as meter:
            body = sync(self.bob, self.since, **query)
        return body, meter.rounds

    def levels(self) -> int:
        """How many rounds the room's state takes by itself."""
        forget_everything()
        head = Head.fetch(self.room_id, HEAD)
        assert head is not None
        with metered() as meter:
            read_trees(StateNodes(self.room_id), wholes=[bytes(head.root)])
        return meter.rounds


@pytest.fixture
def room(alice: User, bob: User) -> Moved:
    moved = Moved(alice, bob)
    moved.move()
    return moved


@pytest.fixture
def deep_room(deep: None, room: Moved) -> Moved:
    assert room.levels() >= 3
    return room


def rooms_of(body: Any) -> Any:
    """What is told of rooms, but for the time that it took to ask."""
    rooms = json.loads(json.dumps(body["rooms"]))
    for section in rooms.values():
        for told in section.values():
            for part in ("timeline", "state", "state_after"):
                for event in told.get(part, {}).get("events", ()):
                    event.get("unsigned", {}).pop("age", None)
    return rooms


def one_by_one(monkeypatch: pytest.MonkeyPatch, room: Moved, query: dict[str, Any]) -> dict[str, Any]:
    """What Bob is told where nothing is read before it is asked for."""
    with monkeypatch.context() as patch:
        patch.setattr(sync_rooms, "read_changes", lambda _reader, window, *_args, **_more: window)
        return room.told(query)[0]


@pytest.mark.parametrize("query", QUERIES[:3], ids=NAMED[:3])
def test_what_changed_before_and_what_among_the_last_events_is_told_in_four_rounds(
    room: Moved, query: dict[str, Any]
) -> None:
    body, rounds = room.told(query)
    told = body["rooms"]["join"][room.room_id]
    assert told["timeline"]["limited"] is True
    changed = keys((told.get("state") or told["state_after"])["events"])
    assert {("m.room.member", room.carol.user_id), ("org.example.note", "key 0")} <= changed
    assert (("m.room.member", room.dave.user_id) in changed) is ("state_after" in told)
    assert told["summary"]["m.joined_member_count"] == 4
    # The inbox; heads, timelines and where the room was; the state's trees; events.
    assert rounds <= 4


@pytest.mark.parametrize("query", QUERIES, ids=NAMED)
def test_reading_together_tells_what_reading_one_by_one_tells_in_a_round_a_level(
    deep_room: Moved, monkeypatch: pytest.MonkeyPatch, query: dict[str, Any]
) -> None:
    levels, expected = deep_room.levels(), one_by_one(monkeypatch, deep_room, query)
    body, rounds = deep_room.told(query)
    assert rooms_of(body) == rooms_of(expected)
    # Where few events pass the filter one more page of the timeline is looked at.
    assert rounds <= 3 + levels + (query == {"filter": MESSAGES_ONLY})


@pytest.mark.parametrize("query", QUERIES, ids=NAMED)
def test_eventual_reads_that_miss_and_events_that_do_not_say_what_they_replaced_change_no_answer(
    deep_room: Moved, monkeypatch: pytest.MonkeyPatch, query: dict[str, Any]
) -> None:
    expected = one_by_one(monkeypatch, deep_room, query)
    monkeypatch.setattr(timeline_cache, "learn_root", lambda _room, _position: None)
    monkeypatch.setattr(sync_changes, "learn_root", lambda _room, _position: None)
    monkeypatch.setattr(sync_changes, "learn_counts", lambda _rooms: None)
    monkeypatch.setattr(state_nodes, "read_ahead", lambda _roots: None)
    monkeypatch.setattr(sync_changes, "_replaced", lambda _window: {("org.example.note", "key 3"): "$another"})
    assert rooms_of(deep_room.told(query)[0]) == rooms_of(expected)


def test_a_join_that_is_shown_costs_one_round_for_the_stored_counts_beside_the_first_level(room: Moved) -> None:
    room.since = sync(room.bob, room.since)["next_batch"]
    post(register("erin"), room.room_id, "join")
    follow()
    body, rounds = room.told({})
    told = body["rooms"]["join"][room.room_id]
    assert told["timeline"]["limited"] is False
    assert told["summary"]["m.joined_member_count"] == 5
    assert rounds <= 4


class TestALargeRoom:
    """Its slot is marked: where the room is only its head says."""

    @pytest.fixture(autouse=True)
    def large(self, monkeypatch: pytest.MonkeyPatch, deep: None) -> None:
        monkeypatch.setattr(large_rooms, "LARGE_FROM", 2)
        monkeypatch.setattr(large_rooms, "LARGE_UNTIL", 2)

    @pytest.fixture
    def large_room(self, alice: User, bob: User, large: None) -> Moved:
        moved = Moved(alice, bob)
        post(moved.carol, moved.room_id, "join")
        follow()
        moved.since = sync(bob, moved.since)["next_batch"]
        post(moved.carol, moved.room_id, "leave")
        moved.move()
        return moved

    @pytest.mark.parametrize("query", QUERIES[:3], ids=NAMED[:3])
    def test_the_round_for_its_head_saves_one_of_the_levels(
        self, large_room: Moved, monkeypatch: pytest.MonkeyPatch, query: dict[str, Any]
    ) -> None:
        levels, expected = large_room.levels(), one_by_one(monkeypatch, large_room, query)
        body, rounds = large_room.told(query)
        assert rooms_of(body) == rooms_of(expected)
        assert large_room.room_id in body["rooms"]["join"]
        assert rounds <= 3 + levels

    def test_a_token_that_claims_more_than_there_is_of_it_is_refused(self, large_room: Moved) -> None:
        honest = SyncToken.decode(large_room.since, user_id=large_room.bob.user_id)
        claims = replace(honest, positions=dict.fromkeys(honest.positions, 2**62))
        forget_everything()
        assert ask(large_room.bob, claims.encode())["status"] == 400


def test_the_state_at_the_start_of_the_timeline_is_worked_out_and_not_read(
    deep_room: Moved, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: list[bytes] = []
    take_back: Callable = sync_changes.take_back

    def taken(room_id: str, now: bytes, replaced: dict, earlier: bytes) -> bool:
        assert not state_nodes.is_known(room_id, earlier)
        assert take_back(room_id, now, replaced, earlier)
        start.append(earlier)
        return True

    monkeypatch.setattr(sync_changes, "take_back", taken)
    body, _ = deep_room.told({})
    assert len(ids(body["rooms"]["join"][deep_room.room_id]["timeline"]["events"])) == 10
    assert len(start) == 1
    assert state_nodes.is_known(deep_room.room_id, start[0])
