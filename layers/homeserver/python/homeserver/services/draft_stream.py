"""The event stream of the 2014 draft: `GET /initialSync` and `GET /events`, over what `/sync` reads.

A token is one of `/sync`, and one of `/sync` goes on here. Beside the events of joined rooms the stream has who is
typing (`m.typing`), receipts (`m.receipt`), and what becomes of the user in rooms: invitations, and that they are out.

Source: the draft, "Receiving live updates on a client"; the client-server specification of autumn 2014, "Syncing
rooms", "Receiving events".
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.filters import parse_filter
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.draft_feedback import Feedback, read_feedback, with_feedback
from homeserver.services.draft_views import DraftRoom, load_draft_room, local_aliases, with_aliases
from homeserver.services.initial_sync import Snapshot, take_snapshot
from homeserver.services.legacy_events import (
    MOST_EVENTS,
    RoomEvents,
    events_only,
    new_memberships,
    room_events,
    where_it_stands,
)
from homeserver.services.sync import MOST_BYTES, Standing, SyncResult, read_standing
from homeserver.services.sync_delivered import Delivered, next_token
from homeserver.services.sync_news import News, read_news, tell_ephemeral
from homeserver.services.sync_rooms import RoomAnswer
from homeserver.storage.connection import in_parallel
from homeserver.storage.inbox_shards import Inbox

DEFAULT_EVENTS = MOST_EVENTS
_WANTED = parse_filter(events_only(ephemeral=True))


# ── /initialSync ─────────────────────────────────────────────────────────────


def draft_initial_sync(requester: Requester, *, limit: int, feedback: bool) -> SyncResult:
    """All rooms of the user with their state and their last `limit` messages, and the token to listen from.

    With `feedback` each message has who has got and who has read it. Who is typing and the receipts come as the first
    events. Raises TooLarge for what does not fit into one answer.
    """

    def beside(room_ids: Sequence[str]) -> list[Callable[[], Any]]:
        calls: list[Callable[[], Any]] = [partial(local_aliases, room_id) for room_id in room_ids]
        return calls + [partial(read_feedback, room_id, requester.user_id) for room_id in room_ids if feedback]

    snapshot = take_snapshot(requester, limit=limit, archived=False, beside=beside)
    count = len(snapshot.rooms)
    aliases, feedbacks = snapshot.more[:count], snapshot.more[count:] or [None] * count
    rooms = [_room(snapshot, *parts) for parts in zip(snapshot.rooms, aliases, feedbacks, strict=True)]
    rooms += [
        {
            "room_id": event["room_id"],
            "membership": "invite",
            "inviter": event["sender"],
            "visibility": snapshot.visibility(event["room_id"]),
        }
        for event in snapshot.invitations
    ]
    # What is no event of a room has not been told yet.
    told = replace(snapshot.told, ephemeral={}, typing={})
    end = next_token(requester, told, snapshot.epoch)
    return SyncResult({"end": end, "rooms": rooms, "presence": []}, end, empty=False)


def _room(snapshot: Snapshot, answer: RoomAnswer, aliases: list[str], feedback: Feedback | None) -> dict[str, Any]:
    room_id = answer.task.room_id
    state = [{**event, "room_id": room_id} for event in answer.state]
    room = DraftRoom.of_client_events(state)
    messages = [
        with_feedback(room.show({**event, "room_id": room_id}), position, feedback)
        for event, position in zip(answer.timeline, answer.positions, strict=True)
    ]
    return {
        "room_id": room_id,
        "membership": snapshot.membership(room_id),
        "visibility": snapshot.visibility(room_id),
        "messages": {"chunk": messages, "start": answer.prev_batch, "end": RoomToken(answer.position).encode()},
        "state": with_aliases(state, aliases, room),
    }


# ── /events ──────────────────────────────────────────────────────────────────


def draft_events(requester: Requester, since: str | None, *, limit: int, from_start: bool = False) -> SyncResult:
    """What happened since a token, the oldest first; without one nothing did, and `end` is where the stream stands.

    At most `limit` events of rooms, beside what is no event of a room and what becomes of the user; the rest comes with
    the next answer. `from_start`: instead of a token, from as far back as `limit` events of the user's present rooms.
    Raises InvalidParam for what is no sync token, and for one that means nothing any more.
    """
    standing = read_standing(requester, since, None)
    told = standing.told
    if told.again:
        raise InvalidParam("This token is too old: begin again with /initialSync.")
    if from_start:
        limit = min(limit, MOST_EVENTS)
    if since is None:
        told = _before_the_last(limit, standing.inbox) if from_start else where_it_stands(standing.inbox)
    start = since or next_token(requester, told, standing.epoch)
    chunk = _chunk(requester, standing, told, limit, newest=from_start) if since is not None or from_start else []
    end = next_token(requester, told, standing.epoch)
    return SyncResult({"start": start, "end": end, "chunk": chunk}, end, empty=not chunk)


def _before_the_last(limit: int, inbox: Inbox) -> Delivered:
    """As if the user had been told everything but the last events of each room, and what is no event."""
    return Delivered(
        {slot: max(0, state.position - limit) for slot, state in inbox.slots.items()},
        streams={name: number for name, number in inbox.streams.items() if name != "invites"},
    )


def _chunk(
    requester: Requester, standing: Standing, told: Delivered, limit: int, *, newest: bool
) -> list[dict[str, Any]]:
    """What there is to tell, at most `limit` events of rooms: the oldest, or the `newest`; `told` takes it up."""
    news = read_news(
        requester.user_id, standing.inbox, told, _WANTED, initial=False, full_state=False, with_state=False
    )
    rooms, views = _read_rooms(requester, news)
    shown = [room for room in rooms if not newest or _is_joined(news, room.task.room_id)]
    told.positions.update({room.task.slot: room.position for room in rooms})
    events = sorted(
        ((entry.arrived, entry.position, room, event) for room in shown for entry, event in _pairs(room)),
        key=lambda each: each[0],  # which never runs backwards in a room
    )
    kept = events[-limit:] if newest else events[:limit]
    if not newest:
        for _, position, room, _ in reversed(events[limit:]):
            told.positions[room.task.slot] = position - 1  # the first that is left out comes next
    chunk = [DraftRoom().show(event) for event in new_memberships(requester, news)]
    chunk += [views.get(room.task.room_id, DraftRoom()).show(event) for _, _, room, event in kept]
    return chunk + _ephemeral(news, told, rooms)


def _is_joined(news: News, room_id: str) -> bool:
    row = news.rows.get(room_id)
    return row is not None and row.membership == "join"


def _pairs(room: RoomEvents) -> list[tuple[Any, dict[str, Any]]]:
    return list(zip(room.entries, room.events, strict=True))


def _read_rooms(requester: Requester, news: News) -> tuple[list[RoomEvents], dict[str, DraftRoom]]:
    """The next events of the rooms that moved, up to 4 MB, and beside them the levels of those whose state moved."""
    changed = [
        task.room_id
        for task in news.tasks
        if task.room_id in news.views and int(news.views[task.room_id][0].head.state_position) > task.since
    ]
    count = len(news.tasks)
    found = in_parallel(
        *[partial(room_events, requester, task, news) for task in news.tasks],
        *[partial(load_draft_room, room_id) for room_id in changed],
    )
    rooms, size = list[RoomEvents](), 0
    for room in found[:count]:
        length = len(orjson.dumps(room.events))
        if size and size + length > MOST_BYTES:
            continue  # it keeps its old position, and comes with the next answer
        size += length
        rooms.append(room)
    return rooms, dict(zip(changed, found[count:], strict=True))


def _ephemeral(news: News, told: Delivered, rooms: Sequence[RoomEvents]) -> list[dict[str, Any]]:
    """Who is typing, and receipts, of the rooms that the user is in; those of a room that is behind come with it."""
    behind = {task.room_id for task in news.tasks if told.positions.get(task.slot, 0) < task.target}
    events = []
    for room_id in list(news.ephemeral):
        is_new = not told.positions.get(news.slots[room_id])
        if room_id not in news.rows or room_id in behind or (is_new and _is_joined(news, room_id)):
            continue
        found = tell_ephemeral(news, room_id, told, _WANTED)
        if _is_joined(news, room_id):
            events += [{"type": event["type"], "room_id": room_id, "content": event["content"]} for event in found]
    return events
