"""What a client of the 2014 draft reads of one room: history, members, state, and the draft's projections of it.

Each is what the client API of today reads, in the draft's view; what only the view needs is read at the same time.

Source: the client-server specification of autumn 2014, "Getting historical messages", "Getting events for a room",
"Room events".
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from homeserver.matrix.draft_projections import (
    CONFIG,
    LEVEL_TYPES,
    RoomConfig,
    level_projection,
)
from homeserver.matrix.errors import BadPagination, InvalidParam
from homeserver.matrix.sync_token import RoomToken
from homeserver.services import history, peeking, room_state
from homeserver.services.access_tokens import Requester
from homeserver.services.draft_config import CONFIG_STATE, config_of
from homeserver.services.draft_feedback import Feedback, read_feedback, with_feedback
from homeserver.services.draft_views import (
    LEVEL_KEYS,
    POWER_LEVELS,
    DraftRoom,
    load_draft_room,
    local_aliases,
    with_aliases,
)
from homeserver.services.history import Page, PageQuery
from homeserver.services.send_event import check_room_id
from homeserver.settings import settings
from homeserver.storage.connection import in_parallel
from homeserver.storage.room_previews import preview_key, published_among
from homeserver.storage.rooms import StateEntry

# A page that says nothing of where it begins or ends: the draft's names for both ends of the stream.
START, END = "START", "END"
_FIRST = RoomToken(0).encode()


def draft_messages(requester: Requester, room_id: str, asked: PageQuery, *, feedback: bool) -> dict[str, Any]:
    """A page of a room's history: `chunk`, `start`, `end`, which is always there; at the end the page after is empty.

    With `feedback` each message has who has got and who has read it. Raises
    Forbidden; BadPagination for a token that is none.
    """
    check_room_id(room_id)
    page, room, told = in_parallel(
        partial(_page, requester, room_id, asked),
        partial(load_draft_room, room_id),
        partial(read_feedback, room_id, requester.user_id) if feedback else _nothing,
    )
    end = page.end or (_FIRST if asked.backwards else page.start)
    return {"chunk": _shown(page, requester, room, told), "start": page.start, "end": end}


def _page(requester: Requester, room_id: str, asked: PageQuery) -> Page:
    try:
        return history.read_page(requester, room_id, asked)
    except InvalidParam as error:  # the tokens are all that may still be wrong
        raise BadPagination(error.message) from error


def token_of_stream(text: str | None) -> str | None:
    """A token as the client wrote it: one of ours, or one of the draft's names. None for where the stream ends."""
    return {START: _FIRST, END: None}.get(text, text) if text else None


def _nothing() -> None:
    return None


def _shown(page: Page, requester: Requester, room: DraftRoom, feedback: Feedback | None) -> list[dict[str, Any]]:
    return [
        with_feedback(room.show(event), entry.number, feedback)
        for event, entry in zip(page.shown(requester), page.entries, strict=True)
    ]


def draft_room_snapshot(requester: Requester, room_id: str, *, limit: int, feedback: bool) -> dict[str, Any]:
    """One room as it is, as `/initialSync` tells it: also to who may only look into it. Raises as `read_page`."""
    page, state, published, aliases, told = in_parallel(
        partial(history.read_page, requester, room_id, PageQuery(backwards=True, limit=limit)),
        partial(room_state.room_state, requester, room_id),
        partial(published_among, [room_id]),
        partial(local_aliases, room_id),
        partial(read_feedback, room_id, requester.user_id) if feedback else _nothing,
    )
    room = DraftRoom.of_client_events(state)
    messages = _shown(page, requester, room, told)
    row = page.reader.row
    return {
        "room_id": room_id,
        "membership": row.membership if row is not None else "leave",
        "visibility": "public" if room_id in published else "private",
        "messages": {"chunk": messages[::-1], "start": page.end or _FIRST, "end": page.start},
        "state": with_aliases(state, aliases, room),
        "presence": [],
    }


def draft_event(requester: Requester, event_id: str) -> dict[str, Any]:
    """One event of whatever room. Raises NotFound for one that does not exist or that the requester may not see."""
    event = peeking.event_by_id(requester, event_id)
    room = load_draft_room(event["room_id"]) if "state_key" in event else DraftRoom()
    return room.show(event)


def draft_members(requester: Requester, room_id: str) -> dict[str, Any]:
    """The membership events of a room. The tokens stand for the whole: there are no pages. Raises Forbidden."""
    members, room = in_parallel(
        partial(room_state.members, requester, room_id, at=None, membership=None, not_membership=None),
        partial(load_draft_room, room_id),
    )
    return {"start": START, "end": END, "chunk": [room.show(event) for event in members]}


def draft_state(requester: Requester, room_id: str) -> list[dict[str, Any]]:
    """The whole state that the requester may see, with the aliases of this server. Raises Forbidden."""
    state, aliases = in_parallel(partial(room_state.room_state, requester, room_id), partial(local_aliases, room_id))
    return with_aliases(state, aliases, DraftRoom.of_client_events(state))


def draft_state_content(requester: Requester, room_id: str, event_type: str, key: str) -> Mapping[str, Any]:
    """The content of one state event; the draft's own ones are projections of what the room has today.

    Raises Forbidden, or NotFound where the room has no such state.
    """
    if key == "" and event_type in LEVEL_TYPES:
        reader, state = room_state.read_state(requester, room_id, LEVEL_KEYS)
        room = DraftRoom.of(state, reader.view.rules)
        levels = state.get(POWER_LEVELS)
        return level_projection(event_type, levels.content if levels is not None else None, room.creators)
    if key == "" and event_type == CONFIG:
        return _config(requester, room_id).content(settings().server_name)
    content: Mapping[str, Any] = room_state.state_event(requester, room_id, event_type, key)["content"]
    return content


def _config(requester: Requester, room_id: str) -> RoomConfig:
    preview = preview_key(room_id)
    reader, state = room_state.read_state(requester, room_id, CONFIG_STATE, extras=[preview])
    # The state that the requester may see, which of who has left is not the current one.
    view = replace(reader.view, state={key: StateEntry(event, 0, None) for key, event in state.items()})
    return config_of(view, reader.view.extras.get(preview))
