"""Power events, and the order in which they are tried.

Source: "State resolution" of room version 2, "Power events" and "Reverse topological power ordering".
"""

from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush

from homeserver.matrix.chain_cover import joint_reach
from homeserver.matrix.event import Event
from homeserver.matrix.power_levels import PowerLevel, PowerLevels
from homeserver.matrix.state_resolution.auth_graph import AuthGraph


def is_power_event(event: Event) -> bool:
    """Whether an event may take rights away: power levels, join rules, kicks and bans, as state events."""
    if not event.is_state:
        return False
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return True
    return (
        event.type == "m.room.member"
        and event.content.get("membership") in ("leave", "ban")
        and event.sender != event.state_key
    )


def power_events_with_auth_chains(graph: AuthGraph, full_conflicted: Collection[str]) -> set[str]:
    """The power events of the full conflicted set, and what of their auth chains is in that set.

    Bodies and covers of the whole set must be loaded.
    """
    power_events = {event_id for event_id in full_conflicted if is_power_event(graph.event(event_id))}
    reach = joint_reach(graph.covers(power_events))
    covers = ((event_id, graph.cover(event_id)) for event_id in full_conflicted)
    return power_events | {event_id for event_id, cover in covers if cover.number <= reach.get(cover.chain, -1)}


def reverse_topological_power_order(
    graph: AuthGraph, events: Collection[str], create_of: Callable[[Event], Event | None]
) -> list[str]:
    """The IDs, earliest first: no event before one of its auth events that is among them.

    Of the events that could be next, the one whose sender has most power is; then the oldest by `origin_server_ts`,
    then the one with the lowest ID (Kahn's algorithm). A sender's power is that in the event's own auth events.
    create_of: the create event by which an event's sender may be a creator.
    """
    unready: dict[str, int] = {}
    followers: dict[str, list[str]] = {event_id: [] for event_id in events}
    for event_id in events:
        before = {auth_id for auth_id in graph.event(event_id).auth_event_ids if auth_id in followers}
        unready[event_id] = len(before)
        for auth_id in before:
            followers[auth_id].append(event_id)

    def rank(event_id: str) -> tuple[PowerLevel, int, str]:
        event = graph.event(event_id)
        levels = PowerLevels.from_events(graph.power_levels_of(event), create_of(event), event.rules)
        return -levels.user_level(event.sender), event.origin_server_ts, event_id

    ready = [rank(event_id) for event_id, count in unready.items() if count == 0]
    heapify(ready)
    ordered: list[str] = []
    while ready:
        event_id = heappop(ready)[2]
        ordered.append(event_id)
        for follower in followers[event_id]:
            unready[follower] -= 1
            if unready[follower] == 0:
                heappush(ready, rank(follower))
    return ordered
