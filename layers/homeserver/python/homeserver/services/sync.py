"""`/sync`: what happened in a user's rooms since a token.

The token records what was delivered, the inbox what there is; only rooms where the two differ are read. Every room is
read up to the position that its slot announced, consistently and without a gap, so nothing is skipped whatever the
inbox's eventual reads say.

Source: client-server API v1.19, "Syncing"; `docs/architecture.md`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson
from pynamodb.exceptions import VerboseClientError

from homeserver.matrix.filters import Filter, parse_filter, project_event_fields
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.sync_token import SyncToken, user_tag
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.filters import load_filter
from homeserver.services.sync_rooms import RoomAnswer, RoomTask, answer_rooms
from homeserver.storage import invites, sync_bases, user_data
from homeserver.storage.connection import batch_get, connection, in_parallel
from homeserver.storage.inbox import read_inbox
from homeserver.storage.inbox_shards import Inbox
from homeserver.storage.room_items import HEAD, Head, LocalMember
from homeserver.storage.rooms import RoomView
from homeserver.storage.server import identity
from homeserver.storage.slots import rooms_of_slots
from homeserver.storage.user_data import AccountData

MOST_BYTES = 4_000_000  # Lambda passes 6 MB
MOST_SECONDS = 15.0
LONGEST_TOKEN = 1024  # characters; beyond it the positions go into a stored base
_NO_FILTER = parse_filter({})


@dataclass(frozen=True, slots=True)
class SyncQuestion:
    """What a client asks; `since` is None for an initial sync."""

    requester: Requester
    since: str | None = None
    filter_text: str | None = None
    full_state: bool = False


@dataclass(slots=True)
class SyncResult:
    """The answer's body, the token in it, and whether it tells anything but the token."""

    body: dict[str, Any]
    next_batch: str
    empty: bool


@dataclass(slots=True)
class _Told:
    """What was delivered before, and will have been delivered after this answer."""

    positions: dict[int, int] = field(default_factory=dict)
    ephemeral: dict[int, int] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)
    base: int = 0
    base_positions: Mapping[int, int] = field(default_factory=dict)


def sync(question: SyncQuestion) -> SyncResult:
    """Answer one sync at once. Raises InvalidParam for a token or filter that cannot be used."""
    started = time.monotonic()
    requester = question.requester
    user_id = requester.user_id
    inbox, wanted, epoch = in_parallel(
        partial(read_inbox, user_id, consistent=question.since is None),
        partial(_filter_of, user_id, question.filter_text),
        lambda: identity().epoch,
    )
    told, initial = _told_before(requester, question.since, epoch)
    tasks, views, changes, invited = _read(question, inbox, told, wanted, initial=initial)

    rooms: dict[str, dict[str, Any]] = {"join": {}, "invite": {}, "leave": {}, "knock": {}}
    size = 0
    by_room = _account_data_by_room(changes)
    for answer in answer_rooms(requester, tasks, views, wanted, full_state=question.full_state):
        body = _room_body(answer, by_room.pop(answer.task.room_id, []), wanted)
        if body is not None:
            length = len(orjson.dumps(body))
            late = time.monotonic() - started > MOST_SECONDS
            if (size + length > MOST_BYTES or late) and size:
                break  # the rooms that do not fit keep their old position and come with the next sync, at once
            size += length
            rooms[answer.section][answer.task.room_id] = body
        told.positions[answer.task.slot] = answer.position
    _add_account_data_only(rooms["join"], by_room, views, wanted)
    for invite in invited:
        _add_invite(rooms, invite, views, initial=initial)
    told.streams = {**told.streams, **{k: max(v, told.streams.get(k, 0)) for k, v in inbox.streams.items()}}

    token = _next_token(requester, told, epoch)
    body = {"next_batch": token}
    sections = {section: content for section, content in rooms.items() if content}
    if sections:
        body["rooms"] = sections
    account = [
        {"type": item.type, "content": item.content}
        for item in changes
        if item.room_id is None and wanted.account_data.matches(item.type, None)
    ]
    if account:
        body["account_data"] = {"events": account}
    return SyncResult(body, token, empty=len(body) == 1)


def _filter_of(user_id: str, text: str | None) -> Filter:
    return load_filter(user_id, text) if text else _NO_FILTER


def _told_before(requester: Requester, since: str | None, epoch: int) -> tuple[_Told, bool]:
    """What the token says was delivered. The second value: nothing was, or nobody knows any more."""
    if since is None:
        return _Told(), True
    token = SyncToken.decode(since, user_id=requester.user_id)
    if token.epoch != epoch:
        # The store was set back: positions may mean something else now, so everything is told again.
        return _Told(), True
    told = _Told(dict(token.positions), dict(token.ephemeral), dict(token.streams))
    if token.base:
        answer = connection().dispatch("GetItem", sync_bases.base_request(requester.user_id, requester.device_id))
        bases = sync_bases.parse_bases(answer.get("Item"))
        if token.base not in bases:
            return _Told(), True
        told.base, told.base_positions = token.base, bases[token.base]
        told.positions = {**told.base_positions, **told.positions}
    return told, False


def _read(
    question: SyncQuestion, inbox: Inbox, told: _Told, wanted: Filter, *, initial: bool
) -> tuple[list[RoomTask], dict[str, tuple[RoomView, LocalMember | None]], list[AccountData], list[invites.Invite]]:
    """Everything that the answer is made of, but for the timelines: two rounds, whatever changed."""
    user_id = question.requester.user_id
    moved = {
        slot: state
        for slot, state in inbox.slots.items()
        if state.position and (question.full_state or state.position > told.positions.get(slot, 0))
    }
    asks_account_data = initial or inbox.streams.get("account_data", 0) > told.streams.get("account_data", 0)
    asks_invites = initial or inbox.streams.get("invites", 0) > told.streams.get("invites", 0)
    since = told.streams.get("account_data", 0)
    rooms, changes, invited = in_parallel(
        partial(rooms_of_slots, user_id, moved),
        (partial(user_data.changes_since, user_id, since) if since else partial(user_data.all_of, user_id))
        if asks_account_data
        else list,
        partial(invites.invites_of, user_id) if asks_invites else list,
    )
    news = [invite for invite in invited if invite.number > told.streams.get("invites", 0)]
    tasks = [
        RoomTask(
            room_id=rooms[slot],
            slot=slot,
            since=0 if initial else told.positions.get(slot, 0),
            target=state.position,
            arrived=state.arrived,
            again=initial and question.since is not None,
        )
        for slot, state in moved.items()
        if slot in rooms and wanted.room.includes_room(rooms[slot])
    ]
    tasks.sort(key=lambda task: -task.arrived)
    for slot, state in moved.items():
        if slot in rooms and not wanted.room.includes_room(rooms[slot]):
            told.positions[slot] = state.position
    others = {change.room_id for change in changes if change.room_id} | {invite.room_id for invite in news}
    return tasks, _views(user_id, {task.room_id for task in tasks} | others), changes, news


def _views(user_id: str, room_ids: set[str]) -> dict[str, tuple[RoomView, LocalMember | None]]:
    keys: list[Any] = [(Head, room_id, HEAD) for room_id in room_ids]
    keys += [(LocalMember, room_id, f"local/{user_id}") for room_id in room_ids]
    found = batch_get(keys, consistent=True) if keys else {}
    views = {}
    for room_id in room_ids:
        head = found.get((Head, room_id, HEAD))
        if head is not None:
            row = found.get((LocalMember, room_id, f"local/{user_id}"))
            views[room_id] = (RoomView(head, ROOM_VERSIONS[head.room_version]), row)
    return views


def _account_data_by_room(changes: list[AccountData]) -> dict[str, list[AccountData]]:
    by_room: dict[str, list[AccountData]] = {}
    for change in changes:
        if change.room_id is not None:
            by_room.setdefault(change.room_id, []).append(change)
    return by_room


def _room_account_data(changes: list[AccountData], wanted: Filter) -> list[dict[str, Any]]:
    events = ({"type": change.type, "content": change.content} for change in changes)
    return [event for event in events if wanted.room.account_data.matches({**event, "sender": ""}, "")]


def _room_body(answer: RoomAnswer, changes: list[AccountData], wanted: Filter) -> dict[str, Any] | None:
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
        "state": {"events": _projected(answer.state, wanted)},
    }
    if account:
        body["account_data"] = {"events": account}
    return body


def _projected(events: list[dict[str, Any]], wanted: Filter) -> list[dict[str, Any]]:
    if not wanted.event_fields:
        return events
    return [project_event_fields(event, wanted.event_fields) for event in events]


def _add_account_data_only(
    joined: dict[str, Any],
    by_room: Mapping[str, list[AccountData]],
    views: Mapping[str, tuple[RoomView, LocalMember | None]],
    wanted: Filter,
) -> None:
    """Rooms in which nothing happened but that the user changed their own data."""
    for room_id, changes in by_room.items():
        row = views[room_id][1] if room_id in views else None
        account = _room_account_data(changes, wanted)
        if account and row is not None and row.membership == "join" and wanted.room.includes_room(room_id):
            joined.setdefault(room_id, {})["account_data"] = {"events": account}


def _add_invite(
    rooms: dict[str, dict[str, Any]],
    invite: invites.Invite,
    views: Mapping[str, tuple[RoomView, LocalMember | None]],
    *,
    initial: bool,
) -> None:
    """A pending invitation, or the end of one that this device was told of."""
    row = views[invite.room_id][1] if invite.room_id in views else None
    membership = row.membership if row is not None else "leave"
    if invite.membership == "invite" and membership == "invite":
        rooms["invite"][invite.room_id] = {"invite_state": {"events": invite.events}}
    elif invite.membership == "leave" and membership in {"leave", "ban"} and not initial:
        if row is not None and row.forgotten is not None:
            return
        rooms["leave"].setdefault(
            invite.room_id, {"timeline": {"events": invite.events, "limited": False}, "state": {"events": []}}
        )


def _next_token(requester: Requester, told: _Told, epoch: int) -> str:
    """The token for what was delivered; beyond about 400 rooms its positions amend a stored base."""
    token = SyncToken(epoch, user_tag(requester.user_id), told.positions, told.ephemeral, told.streams)
    text = token.encode()
    if len(text) <= LONGEST_TOKEN:
        return text
    if told.base:
        delta = {s: p for s, p in told.positions.items() if told.base_positions.get(s, 0) != p}
        text = replace(token, positions=delta, base=told.base).encode()
        if len(text) <= LONGEST_TOKEN:
            return text
    number = _store_base(requester, told)
    return replace(token, positions={}, base=number).encode()


def _store_base(requester: Requester, told: _Told) -> int:
    """Store the positions as a new base of the device; returns its number. The base that was in use stays readable."""
    for _ in attempts("The sync token"):
        read = sync_bases.base_request(requester.user_id, requester.device_id)
        bases = sync_bases.parse_bases(connection().dispatch("GetItem", read).get("Item"))
        number = max(bases, default=0) + 1
        keep = {told.base: told.base_positions} if told.base in bases else bases
        write = sync_bases.store_base_request(requester.user_id, requester.device_id, number, told.positions, keep)
        try:
            connection().dispatch("PutItem", write)
        except VerboseClientError as error:
            if error.response["Error"].get("Code") != "ConditionalCheckFailedException":
                raise
            continue
        return number
    raise AssertionError("attempts() never ends by itself")
