"""State resolution, algorithms 2 and 2.1: room versions 2 to 11, and 12.

Source: "State resolution" of room versions 2 and 12.
"""

from collections.abc import Collection

from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RoomVersionRules, StateResolution
from homeserver.matrix.state_nodes import Key
from homeserver.matrix.state_resolution.auth_difference import auth_difference
from homeserver.matrix.state_resolution.auth_graph import AuthGraph
from homeserver.matrix.state_resolution.conflicted_subgraph import conflicted_subgraph
from homeserver.matrix.state_resolution.forks import Forks
from homeserver.matrix.state_resolution.iterative_auth import auth_keys, iterative_auth_checks
from homeserver.matrix.state_resolution.mainline import mainline_order
from homeserver.matrix.state_resolution.power_order import (
    power_events_with_auth_chains,
    reverse_topological_power_order,
)

_POWER_LEVELS = ("m.room.power_levels", "")


def resolve_v2(rules: RoomVersionRules, forks: Forks, graph: AuthGraph) -> dict[Key, str | None]:
    """The event of every conflicted key in the resolved state; None for a key that the state then does not have.

    Events of the auth difference take part even if the states agree about their keys, or do not have them. Where they
    agree, the unconflicted entries count again in the end. What none of them has is new in the resolved state: these
    keys are in the result too.
    """
    is_v2_1 = rules.state_resolution is StateResolution.V2_1
    full_conflicted = _full_conflicted_set(forks, graph, with_subgraph=is_v2_1)
    unconflicted = _unconflicted_ids(forks, graph, full_conflicted)
    # 2.1 tries the power events on nothing but what they themselves name.
    start = {} if is_v2_1 else unconflicted
    create_id = "$" + forks.room_id[1:] if rules.room_id_is_create_hash else None
    graph.load_events(
        {
            *(auth_id for event_id in full_conflicted for auth_id in graph.event(event_id).auth_event_ids),
            *start.values(),
            *([create_id] if create_id else ()),
        }
    )
    create = graph.event(create_id) if create_id else None
    if create is not None and create.rejected:
        create = None

    def create_of(event: Event) -> Event | None:
        if create is not None:
            return create
        return next((auth for auth in graph.auth_events(event) if auth.type == "m.room.create"), None)

    state = {key: graph.event(event_id) for key, event_id in start.items()}
    power_events = power_events_with_auth_chains(graph, full_conflicted)
    ordered = reverse_topological_power_order(graph, power_events, create_of)
    state = iterative_auth_checks(graph, ordered, state, create)
    power_levels = state.get(_POWER_LEVELS)
    ordered = mainline_order(graph, full_conflicted - power_events, power_levels)
    state = iterative_auth_checks(graph, ordered, state, create)
    resolved = {key: event.event_id for key, event in state.items() if key not in unconflicted}
    return {key: resolved.get(key) for key in {**forks.conflicted, **resolved}}


def _full_conflicted_set(forks: Forks, graph: AuthGraph, *, with_subgraph: bool) -> set[str]:
    """The IDs of the full conflicted set; bodies and covers of its events are loaded."""
    conflicted = forks.conflicted_ids
    graph.load_events(conflicted)
    graph.load_covers(conflicted)
    found = conflicted | auth_difference(graph, forks.states, forks.unconflicted)
    if with_subgraph:
        found |= conflicted_subgraph(graph, conflicted)
    graph.load_events(found)
    graph.load_covers(found)
    return found


def _unconflicted_ids(forks: Forks, graph: AuthGraph, full_conflicted: Collection[str]) -> dict[Key, str]:
    """The unconflicted entries: of the whole state those that the full conflicted set would replace or asks for."""
    events = [graph.event(event_id) for event_id in full_conflicted]
    wanted = {key for event in events for key in (event.key, *auth_keys(event))} | {_POWER_LEVELS}
    return dict(forks.unconflicted.get_many(sorted(wanted - forks.conflicted.keys())))
