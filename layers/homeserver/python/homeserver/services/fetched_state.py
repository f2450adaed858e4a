"""The state of a room at an event, and what authorises events, as another server tells them: stored as outliers.

A state is taken whole or not at all: an event of it that is not given, because the server is slow or does not want to,
could be the ban of somebody. Only what does not pass the checks, or what the rules reject, is no part of it.

Source: Matrix v1.19, server-server API, "Retrieving events", "Retrieving event authorization information".
"""

from collections.abc import Mapping, Sequence

from homeserver.adapters.federation_http import BadAnswer, FederationError
from homeserver.matrix import state_tree
from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_event_auth
from homeserver.matrix.identifiers import is_event_id
from homeserver.observability import log
from homeserver.services.asked_server import AskedServer, listed
from homeserver.services.receive_outliers import receive_outliers
from homeserver.services.received_batch import CREATE
from homeserver.storage.auth_events import known_events
from homeserver.storage.rooms import StateKey
from homeserver.storage.state_nodes import StateNodes

_STATE_BYTES = 48 * 1024 * 1024
_STATE_S = 30.0
_MOST_IDS = 200_000  # of the events of a state, and of those that authorise it
_MOST_SINGLE = 100  # events that are asked for one by one; of more the whole state is asked for
_MOST_AUTHORISING = 20


def fetch_state(server: AskedServer, event_id: str, *, like: bytes) -> bytes | None:
    """The root of the room's state before an event, as the server has it; its events and nodes are stored.

    `like`: a root of the room that is probably similar. None if the server does not tell all of a state that can be
    one: with one event a key, and the room's create event.
    """
    try:
        answer = server.ask(
            "GET",
            "state_ids",
            server.room_id,
            query={"event_id": event_id},
            most_s=_STATE_S,
            max_bytes=_STATE_BYTES,
        )
        state, chain = _ids(server, answer, "pdu_ids"), _ids(server, answer, "auth_chain_ids")
        known = known_events([*state, *chain], server.rules)
        missing = [i for i in dict.fromkeys([*chain, *state]) if i not in known]
        named = {"auth_chain": len(set(chain)), "pdus": len(set(state))}
        _store(server, _events(server, event_id, missing, named))
        return _root(server, state, like)
    except FederationError as error:
        log.info("no state of %s at %s: %s", server.room_id, event_id, error)
        return None


def fetch_state_after(server: AskedServer, event: Event, *, like: bytes) -> bytes | None:
    """The root of the state after an event that has no place here; the event is stored too, if it is a state event."""
    root = fetch_state(server, event.event_id, like=like)
    if root is None or not event.is_state:
        return root
    receive_outliers(server.room_id, [event])
    known = known_events([event.event_id], server.rules).get(event.event_id)
    if known is None:
        return None
    nodes = StateNodes(server.room_id)
    is_rejected = known.room_id != server.room_id or known.event is None or known.event.rejected
    if is_rejected or not _is_allowed(event, nodes, root):
        return root
    update = state_tree.update(nodes, root, {event.key: event.event_id})
    nodes.add(update.new_nodes)
    nodes.write()
    return update.root


def fetch_authority(server: AskedServer, events: Sequence[Event]) -> None:
    """Store what authorises some events and is not known, as far as the server tells it.

    What is among the events themselves is not asked for.
    """
    own = {event.event_id for event in events}
    for event in events:
        if not _unknown(server, [event], own):
            continue
        try:
            answer = server.ask("GET", "event_auth", server.room_id, event.event_id, max_bytes=_STATE_BYTES)
            _store(server, server.checked(listed(answer, "auth_chain")[:_MOST_IDS]))
        except FederationError as error:
            log.info("what authorises %s cannot be had: %s", event.event_id, error)
            break
    single = sorted(_unknown(server, events, own))[:_MOST_AUTHORISING]
    _store(server, list(server.events(single)[0].values()))


def _unknown(server: AskedServer, events: Sequence[Event], own: set[str]) -> set[str]:
    wanted = {i for event in events for i in event.auth_event_ids} - own
    return wanted - known_events(wanted, server.rules).keys()


def _ids(server: AskedServer, answer: object, key: str) -> list[str]:
    ids = listed(answer, key)
    if len(ids) > _MOST_IDS:
        raise BadAnswer(server.name, f"its state of {server.room_id} has {len(ids)} events")
    if not all(is_event_id(event_id, server.rules.event_id_format) for event_id in ids):
        raise BadAnswer(server.name, f"its state of {server.room_id} has what is no event ID")
    return ids


def _events(server: AskedServer, at: str, missing: Sequence[str], named: Mapping[str, int]) -> list[Event]:
    """The events that are missing of a state and of what authorises it. Raises FederationError if some are not given.

    named: of how many events each of both is.
    """
    if len(missing) <= _MOST_SINGLE:
        found, lacking = server.events(missing)
        if not lacking:
            return list(found.values())
    answer = server.ask("GET", "state", server.room_id, query={"event_id": at}, most_s=_STATE_S, max_bytes=_STATE_BYTES)
    told = {key: listed(answer, key)[:_MOST_IDS] for key in named}
    # What does not pass the checks cannot be known by its ID: but as many events must be given as are named.
    if any(len(told[key]) < number for key, number in named.items()):
        raise BadAnswer(server.name, f"it does not tell all of its state of {server.room_id}")
    wanted = set(missing)
    return [event for pdus in told.values() for event in server.checked(pdus) if event.event_id in wanted]


def _store(server: AskedServer, events: Sequence[Event]) -> None:
    states = [event for event in events if event.is_state]
    if states:
        receive_outliers(server.room_id, states)


def _root(server: AskedServer, state: Sequence[str], like: bytes) -> bytes:
    """Store the tree of a state whose events are stored. Raises BadAnswer for what is no state."""
    nodes = StateNodes(server.room_id)
    before = state_tree.items(nodes, like)
    wanted, there = set(state), set(before.values())
    keys: set[StateKey] = {key for key, event_id in before.items() if event_id in wanted}
    changes: dict[StateKey, str | None] = {key: None for key in before if key not in keys}
    for event_id, known in known_events(wanted - there, server.rules).items():
        event = known.event
        if event is None or event.rejected or known.room_id != server.room_id:
            continue
        if event.key in keys:
            raise BadAnswer(server.name, f"its state of {server.room_id} has two events for one key")
        keys.add(event.key)
        changes[event.key] = event_id
    if CREATE not in keys or changes.get(CREATE) is not None:
        raise BadAnswer(server.name, f"its state of {server.room_id} has not the room's create event")
    update = state_tree.update(nodes, like, changes)
    nodes.add(update.new_nodes)
    nodes.write()
    return update.root


def _is_allowed(event: Event, nodes: StateNodes, root: bytes) -> bool:
    """Check 5, for an event that gets no place."""
    keys = auth_event_keys(event.type, event.sender, event.state_key, event.content, event.rules)
    ids = state_tree.get_many(nodes, root, [CREATE, *keys])
    found = known_events(ids.values(), event.rules)
    state = {key: one.event for key, i in ids.items() if (one := found.get(i)) is not None and one.event}
    try:
        check_event_auth(event, AuthState(state))
    except AuthRuleViolation as violation:
        log.info("event %s is no part of a state by rule %s: %s", event.event_id, violation.rule, violation)
        return False
    return True
