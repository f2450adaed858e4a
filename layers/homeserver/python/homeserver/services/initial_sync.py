"""`GET /initialSync`, from before `/sync`: all rooms as they are, and where to go on.

Source: client-server API v1.19, "Getting events for a room" (deprecated).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from homeserver.matrix.errors import TooLarge
from homeserver.matrix.filters import parse_filter
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.legacy_events import membership_events
from homeserver.services.sync import MOST_BYTES, SyncResult, read_standing
from homeserver.services.sync_delivered import Delivered, next_token
from homeserver.services.sync_news import News, account_data_by_room, read_news, room_answers
from homeserver.services.sync_rooms import Question, RoomAnswer
from homeserver.storage.connection import in_parallel
from homeserver.storage.room_previews import published_among
from homeserver.storage.user_data import AccountData

DEFAULT_LIMIT = 10


@dataclass(slots=True)
class Snapshot:
    """All rooms of a user as they are.

    `told`: what is known to who has been told all this. `invitations`: the membership events of pending ones.
    `published`: which of the rooms are in the directory. `more`: the results of what was to be read beside.
    """

    news: News
    told: Delivered
    epoch: int
    rooms: list[RoomAnswer] = field(default_factory=list)
    invitations: list[dict[str, Any]] = field(default_factory=list)
    published: set[str] = field(default_factory=set)
    more: list[Any] = field(default_factory=list)

    def membership(self, room_id: str) -> str:
        """What the user is in one of the rooms."""
        return str(self.news.rows[room_id].membership)

    def visibility(self, room_id: str) -> str:
        """`public` where the room is in the directory, else `private`."""
        return "public" if room_id in self.published else "private"


def take_snapshot(
    requester: Requester,
    *,
    limit: int,
    archived: bool,
    beside: Callable[[Sequence[str]], Sequence[Callable[[], Any]]] = lambda _: (),
) -> Snapshot:
    """All rooms with their state and their last `limit` messages; with `archived` those that the user left too.

    `beside`: what else is to be read of the rooms with these IDs, at the same time as what this reads last. Raises
    TooLarge for what does not fit into one answer.
    """
    user_id = requester.user_id
    standing = read_standing(requester, None, None)
    told = standing.told
    timeline: dict[str, Any] = {"limit": limit} if limit else {"types": []}
    wanted = parse_filter({"room": {"timeline": timeline, "include_leave": archived, "ephemeral": {"types": []}}})
    news = read_news(user_id, standing.inbox, told, wanted, initial=True, full_state=False)
    snapshot = Snapshot(news, told, standing.epoch)
    size = 0
    for answer in room_answers(Question(requester, wanted, news.ignored, state_after=True), news):
        told.positions[answer.task.slot] = answer.position
        if not answer.position or (answer.section == "leave" and not answer.ends):
            continue
        size += len(orjson.dumps([answer.timeline, answer.state]))
        if size > MOST_BYTES:
            raise TooLarge("There is too much for one answer: use /sync, or a lower limit.")
        snapshot.rooms.append(answer)
    pending = {
        invite.room_id: news.rows[invite.room_id].event_id
        for invite in news.invites
        if invite.membership == "invite" == news.rows[invite.room_id].membership
    }
    room_ids = [answer.task.room_id for answer in snapshot.rooms]
    snapshot.invitations, snapshot.published, *snapshot.more = in_parallel(
        partial(membership_events, pending, user_id),
        partial(published_among, [*room_ids, *pending]),
        *beside(room_ids),
    )
    return snapshot


def initial_sync(requester: Requester, *, limit: int, archived: bool) -> SyncResult:
    """The answer of `/initialSync`; parameters and errors as of `take_snapshot`.

    `end` is a token for `/events`, and for `/sync`.
    """
    snapshot = take_snapshot(requester, limit=limit, archived=archived)
    by_room = account_data_by_room(snapshot.news.account_data)
    rooms = [_room_info(answer, snapshot, by_room.get(answer.task.room_id, [])) for answer in snapshot.rooms]
    rooms += [{"room_id": event["room_id"], "membership": "invite", "invite": event} for event in snapshot.invitations]
    for room in rooms:
        room["visibility"] = snapshot.visibility(room["room_id"])
    end = next_token(requester, snapshot.told, snapshot.epoch)
    account_data = _events(change for change in snapshot.news.account_data if change.room_id is None)
    return SyncResult({"end": end, "rooms": rooms, "presence": [], "account_data": account_data}, end, empty=False)


def _room_info(answer: RoomAnswer, snapshot: Snapshot, changes: Iterable[AccountData]) -> dict[str, Any]:
    room_id = answer.task.room_id
    return {
        "room_id": room_id,
        "membership": snapshot.membership(room_id),
        "messages": {
            "start": answer.prev_batch,
            "end": RoomToken(answer.position).encode(),
            "chunk": [{**event, "room_id": room_id} for event in answer.timeline],
        },
        "state": [{**event, "room_id": room_id} for event in answer.state],
        "account_data": _events(changes),
    }


def _events(changes: Iterable[AccountData]) -> list[dict[str, Any]]:
    return [{"type": change.type, "content": change.content} for change in changes]
