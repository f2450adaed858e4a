"""A room's events and state as the draft of 2014 would have shown them, for other servers; to look at, not to take in.

Off unless the operator wants it (`LEGACY_SEED_VIEWS`). Who may see what is decided as in the endpoints of today; what a
server may not see is left out, as a view without content would show nothing.

Source: `matrix.seed_view`; server-server API v1.19 for who may ask.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden, NotFound, TooLarge
from homeserver.matrix.event import Event
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.identifiers import domain_of, is_event_id
from homeserver.matrix.power_levels import PowerLevels
from homeserver.matrix.seed_view import SeedState, seed_transaction, to_seed_view
from homeserver.services.clock import now_ms
from homeserver.services.served_events import MOST_BYTES, ServedEvent, placed, read_lines, size_of
from homeserver.services.server_access import check_access
from homeserver.services.server_visibility import visible_to_server
from homeserver.settings import settings
from homeserver.storage.connection import Key, batch_get, in_parallel
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import RoomView, StateKey, fetch_state_events
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import read_positions

MOST_EVENTS = 100  # of a room: the newest
MOST_STATE = 1000
_STATES_AT_ONCE = 50
_LEVELS: tuple[StateKey, ...] = (("m.room.create", ""), ("m.room.power_levels", ""))
_NO_PDU = "There is no such PDU here, or your server may not see it."


def seed_pdu(event_id: str, origin: str, asking: str) -> dict[str, Any]:
    """A transaction with one PDU of a server. Raises NotFound, also for servers that are not in the room."""
    record = EventRecord.fetch(event_id) if is_event_id(event_id) else None
    if record is None or record.room is None or "r" in (record.flags or ""):
        raise NotFound(_NO_PDU)
    try:
        view = check_access(record.room, asking)
    except Forbidden:
        raise NotFound(_NO_PDU) from None
    event = placed(view, record)
    if event is None or domain_of(event.pdu["sender"]) != origin or not visible_to_server(view, [event], asking):
        raise NotFound(_NO_PDU)
    return _transaction(_views(view, [_event(view, event.event_id, event.pdu)]))


def seed_context(room_id: str, asking: str) -> dict[str, Any]:
    """A transaction with the last 100 events of a room, the oldest first, as far as the server may see them.

    Fewer where these are more than 5 MB. Raises what `check_access` does.
    """
    view = check_access(room_id, asking)
    last = int(view.head.position)
    entries = read_positions(room_id, max(1, last - MOST_EVENTS + 1), last)
    events = [event for event in map(ServedEvent.of_entry, entries) if event is not None]
    seen = visible_to_server(view, events, asking)
    views = _views(view, [_event(view, event.event_id, event.pdu) for event in events if event.event_id in seen])
    size, kept = 0, 0
    for shown in reversed(views):
        size += size_of(shown)
        if size > MOST_BYTES:
            break
        kept += 1
    return _transaction(views[len(views) - kept :])


def seed_state(room_id: str, asking: str) -> dict[str, Any]:
    """A transaction with the current state of a room. Raises what `check_access` does, TooLarge beyond 1,000 events."""
    view = check_access(room_id, asking)
    ids = list(state_tree.items(StateNodes(room_id), bytes(view.head.root)).values())
    if len(ids) > MOST_STATE:
        raise TooLarge("The state of this room is more than this server shows in this way.")
    found = fetch_state_events(room_id, ids, view.rules, consistent=True)
    views = _views(view, [found[event_id].event for event_id in ids])
    if sum(map(size_of, views)) > MOST_BYTES:
        raise TooLarge("The state of this room is more than this server can put into one answer.")
    return _transaction(views)


def _transaction(views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return seed_transaction(settings().server_name, now_ms(), views)


def _event(view: RoomView, event_id: str, pdu: Mapping[str, Any]) -> Event:
    return Event(event_id, view.room_id, pdu, view.rules)


def _views(view: RoomView, events: Sequence[Event]) -> list[dict[str, Any]]:
    """The views of events, in their order: two rounds for what they refer to, and for state some levels of the tree."""
    parents = {parent for event in events for parent in event.prev_event_ids}
    origins = {event.event_id: domain_of(event.sender) for event in events}
    wanted = (parents - origins.keys()) | {event.event_id for event in events if event.is_state}
    keys: list[Key] = [(EventRecord, event_id, None) for event_id in wanted]
    records: dict[str, EventRecord] = {
        record.event_id: record
        for record in (batch_get(keys, consistent=True).values() if keys else ())
        if record.room == view.room_id
    }
    origins |= _origins(view.room_id, [records[i] for i in parents - origins.keys() if i in records])
    roots = {
        event: bytes(before)
        for event in events
        if event.is_state and event.event_id in records and (before := records[event.event_id].state_before) is not None
    }
    states = _states_before(view, roots)
    return [to_seed_view(event, origins, states.get(event.event_id)) for event in events]


def _origins(room_id: str, records: Iterable[EventRecord]) -> dict[str, str]:
    """The servers of events' senders: a state event's record has the event, of others the timeline has it."""
    senders: dict[str, str] = {}
    places: dict[tuple[int, int], str] = {}
    for record in records:
        if record.packed is not None:
            senders[record.event_id] = unpack(record.packed)["sender"]
        elif record.position is not None:
            places[int(record.position), int(record.offset or 0)] = record.event_id
    for place, entry in read_lines(room_id, places).items() if places else ():
        if entry.pdu is not None:
            senders[places[place]] = entry.pdu["sender"]
    return {event_id: domain_of(sender) for event_id, sender in senders.items()}


def _states_before(view: RoomView, roots: Mapping[Event, bytes]) -> dict[str, SeedState]:
    """What the view says of state events, by the roots of the states before them."""
    events = list(roots)
    parts = [events[start : start + _STATES_AT_ONCE] for start in range(0, len(events), _STATES_AT_ONCE)]
    found: dict[str, dict[StateKey, str]] = {}
    for part in in_parallel(*[partial(_ids_before, view.room_id, {event: roots[event] for event in p}) for p in parts]):
        found |= part
    ids = {event_id for values in found.values() for event_id in values.values()}
    known = fetch_state_events(view.room_id, ids, view.rules) if ids else {}
    states = {}
    for event in events:
        before = {key: known[event_id].event for key, event_id in found[event.event_id].items()}
        create, power_levels = (before.get(key) for key in _LEVELS)
        levels = PowerLevels.from_events(power_levels, create, view.rules)
        states[event.event_id] = SeedState.before(event, levels, before.get(event.key))
    return states


def _ids_before(room_id: str, roots: Mapping[Event, bytes]) -> dict[str, dict[StateKey, str]]:
    keys = {*_LEVELS, *(event.key for event in roots)}
    found = state_tree.get_many_of(StateNodes(room_id), set(roots.values()), keys)
    return {
        event.event_id: {key: found[root][key] for key in (*_LEVELS, event.key) if key in found[root]}
        for event, root in roots.items()
    }
