"""A room's state before an event, and auth chains, for other servers.

Source: server-server API v1.19, "Retrieving events", "Checks performed on receipt of a PDU".

An answer has everything or is refused: half a state is none. `state_ids` has about 50 bytes an event, so it answers for
rooms of 100,000; whoever is refused the events themselves asks for the IDs, and then for those events that it lacks.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.errors import InvalidParam, NotFound, TooLarge
from homeserver.matrix.event_ids import unpack_event_ids
from homeserver.matrix.identifiers import is_event_id
from homeserver.services.served_events import MOST_BYTES, pdu_of, size_of
from homeserver.services.server_access import check_access
from homeserver.storage.auth_chains import auth_chain_of_event, auth_chain_of_state
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import RoomView, fetch_state_events
from homeserver.storage.state_nodes import StateNodes

# State and auth chain together:
_MOST_IDS = 100_000  # of 45 to 50 bytes
_MOST_EVENTS = 20_000  # that could fit, as none has less than some 250 bytes
_AT_ONCE = 1000
_TOO_LARGE = "The state of this room is more than this server can put into one answer"


def state_ids_at(room_id: str, origin: str, event_id: str | None) -> dict[str, Any]:
    """The body of `GET /state_ids/{roomId}`: the state before an event, with the auth chains of all of it, as IDs.

    Raises what `check_access` does, InvalidParam for what is no event ID, NotFound for an event that is not in the room
    or whose state is not known, TooLarge.
    """
    view, root = _state_before(room_id, origin, event_id)
    state, chain = _ids(view, root, _MOST_IDS)
    if sum(len(event_id) + 3 for event_id in (*state, *chain)) > MOST_BYTES:
        raise TooLarge(f"{_TOO_LARGE}.")
    return {"pdu_ids": state, "auth_chain_ids": chain}


def state_at(room_id: str, origin: str, event_id: str | None) -> dict[str, Any]:
    """The body of `GET /state/{roomId}`: the same with the events themselves. Raises the same."""
    view, root = _state_before(room_id, origin, event_id)
    state, chain = _ids(view, root, _MOST_EVENTS)
    events = _events(view, (*state, *chain))
    return {"pdus": [events[event_id] for event_id in state], "auth_chain": [events[event_id] for event_id in chain]}


def event_auth(room_id: str, origin: str, event_id: str) -> dict[str, Any]:
    """The body of `GET /event_auth/{roomId}/{eventId}`: the auth chain of an event, which may be an outlier.

    Raises as `state_at` does.
    """
    view, record = _record(room_id, origin, event_id)
    auth = unpack_event_ids(bytes(record.auth)) if record.auth is not None else []
    chain = auth_chain_of_event(room_id, view.rules, auth, most=_MOST_EVENTS)
    events = _events(view, chain)
    return {"auth_chain": [events[event_id] for event_id in chain]}


def _record(room_id: str, origin: str, event_id: str | None) -> tuple[RoomView, EventRecord]:
    """The room, and the record of an event of it that was not rejected: one round."""
    if not is_event_id(event_id):
        raise InvalidParam("This is not an event ID.")
    key = (EventRecord, event_id, None)
    view = check_access(room_id, origin, extras=[key])
    record: EventRecord | None = view.extras.get(key)
    if record is None or record.room != room_id or "r" in (record.flags or ""):
        raise NotFound("There is no such event in this room.")
    return view, record


def _state_before(room_id: str, origin: str, event_id: str | None) -> tuple[RoomView, bytes]:
    view, record = _record(room_id, origin, event_id)
    if record.state_before is None:
        raise NotFound("This server does not know the state at this event.")
    return view, bytes(record.state_before)


def _ids(view: RoomView, root: bytes, most: int) -> tuple[list[str], list[str]]:
    nodes = StateNodes(view.room_id)
    state = list(state_tree.items(nodes, root).values())
    if len(state) > most:
        raise TooLarge(f"{_TOO_LARGE}; ask for state_ids." if most < _MOST_IDS else f"{_TOO_LARGE}.")
    return state, auth_chain_of_state(nodes, view.rules, root, most=most - len(state))


def _events(view: RoomView, event_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """State events as PDUs by their IDs. Raises TooLarge as soon as they are too much for an answer.

    An ID that comes twice is two events of the answer.
    """
    times = Counter(event_ids)
    wanted = list(times)
    found: dict[str, dict[str, Any]] = {}
    size = 0
    redacted = int(view.head.redaction_position) > 0
    for start in range(0, len(wanted), _AT_ONCE):
        chunk: Collection[str] = wanted[start : start + _AT_ONCE]
        entries = fetch_state_events(view.room_id, chunk, view.rules, consistent=redacted)
        for event_id in chunk:
            found[event_id] = pdu_of(entries[event_id].event.pdu)
            size += size_of(found[event_id]) * times[event_id]
        if size > MOST_BYTES:
            raise TooLarge(f"{_TOO_LARGE}; ask for IDs, and then for events.")
    return found
