"""Iterative auth checks: events are tried one after the other, and each that is allowed changes the state.

Source: "State resolution" of room version 2, "Iterative auth checks".
"""

from collections.abc import Iterable, Mapping

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_event_auth
from homeserver.matrix.state_nodes import Key
from homeserver.matrix.state_resolution.auth_graph import AuthGraph


def auth_keys(event: Event) -> list[Key]:
    """The keys of the state that decide about an event."""
    return auth_event_keys(event.type, event.sender, event.state_key, event.content, event.rules)


def is_allowed(event: Event, state: Mapping[Key, Event]) -> bool:
    """Whether the authorisation rules let an event follow on a state."""
    try:
        check_event_auth(event, AuthState(state))
    except AuthRuleViolation:
        return False
    return True


def iterative_auth_checks(
    graph: AuthGraph, events: Iterable[str], state: Mapping[Key, Event], create: Event | None
) -> dict[Key, Event]:
    """The state after all of the events that the authorisation rules allow, each on the state after those before it.

    What an event needs and the state does not have, it takes from its own auth events, if they were not rejected.
    Whether the event itself was once rejected does not matter.
    create: the create event that the room ID names, in room version 12, where nobody's auth events have it.
    """
    resolved = dict(state)
    for event_id in events:
        event = graph.event(event_id)
        own = {auth.key: auth for auth in graph.auth_events(event) if auth.is_state and not auth.rejected}
        wanted = auth_keys(event)
        known = {key: found for key in wanted if (found := resolved.get(key) or own.get(key)) is not None}
        if create is not None:
            known[create.key] = create
        if is_allowed(event, known):
            resolved[event.key] = event
    return resolved
