"""The order of history before an anchor."""

from typing import Any

from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import V1, V11
from homeserver.services.backfill_order import gap_after, newest_first, reachable


def made(event_id: str, *prev: str, depth: int = 1, ts: int = 0, **more: Any) -> Event:
    pdu = {"prev_events": list(prev), "depth": depth, "origin_server_ts": ts, "type": "m.room.message", **more}
    return Event(event_id, "!r", pdu, V11)


def graph(*events: Event) -> dict[str, Event]:
    return {event.event_id: event for event in events}


def ids(events: Any) -> list[str]:
    return [event.event_id for event in events]


def test_an_event_comes_behind_all_that_refer_to_it_whatever_depth_and_clock_say() -> None:
    events = graph(made("a", depth=99, ts=99), made("b", "a", depth=1, ts=1), made("c", "a", "b", depth=50))
    assert ids(newest_first(events)) == ["c", "b", "a"]


def test_between_forks_the_depth_decides_and_then_the_clock() -> None:
    events = graph(made("a", depth=1), made("b", "a", depth=2, ts=1), made("c", "a", depth=3), made("d", "a", depth=2))
    assert ids(newest_first(events)) == ["c", "b", "d", "a"]


def test_what_is_part_of_a_circle_is_left_out_with_what_is_before_it() -> None:
    events = {
        event_id: Event(event_id, "!r", {**made(event_id, *prev).pdu, "prev_events": [[i, {}] for i in prev]}, V1)
        for event_id, prev in {"top": ["x"], "x": ["y"], "y": ["x", "old"], "old": []}.items()
    }
    assert ids(newest_first(events)) == ["top"]


def test_only_what_the_extremities_lead_to_counts() -> None:
    events = graph(made("a"), made("b", "a"), made("c", "b"), made("newer", "c"), made("other"))
    assert list(reachable(["b", "missing"], events, ())) == ["b", "a"]
    assert list(reachable(["c"], events, {"b"})) == ["c"]
    assert list(reachable(["c"], events, {"c"})) == []


def test_the_gap_is_what_is_referred_to_and_unknown() -> None:
    placed = [made("c", "b", "x"), made("b", "a", "known")]
    assert gap_after(["c", "far"], placed, {"known"}) == ["far", "x", "a"]
    assert gap_after(["c"], [made("c")], ()) == []
