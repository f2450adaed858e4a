"""In which order history lies before an anchor: whatever an event refers to lies further back than the event.

The graph decides, as far as it is known. Between events that do not refer to each other depth and clock do, which
their senders wrote as they liked: they move events within their fork, and no further.

Source: server-server API v1.19, "Backfilling and retrieving missing events".
"""

import heapq
from collections.abc import Collection, Mapping, Sequence

from homeserver.matrix.event import Event


def reachable(extremities: Sequence[str], fetched: Mapping[str, Event], known: Collection[str]) -> dict[str, Event]:
    """Those of the fetched events that the extremities lead to, without passing an event that is known already.

    All others were not asked for: they may be newer than the anchor, of another part of the room, or made up.
    """
    found: dict[str, Event] = {}
    level = [event_id for event_id in extremities if event_id in fetched and event_id not in known]
    while level:
        found.update((event_id, fetched[event_id]) for event_id in level)
        before = dict.fromkeys(parent for event_id in level for parent in fetched[event_id].prev_event_ids)
        level = [i for i in before if i in fetched and i not in known and i not in found]
    return found


def newest_first(events: Mapping[str, Event]) -> list[Event]:
    """The events, each behind all of them that refer to it.

    What is part of a circle, as there could be in room versions 1 and 2, is left out with all that is before it.
    """
    waiting_for = dict.fromkeys(events, 0)
    for event in events.values():
        for parent in set(event.prev_event_ids) & events.keys():
            waiting_for[parent] += 1
    ready = [_rank(events[event_id]) for event_id, count in waiting_for.items() if count == 0]
    heapq.heapify(ready)
    ordered = []
    while ready:
        event = events[heapq.heappop(ready)[-1]]
        ordered.append(event)
        for parent in set(event.prev_event_ids) & events.keys():
            waiting_for[parent] -= 1
            if waiting_for[parent] == 0:
                heapq.heappush(ready, _rank(events[parent]))
    return ordered


def _rank(event: Event) -> tuple[int, int, str]:
    return -event.depth, -event.origin_server_ts, event.event_id


def gap_after(extremities: Sequence[str], placed: Sequence[Event], known: Collection[str]) -> list[str]:
    """The backward extremities once these events, newest first, have been placed: what they refer to and is unknown."""
    there = {event.event_id for event in placed}
    named = [*extremities, *(parent for event in placed for parent in event.prev_event_ids)]
    return [event_id for event_id in dict.fromkeys(named) if event_id not in there and event_id not in known]
