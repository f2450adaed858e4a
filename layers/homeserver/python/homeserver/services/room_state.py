"""Reading a room's state and members.

Source: client-server API v1.19, "Getting events for a room". Who is in the room sees the current state; who has left
sees it as it was when they left.
"""

from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.sync_token import RoomToken, SyncToken, decode_either
from homeserver.services.access_tokens import Requester
from homeserver.services.event_view import show_state
from homeserver.services.send_event import NOT_IN_ROOM
from homeserver.services.visibility import Reader, reader_of, root_for
from homeserver.storage.rooms import StateKey, current_state, fetch_state_events, load_room
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import read_entry


def _state_of(reader: Reader, root: bytes | None) -> dict[StateKey, Event]:
    view = reader.view
    if root is None:
        return {key: entry.event for key, entry in current_state(view.head, view.rules).items()}
    ids = state_tree.items(StateNodes(view.room_id), root)
    entries = fetch_state_events(view.room_id, ids.values(), view.rules)
    return {key: entries[event_id].event for key, event_id in ids.items()}


def room_state(requester: Requester, room_id: str) -> list[dict[str, Any]]:
    """All state events that the requester may see. Raises Forbidden."""
    reader = reader_of(requester.user_id, room_id)
    return [show_state(event, room_id) for event in _state_of(reader, root_for(reader)).values()]


def state_event(requester: Requester, room_id: str, event_type: str, key: str) -> dict[str, Any]:
    """One state event in client format. Raises Forbidden, or NotFound where the room has no such state."""
    reader = reader_of(requester.user_id, room_id)
    root = root_for(reader)
    if root is None:
        view, _ = load_room(room_id, [(event_type, key)])
        event = view.event(event_type, key) if view else None
    else:
        ids = state_tree.get_many(StateNodes(room_id), root, [(event_type, key)])
        entries = fetch_state_events(room_id, ids.values(), reader.view.rules)
        event = next((entry.event for entry in entries.values()), None)
    if event is None:
        raise NotFound("The room has no such state.")
    return show_state(event, room_id)


def members(
    requester: Requester, room_id: str, *, at: str | None, membership: str | None, not_membership: str | None
) -> list[dict[str, Any]]:
    """The membership events of a room, now or at a token's position. Raises Forbidden or InvalidParam."""
    reader = reader_of(requester.user_id, room_id)
    root = root_for(reader)
    if at is not None:
        position = min(_position_of(at, reader), reader.last_position)
        entry = read_entry(room_id, position) if position else None
        if entry is not None:
            if not reader.visible([entry]):
                raise Forbidden("You may not see the room as it was then.")
            root = entry.room_root
    return [
        show_state(event, room_id)
        for (event_type, _), event in _state_of(reader, root).items()
        if event_type == "m.room.member"
        and (membership is None or event.content.get("membership") == membership)
        and (not_membership is None or event.content.get("membership") != not_membership)
    ]


def _position_of(token_text: str, reader: Reader) -> int:
    token = decode_either(token_text, user_id=reader.user_id)
    if isinstance(token, RoomToken):
        return token.live if token.offset == 0 else token.live - 1
    return position_in(token, reader)


def position_in(token: SyncToken, reader: Reader) -> int:
    """Where the reader's room stood for a sync token. Raises InvalidParam for a token that does not say."""
    if reader.row is None or reader.row.slot is None:
        raise InvalidParam("This sync token knows nothing of the room.")
    try:
        return token.room_token(int(reader.row.slot)).live
    except ValueError as error:
        raise InvalidParam("This sync token is too old for this request.") from error


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
