"""`GET /events`, from before `/sync`: the events since a token, oldest first and without gaps; nothing but events.

A token is one of `/sync`, or of a room's timeline where the events of one room are asked for. An answer has a bounded
number of events of each room; its `end` says how far it got, and the rest comes with the next one.

Source: client-server API v1.19, "Listening for events" (deprecated), `GET /_matrix/client/v3/events`; "Room Previews".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from homeserver.matrix.client_event import client_event
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.filters import parse_filter
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.event_view import show
from homeserver.services.room_state import last_before, timeline_token
from homeserver.services.sync import MOST_BYTES, SyncResult, read_standing
from homeserver.services.sync_delivered import Delivered, next_token
from homeserver.services.sync_news import News, read_news
from homeserver.services.sync_rooms import RoomTask, is_over
from homeserver.services.visibility import Reader, reader_of
from homeserver.storage.connection import Key, batch_get, in_parallel
from homeserver.storage.inbox_shards import Inbox
from homeserver.storage.invites import Invite
from homeserver.storage.out_of_band import out_of_band_key
from homeserver.storage.room_items import EventRecord
from homeserver.storage.timeline import Entry, read_positions
from homeserver.storage.timeline_cache import NOTHING_AHEAD, read_timeline

MOST_EVENTS = 100  # of one room in one answer


def events_only(*, ephemeral: bool = False) -> dict[str, Any]:
    """The filter of streams of events, as clients write filters: no account data; `ephemeral`: what is no event too."""
    return {
        "account_data": {"types": []},
        "room": {
            "account_data": {"types": []},
            "ephemeral": {} if ephemeral else {"types": []},
            "timeline": {"limit": MOST_EVENTS},
            "include_leave": True,
        },
    }


_EVENTS_ONLY = parse_filter(events_only())


@dataclass(slots=True)
class RoomEvents:
    """The next entries of a room, and how far it will have been told with them."""

    task: RoomTask
    position: int
    entries: list[Entry] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


def events_since(requester: Requester, since: str | None) -> SyncResult:
    """The events of the user's rooms since a token; without one there are none, and `end` is where the stream stands.

    Raises InvalidParam for what is no sync token, and for one that means nothing any more.
    """
    standing = read_standing(requester, since, None)
    told = standing.told
    if told.again:
        raise InvalidParam("This token is too old: begin again with /initialSync.")
    if since is None:
        told = where_it_stands(standing.inbox)
        return _result(None, next_token(requester, told, standing.epoch), [])
    news = read_news(
        requester.user_id, standing.inbox, told, _EVENTS_ONLY, initial=False, full_state=False, with_state=False
    )
    chunk = [(0, event) for event in new_memberships(requester, news)]
    size = 0
    for room in in_parallel(*[partial(room_events, requester, task, news) for task in news.tasks]):
        length = len(orjson.dumps(room.events))
        if size and size + length > MOST_BYTES:
            continue  # it keeps its old position, and comes with the next answer
        size += length
        told.positions[room.task.slot] = room.position
        chunk += zip((entry.arrived for entry in room.entries), room.events, strict=True)
    # By the time of arrival, which never runs backwards in a room.
    chunk.sort(key=lambda pair: pair[0])
    return _result(since, next_token(requester, told, standing.epoch), [event for _, event in chunk])


def _result(start: str | None, end: str, chunk: list[dict[str, Any]]) -> SyncResult:
    return SyncResult({"start": start or end, "end": end, "chunk": chunk}, end, empty=not chunk)


def where_it_stands(inbox: Inbox) -> Delivered:
    """Everything that the inbox announces counts as told: who begins to listen wants what comes from now on."""
    return Delivered(
        {slot: state.position for slot, state in inbox.slots.items()},
        {slot: state.ephemeral for slot, state in inbox.slots.items()},
        {},
        dict(inbox.streams),
    )


def room_events(requester: Requester, task: RoomTask, news: News) -> RoomEvents:
    """The next events of a room that the user may see; none of the time before they joined."""
    view, row = news.views.get(task.room_id), news.rows.get(task.room_id)
    if view is None or row is None:
        return RoomEvents(task, task.since)
    if is_over(task, row, _EVENTS_ONLY, full_state=False):
        return RoomEvents(task, task.target)
    reader = Reader(requester.user_id, *view)
    since = max(task.since, int(row.joined_since or 0) - 1)
    last = min(task.target, reader.last_position) if reader.is_joined else int(row.left_at or 0)
    ahead = news.ahead.get(task.room_id, NOTHING_AHEAD)
    entries = read_timeline(view[0].head, since + 1, min(last, since + MOST_EVENTS), ahead)
    position = entries[-1].position if entries else since
    shown = _shown(reader, entries, news.ignored)
    events = [show(entry, task.room_id, requester) for entry in shown]
    # Beyond their last position there is nothing for someone who left, whatever the slot says.
    done = not reader.is_joined and position >= last
    return RoomEvents(task, max(position, task.target) if done else position, shown, events)


def _shown(reader: Reader, entries: list[Entry], ignored: Iterable[str]) -> list[Entry]:
    return [
        entry
        for entry in reader.visible(entries)
        if entry.pdu is not None and (entry.pdu["sender"] not in ignored or "state_key" in entry.pdu)
    ]


def new_memberships(requester: Requester, news: News) -> list[dict[str, Any]]:
    """The membership events of new invitations and knocks, and of those that ended."""
    user_id = requester.user_id
    wanted = [invite for invite in news.invites if _stands(invite, news)]
    return membership_events({invite.room_id: news.rows[invite.room_id].event_id for invite in wanted}, user_id)


def _stands(invite: Invite, news: News) -> bool:
    row = news.rows[invite.room_id]
    if invite.membership == "leave":
        return row.membership in {"leave", "ban"} and row.left_at != invite.position
    return invite.membership == row.membership and invite.membership != "join"


def membership_events(event_ids: dict[str, str], user_id: str) -> list[dict[str, Any]]:
    """The user's own membership events in client format, by room and event ID: one round. Absent ones are left out."""
    keys: list[Key] = [(EventRecord, event_id, None) for event_id in event_ids.values()]
    keys += [out_of_band_key(room_id, user_id) for room_id in event_ids]
    found = batch_get(keys, consistent=True)
    events = []
    for room_id, event_id in event_ids.items():
        record = found.get((EventRecord, event_id, None))
        pdu = unpack(record.packed) if record is not None and record.packed is not None else {}
        # Of a room that this server is not in.
        outside = found.get(out_of_band_key(room_id, user_id))
        if outside is not None and outside.event_id == event_id:
            pdu = unpack(outside.packed)
        if pdu.get("state_key") == user_id:
            events.append(client_event(event_id, room_id, pdu))
    return events


def events_of_room(requester: Requester, room_id: str, since: str | None) -> SyncResult:
    """The events of one room, which the user is in, was in, or which is open to the world.

    Raises Forbidden for any other room, InvalidParam for what is neither a room ID nor a token of the room.
    """
    reader = reader_of(requester.user_id, room_id)
    last = reader.last_position
    position = last_before(timeline_token(since, reader, requester)) if since is not None else last
    entries = read_positions(room_id, position + 1, min(last, position + MOST_EVENTS))
    chunk = [show(entry, room_id, requester) for entry in _shown(reader, entries, ())]
    return _result(since, RoomToken(entries[-1].position if entries else position).encode(), chunk)
