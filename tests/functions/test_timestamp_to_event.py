"""GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest

from functions import rooms
from functions.harness import Answer, User, call
from functions.rooms import create_room, messages, post, redact, request, say, set_state
from homeserver.matrix.event_codec import pack, unpack
from homeserver.observability import Meter, counting_on
from homeserver.storage.connection import query_range
from homeserver.storage.room_items import HEAD, Head, TimelineEntry, bucket_of

HOUR = 3_600_000
NOON = 1_700_000_000_000


def ask(user: User, room_id: str, ts: Any, direction: str | None = "f") -> Answer:
    query = {name: value for name, value in (("ts", ts), ("dir", direction)) if value is not None}
    where = f"/_matrix/client/v1/rooms/{quote(room_id, safe='')}/timestamp_to_event"
    return request("client_history", "GET", where, token=user.token, query=query)


def found(user: User, room_id: str, ts: int, direction: str) -> tuple[str, int] | None:
    answer = ask(user, room_id, ts, direction)
    if (answer.status, answer.errcode) == (404, "M_NOT_FOUND"):
        return None
    assert answer.status == 200, answer
    return answer.json["event_id"], answer.json["origin_server_ts"]


def set_clock(room_id: str, clock: Callable[[int], int]) -> list[tuple[str, int]]:
    """Give every event the time that the clock says at its position; (event ID, time) of all, in their order."""
    timeline = []
    last = int(Head.fetch(room_id, HEAD).position)  # type: ignore[union-attr] - the room is there
    for bucket in dict.fromkeys(bucket_of(room_id, position) for position in range(1, last + 1)):
        for entry in query_range(TimelineEntry, bucket, consistent=True):
            ts = clock(int(entry.position))
            packed = pack({**unpack(entry.packed), "origin_server_ts": ts})
            entry.update([TimelineEntry.packed.set(packed), TimelineEntry.arrived.set(ts)])
            timeline.append((str(entry.event_id), ts))
    return timeline


def lengthen(room_id: str, last: int, clock: Callable[[int], int]) -> None:
    """Give the room copies of its last event up to a position: only the timeline, and the head that counts it."""
    head = Head.fetch(room_id, HEAD)
    assert head is not None
    position = int(head.position)
    entry = TimelineEntry.fetch(bucket_of(room_id, position), position)
    assert entry is not None
    pdu = unpack(entry.packed)
    with TimelineEntry.batch_write() as batch:
        for copy in range(position + 1, last + 1):
            raw = TimelineEntry(
                bucket_of(room_id, copy),
                copy,
                event_id=f"$copy{copy}",
                packed=pack({**pdu, "origin_server_ts": clock(copy)}),
                room_root=entry.room_root,
                arrived=clock(copy),
            )
            batch.save(raw)
    head.update([Head.position.set(last)])


@pytest.fixture
def room_id(alice: User) -> str:
    made = create_room(alice, preset="public_chat")
    say(alice, made, *[f"m{number}" for number in range(6)])
    return made


def test_the_closest_event_in_either_direction_is_found(alice: User, room_id: str) -> None:
    timeline = set_clock(room_id, lambda position: NOON + position * HOUR)
    for (before, early), (after, late) in pairwise(timeline):
        assert found(alice, room_id, early, "f") == found(alice, room_id, early, "b") == (before, early)
        assert found(alice, room_id, early + 1, "f") == (after, late)
        assert found(alice, room_id, late - 1, "b") == (before, early)
    assert found(alice, room_id, 0, "f") == timeline[0]
    assert found(alice, room_id, 10**16, "b") == timeline[-1]


def test_there_is_nothing_before_the_first_and_after_the_last_event(alice: User, room_id: str) -> None:
    timeline = set_clock(room_id, lambda position: NOON + position * HOUR)
    answer = ask(alice, room_id, timeline[-1][1] + 1, "f")
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    assert found(alice, room_id, timeline[0][1] - 1, "b") is None
    assert found(alice, room_id, -5, "b") is None


def test_of_events_of_the_same_time_the_first_on_the_way_is_found(alice: User, room_id: str) -> None:
    timeline = set_clock(room_id, lambda _: NOON)
    assert found(alice, room_id, NOON, "f") == timeline[0]
    assert found(alice, room_id, NOON, "b") == timeline[-1]


def test_what_counts_is_the_time_that_the_event_says_and_not_its_place(alice: User, room_id: str) -> None:
    timeline = set_clock(room_id, lambda position: NOON + (-position if position % 2 else position) * HOUR)
    for ts in (NOON - 4 * HOUR, NOON, NOON + 3 * HOUR):
        later = [entry for entry in timeline if entry[1] >= ts]
        assert found(alice, room_id, ts, "f") == min(later, key=lambda entry: entry[1])
        earlier = [entry for entry in timeline if entry[1] <= ts]
        assert found(alice, room_id, ts, "b") == max(earlier, key=lambda entry: entry[1])


def test_a_redacted_event_still_marks_its_time(alice: User, room_id: str) -> None:
    event_id = messages(alice, room_id).json["chunk"][0]["event_id"]
    assert redact(alice, room_id, event_id).status == 200
    timeline = set_clock(room_id, lambda position: NOON + position * HOUR)
    assert timeline[-2][0] == event_id
    assert found(alice, room_id, timeline[-2][1], "f") == timeline[-2]


def test_only_what_the_reader_may_see_is_found(alice: User, bob: User, room_id: str) -> None:
    assert set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"}).status == 200
    say(alice, room_id, "hidden")
    assert post(bob, room_id, "join").status == 200
    say(alice, room_id, "seen")
    timeline = set_clock(room_id, lambda position: NOON + position * HOUR)
    names = [event["event_id"] for event in messages(bob, room_id, dir="f").json["chunk"]]
    hidden, seen = timeline[-3], timeline[-1]
    assert hidden[0] not in names
    assert found(alice, room_id, hidden[1], "f") == hidden
    assert found(bob, room_id, hidden[1], "f") == timeline[-2]  # his own join
    assert found(bob, room_id, seen[1], "b") == seen
    # Up to the change of the history visibility everybody sees everything.
    assert found(bob, room_id, hidden[1], "b") == timeline[-4]


def test_who_left_finds_nothing_that_came_later(alice: User, bob: User, room_id: str) -> None:
    post(bob, room_id, "join")
    post(bob, room_id, "leave")
    say(alice, room_id, "later")
    timeline = set_clock(room_id, lambda position: NOON + position * HOUR)
    assert found(bob, room_id, timeline[-1][1], "f") is None
    assert found(bob, room_id, timeline[-1][1], "b") == timeline[-2]


def test_a_room_that_one_cannot_read_is_forbidden(alice: User, bob: User, room_id: str) -> None:
    for room in (room_id, "!nowhere:example.org"):
        answer = ask(bob, room, NOON)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("ts", "direction", "errcode"),
    [
        (None, "f", "M_MISSING_PARAM"),
        ("noon", "f", "M_INVALID_PARAM"),
        ("1.5", "f", "M_INVALID_PARAM"),
        (NOON, "x", "M_INVALID_PARAM"),
        (NOON, None, "M_INVALID_PARAM"),
    ],
)
def test_parameters_that_cannot_be_used(
    alice: User, room_id: str, ts: Any, direction: str | None, errcode: str
) -> None:
    answer = ask(alice, room_id, ts, direction)
    assert (answer.status, answer.errcode) == (400, errcode)


def test_it_needs_a_token_and_exists_only_under_v1(alice: User, room_id: str) -> None:
    where = f"rooms/{quote(room_id, safe='')}/timestamp_to_event?ts=0&dir=f"
    answer = request("client_history", "GET", f"/_matrix/client/v1/{where}")
    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")
    answer = call("client_history", "GET", f"{rooms.V3}/{where}", token=alice.token)
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


def test_what_is_read_grows_with_the_logarithm_of_the_history(alice: User, room_id: str) -> None:
    def clock(position: int) -> int:
        # One clock in a hundred is years wrong: that leads nobody astray.
        return NOON + position * HOUR if position % 100 != 50 else 0

    set_clock(room_id, clock)
    rounds = {}
    for last in (400, 3000):
        lengthen(room_id, last, clock)
        for position in (20, last // 3, last - 3):
            meter = Meter()
            with counting_on(meter):
                assert found(alice, room_id, clock(position), "f") == (f"$copy{position}", clock(position))
            rounds[last, position] = meter.rounds
    # Token, reader, one round for each factor of ten above a hundred, and what is around the place.
    assert max(count for (last, _), count in rounds.items() if last == 400) <= 5
    assert max(count for (last, _), count in rounds.items() if last == 3000) <= 6
