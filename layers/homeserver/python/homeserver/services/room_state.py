"""Reading a room's state and members.

Source: client-server API v1.19, "Getting events for a room". Who is in the room sees the current state; who has left
sees it as it was when they left.
"""

from collections.abc import Sequence
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import fits_identifier
from homeserver.matrix.sync_token import RoomToken, decode_either
from homeserver.services.access_tokens import Requester
from homeserver.services.event_view import show_state
from homeserver.services.send_event import NOT_IN_ROOM
from homeserver.services.visibility import Reader, reader_of, root_for
from homeserver.storage.connection import Key, connection
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import StateKey, current_state, fetch_state_events
from homeserver.storage.state_cache import read_whole, whole_state
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.sync_bases import base_request, parse_bases
from homeserver.storage.timeline import Entry, read_entries, read_entry


def _state_of(reader: Reader, root: bytes | None) -> dict[StateKey, Event]:
    view = reader.view
    if root is None:
        return {key: entry.event for key, entry in current_state(view.head, view.rules).items()}
    return whole_state(view.head, view.rules, root)


def room_state(requester: Requester, room_id: str) -> list[dict[str, Any]]:
    """All state events that the requester may see. Raises Forbidden."""
    reader = reader_of(requester.user_id, room_id)
    return [show_state(event, room_id) for event in _state_of(reader, root_for(reader)).values()]


def state_event(requester: Requester, room_id: str, event_type: str, key: str) -> dict[str, Any]:
    """One state event in client format. Raises Forbidden, or NotFound where the room has no such state."""
    if not fits_identifier(event_type) or not fits_identifier(key):
        raise NotFound("The room has no such state.")  # and none can be looked up under it
    event = read_state(requester, room_id, [(event_type, key)])[1].get((event_type, key))
    if event is None:
        raise NotFound("The room has no such state.")
    return show_state(event, room_id)


def read_state(
    requester: Requester, room_id: str, keys: Sequence[StateKey], *, extras: Sequence[Key] = ()
) -> tuple[Reader, dict[StateKey, Event]]:
    """Those of the state events with these keys that the room has, as far as the requester may see it: one round.

    It takes more for who has left the room. `extras` are other items, which the reader's view has then. Raises
    Forbidden.
    """
    reader = reader_of(requester.user_id, room_id, keys, extras=extras)
    root = root_for(reader)
    if root is None:
        found = {key: reader.view.event(*key) for key in keys}
        return reader, {key: event for key, event in found.items() if event is not None}
    ids = state_tree.get_many(StateNodes(room_id), root, keys)
    entries = fetch_state_events(room_id, ids.values(), reader.view.rules)
    return reader, {entry.event.key: entry.event for entry in entries.values()}


def members(
    requester: Requester, room_id: str, *, at: str | None, membership: str | None, not_membership: str | None
) -> list[dict[str, Any]]:
    """The membership events of a room, now or at a token's position. Raises Forbidden or InvalidParam.

    With both filters, one of the two is enough: the membership is the one, or is not the other.
    """
    reader = reader_of(requester.user_id, room_id)
    root = root_for(reader) if at is None else _root_at(timeline_token(at, reader, requester), reader)
    everybody = membership is None and not_membership is None
    chunk = []
    for (event_type, _), event in _state_of(reader, root).items():
        found = event.content.get("membership")
        is_wanted = (membership is not None and found == membership) or (
            not_membership is not None and found != not_membership
        )
        if event_type == "m.room.member" and (everybody or is_wanted):
            chunk.append(show_state(event, room_id))
    return chunk


def _root_at(token: RoomToken, reader: Reader) -> bytes:
    """The root of the state at a token. Raises Forbidden where the reader may not see what happened there."""
    position = min(last_before(token), reader.last_position)
    room_id = reader.view.room_id
    # A token with an offset may stand in history that was fetched later.
    found = read_entries([(room_id, position), *([(room_id, token.live)] if token.offset else [])])
    anchor = found.get((room_id, token.live)) if token.offset and token.live <= reader.last_position else None
    if anchor is not None and anchor.has_history:
        root = _root_in_history(token.offset, anchor, reader)
        if root is not None:
            return root
    if position == 0:
        return state_tree.EMPTY_ROOT
    entry = found.get((room_id, position))
    if entry is not None:
        # What says whether the reader may see it is on the way to the whole state: a round a level for both.
        nodes, head = StateNodes(reader.view.room_id), reader.view.head
        seen = [] if reader.was_there(position) else [entry.own_root]
        read_whole(nodes, bytes(head.root), entry.room_root, paths=seen, keys=reader.keys)
    if entry is None or not reader.visible([entry]):
        raise Forbidden("You may not see the room as it was then.")
    return entry.room_root


def _root_in_history(offset: int, anchor: Entry, reader: Reader) -> bytes | None:
    """The root of the state behind an offset before an anchor; None where it is that before the whole history.

    Beyond what was fetched of it that is the state before the earliest event. Raises Forbidden.
    """
    room_id = reader.view.room_id
    is_there = -offset <= anchor.backfilled
    if not is_there and not anchor.gap:
        return None
    lowest = max(offset, -anchor.backfilled)
    entry = read_entry(room_id, anchor.position, lowest) if lowest else anchor
    if entry is None or entry.event_id is None or not reader.visible([entry]):
        raise Forbidden("You may not see the room as it was then.")
    if is_there:
        return entry.room_root
    record = EventRecord.fetch(entry.event_id)
    return bytes(record.state_before) if record is not None and record.state_before is not None else None


def last_before(token: RoomToken) -> int:
    """The last live position that lies before a token."""
    return token.live if token.offset == 0 else token.live - 1


def timeline_token(text: str, reader: Reader, requester: Requester) -> RoomToken:
    """Where a token of the room's timeline or of `/sync` stands in the reader's room.

    Raises InvalidParam for anything else, and for a sync token that knows nothing of the room.
    """
    token = decode_either(text, user_id=reader.user_id)
    if isinstance(token, RoomToken):
        return token
    if reader.row is None or reader.row.slot is None:
        raise InvalidParam("This sync token knows nothing of the room.")
    slot = int(reader.row.slot)
    if token.base and slot not in token.positions:
        answer = connection().dispatch("GetItem", base_request(requester.user_id, requester.device_id))
        bases = parse_bases(answer.get("Item"))
        if token.base not in bases:
            raise InvalidParam("This sync token is too old for this request.")
        token = token.with_base(bases[token.base])
    return token.room_token(slot)


def joined_members(requester: Requester, room_id: str) -> dict[str, dict[str, Any]]:
    """Who is joined, with their profiles in the room; only for members. Raises Forbidden."""
    reader = reader_of(requester.user_id, room_id)
    if not reader.is_joined:
        raise Forbidden(NOT_IN_ROOM)
    joined = {}
    for (event_type, user_id), event in _state_of(reader, None).items():
        if event_type == "m.room.member" and event.content.get("membership") == "join":
            profile = {"display_name": event.content.get("displayname"), "avatar_url": event.content.get("avatar_url")}
            joined[user_id] = {name: value for name, value in profile.items() if isinstance(value, str)}
    return joined
