"""`/sync`: what happened in a user's rooms since a token.

The token records what was delivered, the inbox what there is; only rooms where the two differ are read. Every room is
read up to the position that its slot announced, consistently and without a gap, and what could not be read counts as
not delivered: so nothing is skipped whatever the inbox's eventual reads say.

Rounds, one after the other: the inbox; whatever its numbers announce outside of rooms, only if they do; heads, rows of
the user, timelines and ephemeral events of the rooms that moved. State that changed takes more.

Source: client-server API v1.19, "Syncing"; `docs/architecture.md`.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from homeserver.matrix.filters import Filter, parse_filter
from homeserver.services.access_tokens import Requester
from homeserver.services.filters import load_filter
from homeserver.services.sync_delivered import (
    Delivered,
    check_reached,
    decode_token,
    delivered_before,
    next_token,
    read_bases,
)
from homeserver.services.sync_news import (
    News,
    Streams,
    account_data_by_room,
    data_of_room,
    read_news,
    reads_of_streams,
    room_answers,
    tell_ephemeral,
)
from homeserver.services.sync_rooms import Question, RoomAnswer
from homeserver.storage import room_counts, slots, timeline_cache
from homeserver.storage.connection import connection, in_parallel
from homeserver.storage.inbox import read_inbox
from homeserver.storage.inbox_shards import Inbox
from homeserver.storage.invites import Invite
from homeserver.storage.large_rooms import look_at_heads, marked_slots
from homeserver.storage.room_items import LocalMember
from homeserver.storage.server import identity
from homeserver.storage.user_data import AccountData

MOST_BYTES = 4_000_000  # Lambda passes 6 MB
MOST_SECONDS = 15.0
_LARGE_ROOMS = 8  # of which it is looked up, a read each, where the client stood before it is known whether they moved
# Under which names `state_after` goes, by the name of the parameter that asks for it.
STATE_AFTER = {
    "use_state_after": "state_after",
    "org.matrix.msc4222.use_state_after": "org.matrix.msc4222.state_after",
}
_NO_FILTER = parse_filter({})


@dataclass(frozen=True, slots=True)
class SyncQuestion:
    """What a client asks; `since` is None for an initial sync.

    `state_after`: under which names the state at the end of the timelines is told, instead of that at their start.
    """

    requester: Requester
    since: str | None = None
    filter_text: str | None = None
    full_state: bool = False
    state_after: tuple[str, ...] = ()


@dataclass(slots=True)
class SyncResult:
    """The answer's body, the token in it, and whether it tells anything but the token."""

    body: dict[str, Any]
    next_batch: str
    empty: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a user's inbox is, what the client was told of it, and through which filter it looks.

    `streams` is what there is to tell outside of rooms, where it was asked for.
    """

    inbox: Inbox
    told: Delivered
    wanted: Filter
    epoch: int
    streams: Streams | None = None


def read_standing(
    requester: Requester, since: str | None, filter_text: str | None, *, with_streams: bool = False
) -> Standing:
    """The inbox and what a token says was told of it. Raises InvalidParam for what cannot be used.

    One round; one more for the heads of large rooms and, `with_streams`, for what there is outside of rooms, and for
    where large rooms were before.
    """
    user_id = requester.user_id
    token = decode_token(requester, since)
    inbox, wanted, epoch, bases, _ = in_parallel(
        partial(read_inbox, user_id, consistent=since is None),
        lambda: load_filter(user_id, filter_text) if filter_text else _NO_FILTER,
        lambda: identity().epoch,
        partial(read_bases, requester, token),
        partial(slots.read_ahead, user_id),
    )
    told = delivered_before(token, bases, epoch)
    reads = reads_of_streams(user_id, inbox, told, initial=since is None or told.again) if with_streams else ()
    rooms = slots.rooms_of_slots(user_id, marked_slots(inbox))  # mostly known by now
    behind = [(room_id, told.positions[slot]) for slot, room_id in rooms.items() if told.positions.get(slot)]
    behind = behind[:_LARGE_ROOMS] if with_streams else []
    _, _, *answers = in_parallel(
        partial(_look_at_large_rooms, user_id, inbox, rooms),
        partial(room_counts.learn_counts, [room_id for room_id, _ in behind]),
        *reads,
        *[partial(timeline_cache.learn_root, room_id, position) for room_id, position in behind],
    )
    streams = answers[: len(reads)]
    check_reached(user_id, told, inbox)
    return Standing(inbox, told, wanted, epoch, Streams(*streams) if with_streams else None)


def _look_at_large_rooms(user_id: str, inbox: Inbox, rooms: Mapping[int, str]) -> None:
    look_at_heads(connection().dispatch, user_id, inbox, consistent=True, ephemeral=True, rooms=rooms)


def sync(question: SyncQuestion) -> SyncResult:
    """Answer one sync at once. Raises InvalidParam for a token or filter that cannot be used."""
    started = time.monotonic()
    requester = question.requester
    standing = read_standing(requester, question.since, question.filter_text, with_streams=True)
    told, wanted = standing.told, standing.wanted
    initial = question.since is None or told.again
    news = read_news(
        requester.user_id,
        standing.inbox,
        told,
        wanted,
        initial=initial,
        full_state=question.full_state,
        streams=standing.streams,
    )
    rooms: dict[str, dict[str, Any]] = {"join": {}, "invite": {}, "leave": {}, "knock": {}}
    size = 0
    by_room = account_data_by_room(news.account_data)
    asked = Question(requester, wanted, news.ignored, question.full_state, bool(question.state_after))
    for answer in room_answers(asked, news):
        room_id, slot = answer.task.room_id, answer.task.slot
        before = told.ephemeral.get(slot, 0)
        told.positions[slot] = max(answer.position, told.positions.get(slot, 0))
        ephemeral = tell_ephemeral(news, room_id, told, wanted) if answer.section == "join" and answer.position else []
        own = data_of_room(requester.user_id, answer, by_room, told, wanted)
        body = _room_body(answer, own, ephemeral, question)
        if body is None:
            continue
        length = len(orjson.dumps(body))
        if size and (size + length > MOST_BYTES or time.monotonic() - started > MOST_SECONDS):
            # What does not fit keeps its old position, and comes with the next sync, at once.
            told.positions[slot], told.ephemeral[slot] = answer.task.since, before
            break
        size += length
        by_room.pop(room_id, None)
        rooms[answer.section][room_id] = body
    _add_account_data_only(rooms["join"], by_room, news.rows)
    _add_ephemeral_only(rooms["join"], news, told, wanted)
    for invite in news.invites:
        _add_invite(rooms, invite, news.rows, question, initial=initial)

    body = {"next_batch": next_token(requester, told, standing.epoch)}
    sections = {section: content for section, content in rooms.items() if content}
    if sections:
        body["rooms"] = sections
    account = [change for change in news.account_data if change.room_id is None]
    if account:
        body["account_data"] = _events(account)
    return SyncResult(body, body["next_batch"], empty=len(body) == 1)


def _events(changes: Iterable[AccountData]) -> dict[str, Any]:
    return {"events": [{"type": change.type, "content": change.content} for change in changes]}


def _room_body(
    answer: RoomAnswer, changes: list[AccountData], ephemeral: list[dict[str, Any]], question: SyncQuestion
) -> dict[str, Any] | None:
    """One room's part of the answer; None if it tells nothing. What the user noted of a room that is over is none."""
    if answer.is_silent and (answer.section == "leave" or not (changes or ephemeral)):
        return None
    body: dict[str, Any] = {
        "timeline": {"events": answer.timeline, "limited": answer.limited, "prev_batch": answer.prev_batch},
        **_state_block(answer.state, question),
    }
    if changes:
        body["account_data"] = _events(changes)
    if ephemeral:
        body["ephemeral"] = {"events": ephemeral}
    if answer.summary and answer.section == "join":
        body["summary"] = answer.summary
    return body


def _state_block(events: list[dict[str, Any]], question: SyncQuestion) -> dict[str, Any]:
    return {name: {"events": events} for name in question.state_after or ("state",)}


def _add_account_data_only(
    joined: dict[str, Any], by_room: Mapping[str, list[AccountData]], rows: Mapping[str, LocalMember]
) -> None:
    """Rooms in which nothing happened but that the user changed their own data."""
    for room_id, changes in by_room.items():
        if room_id in rows and rows[room_id].membership == "join":
            joined.setdefault(room_id, {})["account_data"] = _events(changes)


def _add_ephemeral_only(joined: dict[str, Any], news: News, told: Delivered, wanted: Filter) -> None:
    """Rooms in which nothing happened but receipts and typing. What a room has that is still to come, comes with it."""
    for room_id in list(news.ephemeral):
        row, slot = news.rows.get(room_id), news.slots[room_id]
        if row is None or (row.membership == "join" and not told.positions.get(slot)):
            continue
        events = tell_ephemeral(news, room_id, told, wanted)
        if events and row.membership == "join":
            joined.setdefault(room_id, {})["ephemeral"] = {"events": events}


def _add_invite(
    rooms: dict[str, dict[str, Any]],
    invite: Invite,
    rows: Mapping[str, LocalMember],
    question: SyncQuestion,
    *,
    initial: bool,
) -> None:
    """A pending invitation or knock, or the end of one that this device was told of."""
    row = rows[invite.room_id]
    if invite.membership == "invite" and row.membership == "invite":
        rooms["invite"][invite.room_id] = {"invite_state": {"events": invite.events}}
    elif invite.membership == "knock" and row.membership == "knock":
        rooms["knock"][invite.room_id] = {"knock_state": {"events": invite.events}}
    elif invite.membership == "leave" and row.membership in {"leave", "ban"} and not initial:
        if row.left_at == invite.position:
            return  # who had joined before they left is told so by the room itself
        told = {"timeline": {"events": invite.events, "limited": False}, **_state_block([], question)}
        rooms["leave"].setdefault(invite.room_id, told)
