"""`/sync`: what happened in a user's rooms since a token.

The token records what was delivered, the inbox what there is; only rooms where the two differ are read. Every room is
read up to the position that its slot announced, consistently and without a gap, and what could not be read counts as
not delivered: so nothing is skipped whatever the inbox's eventual reads say.

Rounds, one after the other: the inbox; whatever its numbers announce outside of rooms, only if they do; heads, rows of
the user and timelines of the rooms that moved. State that changed takes more.

Source: client-server API v1.19, "Syncing"; `docs/architecture.md`.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from homeserver.matrix.filters import Filter, parse_filter, project_event_fields
from homeserver.matrix.room_versions import ROOM_VERSIONS
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
from homeserver.services.sync_rooms import RoomAnswer, RoomTask, View, answer_room, first_window, is_over
from homeserver.storage import invites, slots, state_nodes, timeline_cache, user_data
from homeserver.storage.connection import Key, batch_get, connection, in_parallel
from homeserver.storage.inbox import read_inbox
from homeserver.storage.inbox_shards import Inbox
from homeserver.storage.invites import Invite
from homeserver.storage.large_rooms import look_at_heads
from homeserver.storage.room_items import HEAD, Head, LocalMember
from homeserver.storage.rooms import RoomView
from homeserver.storage.server import identity
from homeserver.storage.timeline_cache import Ahead
from homeserver.storage.user_data import AccountData

MOST_BYTES = 4_000_000  # Lambda passes 6 MB
MOST_SECONDS = 15.0
_ROOMS_AT_ONCE = 8
_NO_FILTER = parse_filter({})


@dataclass(frozen=True, slots=True)
class SyncQuestion:
    """What a client asks; `since` is None for an initial sync."""

    requester: Requester
    since: str | None = None
    filter_text: str | None = None
    full_state: bool = False
    use_state_after: bool = False


@dataclass(slots=True)
class SyncResult:
    """The answer's body, the token in it, and whether it tells anything but the token."""

    body: dict[str, Any]
    next_batch: str
    empty: bool


@dataclass(slots=True)
class _News:
    """What there is to tell but for the rooms' contents: read after the inbox, all at once."""

    tasks: list[RoomTask]
    account_data: list[AccountData]
    invites: list[Invite]
    views: dict[str, View] = field(default_factory=dict)
    ahead: dict[str, Ahead] = field(default_factory=dict)


def sync(question: SyncQuestion) -> SyncResult:
    """Answer one sync at once. Raises InvalidParam for a token or filter that cannot be used."""
    started = time.monotonic()
    requester = question.requester
    user_id = requester.user_id
    token = decode_token(requester, question.since)
    inbox, wanted, epoch, bases, _ = in_parallel(
        partial(read_inbox, user_id, consistent=question.since is None),
        partial(_filter_of, user_id, question.filter_text),
        lambda: identity().epoch,
        partial(read_bases, requester, token),
        partial(slots.read_ahead, user_id),
    )
    told = delivered_before(token, bases, epoch)
    look_at_heads(connection().dispatch, user_id, inbox, consistent=True)
    check_reached(user_id, told, inbox)
    initial = question.since is None or told.again
    news = _read_news(question, inbox, told, wanted, initial=initial)

    rooms: dict[str, dict[str, Any]] = {"join": {}, "invite": {}, "leave": {}, "knock": {}}
    size = 0
    by_room = _account_data_by_room(news.account_data)
    for answer in _answers(question, news, wanted):
        told.positions[answer.task.slot] = max(answer.position, told.positions.get(answer.task.slot, 0))
        own = by_room.pop(answer.task.room_id, []) if answer.section == "join" else []
        body = _room_body(answer, own, wanted, question)
        if body is None:
            continue
        length = len(orjson.dumps(body))
        if size and (size + length > MOST_BYTES or time.monotonic() - started > MOST_SECONDS):
            # What does not fit keeps its old position, and comes with the next sync, at once.
            told.positions[answer.task.slot] = answer.task.since
            break
        size += length
        rooms[answer.section][answer.task.room_id] = body
    _add_account_data_only(rooms["join"], by_room, news.views, wanted)
    for invite in news.invites:
        _add_invite(rooms, invite, news.views, initial=initial)

    body = {"next_batch": next_token(requester, told, epoch)}
    sections = {section: content for section, content in rooms.items() if content}
    if sections:
        body["rooms"] = sections
    account = [
        {"type": item.type, "content": item.content}
        for item in news.account_data
        if item.room_id is None and wanted.account_data.matches(item.type, None)
    ]
    if account:
        body["account_data"] = {"events": account}
    return SyncResult(body, body["next_batch"], empty=len(body) == 1)


def _filter_of(user_id: str, text: str | None) -> Filter:
    return load_filter(user_id, text) if text else _NO_FILTER


def _read_news(question: SyncQuestion, inbox: Inbox, told: Delivered, wanted: Filter, *, initial: bool) -> _News:
    """Everything that the answer is made of, but for what only a room's head tells to read: two rounds at most."""
    user_id = question.requester.user_id
    moved = {
        slot: state
        for slot, state in inbox.slots.items()
        if state.position and (question.full_state or state.position > told.positions.get(slot, 0))
    }
    asks = [stream for stream in ("account_data", "invites") if initial or _is_announced(inbox, told, stream)]
    rooms, changes, known_invites = in_parallel(
        partial(slots.rooms_of_slots, user_id, moved),
        partial(user_data.changes_since, user_id, told.streams.get("account_data", 0))
        if "account_data" in asks
        else list,
        partial(invites.invites_of, user_id) if "invites" in asks else list,
    )
    news = _News([], changes, _new_invites(known_invites, told, wanted))
    # Numbers that were read are told, never those that are announced: an item may be visible later than its number.
    for stream, numbers in (
        ("account_data", [change.n for change in changes]),
        ("invites", [invite.number for invite in known_invites]),
    ):
        told.streams[stream] = max([told.streams.get(stream, 0), *numbers])
    for slot, state in moved.items():
        room_id = rooms.get(slot)
        since = told.positions.get(slot, 0)
        if room_id is None:
            continue  # the slot is too new to be seen: it is not told, and comes with the next sync
        if wanted.room.includes_room(room_id):
            news.tasks.append(RoomTask(room_id, slot, since, state.position, state.arrived, initial, told.again))
        else:
            told.positions[slot] = max(since, state.position)
    news.tasks.sort(key=lambda task: -task.arrived)
    others = {change.room_id for change in changes if change.room_id} | {invite.room_id for invite in news.invites}
    _read_rooms(user_id, news, others, wanted)
    _settle_invites(news, told)
    return news


def _is_announced(inbox: Inbox, told: Delivered, stream: str) -> bool:
    return inbox.streams.get(stream, 0) > told.streams.get(stream, 0)


def _new_invites(known: Sequence[Invite], told: Delivered, wanted: Filter) -> list[Invite]:
    before = told.streams.get("invites", 0)
    return [invite for invite in known if invite.number > before and wanted.room.includes_room(invite.room_id)]


def _read_rooms(user_id: str, news: _News, others: Iterable[str], wanted: Filter) -> None:
    """Heads and rows of all rooms, and beside them the timelines of the first few."""
    room_ids = {task.room_id for task in news.tasks} | set(others)
    if not room_ids:
        return
    first = news.tasks[:_ROOMS_AT_ONCE]
    calls = [
        partial(timeline_cache.read_ahead, task.room_id, *first_window(task, wanted.room.timeline)) for task in first
    ]
    news.views, *read = in_parallel(partial(_views, user_id, room_ids), *calls)
    news.ahead = {task.room_id: ahead for task, ahead in zip(first, read, strict=True)}
    # A slot beyond where its user left: they may have come back, in a commit of which the row was not visible yet.
    doubtful = [task.room_id for task in news.tasks if _left_before(news.views.get(task.room_id), task.target)]
    if doubtful:
        news.views |= _views(user_id, doubtful)


def _left_before(view: View | None, position: int) -> bool:
    row = view[1] if view is not None else None
    return row is not None and row.membership != "join" and int(row.left_at or 0) < position


def _views(user_id: str, room_ids: Iterable[str]) -> dict[str, View]:
    rooms = list(room_ids)
    keys: list[Key] = [(Head, room_id, HEAD) for room_id in rooms]
    keys += [(LocalMember, room_id, f"local/{user_id}") for room_id in rooms]
    found = batch_get(keys, consistent=True)
    views = {}
    for room_id in rooms:
        head = found.get((Head, room_id, HEAD))
        if head is not None:
            row = found.get((LocalMember, room_id, f"local/{user_id}"))
            views[room_id] = (RoomView(head, ROOM_VERSIONS[head.room_version]), row)
    return views


def _settle_invites(news: _News, told: Delivered) -> None:
    """An invitation that is newer than the row that was read comes next time: only the row says if it still stands."""
    early = [
        invite.number
        for invite in news.invites
        if invite.room_id not in news.views
        or news.views[invite.room_id][1] is None
        or int(news.views[invite.room_id][1].position) < invite.position  # type: ignore[union-attr]  # not None
    ]
    if early:
        news.invites = [invite for invite in news.invites if invite.number < min(early)]
        told.streams["invites"] = min(early) - 1


def _answers(question: SyncQuestion, news: _News, wanted: Filter) -> Iterator[RoomAnswer]:
    """The rooms in the order of the tasks; rooms are read a few at a time, so that a full answer reads no further."""
    tasks = []
    for task in news.tasks:
        row = news.views[task.room_id][1] if task.room_id in news.views else None
        if row is None:
            continue  # where there is a slot there is a row: it cannot be read yet, and nothing is told
        if is_over(task, row, wanted, full_state=question.full_state):
            yield RoomAnswer(task, "leave", task.target)
        else:
            tasks.append(task)
    # A room that is told from scratch needs its whole state: one round for all instead of one for each.
    new_rooms = [news.views[task.room_id][0].head for task in tasks if task.since == 0]
    if len(new_rooms) > 1:
        state_nodes.read_ahead((head.room, bytes(head.root)) for head in new_rooms)
    for start in range(0, len(tasks), _ROOMS_AT_ONCE):
        yield from in_parallel(
            *[
                partial(
                    answer_room,
                    question.requester,
                    task,
                    news.views[task.room_id],
                    wanted,
                    news.ahead.get(task.room_id, timeline_cache.NOTHING_AHEAD),
                    full_state=question.full_state,
                    state_after=question.use_state_after,
                )
                for task in tasks[start : start + _ROOMS_AT_ONCE]
            ]
        )


def _account_data_by_room(changes: list[AccountData]) -> dict[str, list[AccountData]]:
    by_room: dict[str, list[AccountData]] = {}
    for change in changes:
        if change.room_id is not None:
            by_room.setdefault(change.room_id, []).append(change)
    return by_room


def _room_account_data(changes: list[AccountData], wanted: Filter) -> list[dict[str, Any]]:
    events = ({"type": change.type, "content": change.content} for change in changes)
    return [event for event in events if wanted.room.account_data.matches({**event, "sender": ""}, "")]


def _room_body(
    answer: RoomAnswer, changes: list[AccountData], wanted: Filter, question: SyncQuestion
) -> dict[str, Any] | None:
    """One room's part of the answer; None if it tells nothing."""
    account = _room_account_data(changes, wanted)
    if answer.is_silent and not account:
        return None
    body: dict[str, Any] = {
        "timeline": {
            "events": _projected(answer.timeline, wanted),
            "limited": answer.limited,
            "prev_batch": answer.prev_batch,
        },
        "state_after" if question.use_state_after else "state": {"events": _projected(answer.state, wanted)},
    }
    if account:
        body["account_data"] = {"events": account}
    if answer.summary and answer.section == "join":
        body["summary"] = answer.summary
    return body


def _projected(events: list[dict[str, Any]], wanted: Filter) -> list[dict[str, Any]]:
    if wanted.event_fields is None:
        return events
    return [project_event_fields(event, wanted.event_fields) for event in events]


def _add_account_data_only(
    joined: dict[str, Any], by_room: Mapping[str, list[AccountData]], views: Mapping[str, View], wanted: Filter
) -> None:
    """Rooms in which nothing happened but that the user changed their own data."""
    for room_id, changes in by_room.items():
        row = views[room_id][1] if room_id in views else None
        account = _room_account_data(changes, wanted)
        if account and row is not None and row.membership == "join" and wanted.room.includes_room(room_id):
            joined.setdefault(room_id, {})["account_data"] = {"events": account}


def _add_invite(rooms: dict[str, dict[str, Any]], invite: Invite, views: Mapping[str, View], *, initial: bool) -> None:
    """A pending invitation, or the end of one that this device was told of."""
    row = views[invite.room_id][1]
    if row is None:
        return
    if invite.membership == "invite" and row.membership == "invite":
        rooms["invite"][invite.room_id] = {"invite_state": {"events": invite.events}}
    elif invite.membership == "leave" and row.membership in {"leave", "ban"} and not initial:
        if row.left_at == invite.position:
            return  # who had joined before they left is told so by the room itself
        told = {"timeline": {"events": invite.events, "limited": False}, "state": {"events": []}}
        rooms["leave"].setdefault(invite.room_id, told)
