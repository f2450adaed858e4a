"""Writing the levels of a room as the 2014 draft had them: each projection is a change of `m.room.power_levels`.

Source: the client-server specification of autumn 2014, "Power levels"; matrix/draft_projections.py for what is what.
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.draft_projections import POWER_LEVELS, with_levels
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.power_levels import creators
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id, keys_for, unchanged_state
from homeserver.storage.connection import in_parallel
from homeserver.storage.rooms import RoomView, load_room


def set_levels(requester: Requester, room_id: str, event_type: str, body: Mapping[str, Any]) -> None:
    """Write one of `LEVEL_TYPES`. What is so already makes no event.

    Raises BadJson for levels that are no integers, Forbidden where the room's rules refuse the new levels or the room
    is unknown, LimitExceeded when the user sends too fast or the room is too busy.
    """
    check_room_id(room_id)
    sender = requester.user_id
    keys = keys_for(EventDraft(POWER_LEVELS, {}, ""), sender)
    for attempt in attempts("The room"):
        (view, _), _ = in_parallel(
            lambda: load_room(room_id, keys),
            (lambda: None) if attempt else (lambda: rate_limits.take_send(sender)),
        )
        if view is None:
            raise Forbidden(NOT_IN_ROOM)
        current = view.event(POWER_LEVELS)
        content = with_levels(event_type, body, current.content if current else None, _uncounted(view))
        draft = EventDraft(POWER_LEVELS, content, "")
        if unchanged_state(view, draft, sender) is not None:
            return
        room = RoomDraft(view, view.rules)
        room.add(draft, sender)
        try:
            room.commit()
        except Raced:
            continue
        return


def _uncounted(view: RoomView) -> frozenset[str]:
    """Those whose power has no number: the creators of a room of version 12."""
    return creators(view.event("m.room.create"), view.rules) if view.rules.creators_have_infinite_power else frozenset()
