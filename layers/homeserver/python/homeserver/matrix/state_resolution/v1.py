"""State resolution, algorithm 1: room version 1.

Source: "State resolution" of room version 1.
"""

from collections.abc import Mapping
from hashlib import sha1

from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.state_nodes import Key
from homeserver.matrix.state_resolution.auth_graph import AuthGraph
from homeserver.matrix.state_resolution.forks import Forks
from homeserver.matrix.state_resolution.iterative_auth import auth_keys, is_allowed

# The types that decide about others, in the order in which they are resolved.
_FIRST = ("m.room.power_levels", "m.room.join_rules", "m.room.member")


def resolve_v1(rules: RoomVersionRules, forks: Forks, graph: AuthGraph) -> dict[Key, str | None]:
    """The event of every conflicted key in the resolved state; None where no candidate is allowed.

    A key that some states do not have, and for which all others have one event, is not in conflict here: that event
    stays. Auth events are not looked at, only the state. The keys of one type are resolved independently of one
    another, on the state that the types before have left, so that no order of keys is needed.
    """
    candidates = {
        key: {event_id for event_id in values if event_id is not None} for key, values in forks.conflicted.items()
    }
    graph.load_events(forks.conflicted_ids)
    events = {key: [graph.event(event_id) for event_id in ids] for key, ids in candidates.items()}
    state = _agreed_state(events, forks, graph)
    conflicts = {key: found for key, found in events.items() if len(found) > 1}
    for event_type in _FIRST:
        keys = [key for key in conflicts if key[0] == event_type]
        state |= {key: _last_allowed(conflicts[key], state) for key in keys}
    others = {key: _best_allowed(found, state) for key, found in conflicts.items() if key[0] not in _FIRST}
    state |= {key: event for key, event in others.items() if event is not None}
    return {key: state[key].event_id if key in state else None for key in forks.conflicted}


def _agreed_state(events: Mapping[Key, list[Event]], forks: Forks, graph: AuthGraph) -> dict[Key, Event]:
    """What is not in conflict: of the whole state as much as decides about the candidates."""
    agreed = {key: found[0] for key, found in events.items() if len(found) == 1}
    wanted = {key for found in events.values() for event in found for key in auth_keys(event)}
    others = forks.unconflicted.get_many(sorted(wanted - forks.conflicted.keys()))
    graph.load_events(others.values())
    return agreed | {key: graph.event(event_id) for key, event_id in others.items()}


def _last_allowed(candidates: list[Event], state: Mapping[Key, Event]) -> Event:
    """The candidate up to which each is allowed by the state that has the one before it. The first is not asked."""
    first, *rest = sorted(candidates, key=_age, reverse=True)
    chosen = first
    for event in rest:
        if not is_allowed(event, {**state, chosen.key: chosen}):
            break
        chosen = event
    return chosen


def _best_allowed(candidates: list[Event], state: Mapping[Key, Event]) -> Event | None:
    """The deepest candidate that is allowed."""
    return next((event for event in sorted(candidates, key=_age) if is_allowed(event, state)), None)


def _age(event: Event) -> tuple[int, bytes]:
    """Smallest for the greatest depth, and of equally deep events for the lowest SHA-1 of the event ID."""
    # SHA-1 breaks ties here, nothing rests on its strength.
    return -event.depth, sha1(event.event_id.encode(), usedforsecurity=False).digest()
