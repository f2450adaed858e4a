"""`GET /initialSync`, from before `/sync`: all rooms as they are, and where to go on.

Source: client-server API v1.19, "Getting events for a room" (deprecated).
"""

from collections.abc import Iterable
from typing import Any

import orjson

from homeserver.matrix.errors import TooLarge
from homeserver.matrix.filters import parse_filter
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.legacy_events import membership_events
from homeserver.services.sync import MOST_BYTES, SyncResult, read_standing
from homeserver.services.sync_delivered import next_token
from homeserver.services.sync_news import News, account_data_by_room, read_news, room_answers
from homeserver.services.sync_rooms import Question, RoomAnswer
from homeserver.storage.room_previews import published_among
from homeserver.storage.user_data import AccountData

DEFAULT_LIMIT = 10


def initial_sync(requester: Requester, *, limit: int, archived: bool) -> SyncResult:
    """All rooms of the user with their state and their last `limit` messages; with `archived` those they left too.

    `end` is a token for `/events`, and for `/sync`. Raises TooLarge for what does not fit into one answer.
    """
    user_id = requester.user_id
    standing = read_standing(requester, None, None)
    told = standing.told
    timeline: dict[str, Any] = {"limit": limit} if limit else {"types": []}
    wanted = parse_filter({"room": {"timeline": timeline, "include_leave": archived, "ephemeral": {"types": []}}})
    news = read_news(user_id, standing.inbox, told, wanted, initial=True, full_state=False)
    asked = Question(requester, wanted, news.ignored, state_after=True)
    by_room = account_data_by_room(news.account_data)
    rooms = []
    size = 0
    for answer in room_answers(asked, news):
        told.positions[answer.task.slot] = answer.position
        if not answer.position or (answer.section == "leave" and not answer.ends):
            continue
        room = _room_info(answer, news, by_room.get(answer.task.room_id, []))
        size += len(orjson.dumps(room))
        if size > MOST_BYTES:
            raise TooLarge("There is too much for one answer: use /sync, or a lower limit.")
        rooms.append(room)
    rooms += _invitations(user_id, news)
    published = published_among(room["room_id"] for room in rooms)
    for room in rooms:
        room["visibility"] = "public" if room["room_id"] in published else "private"
    end = next_token(requester, told, standing.epoch)
    account_data = _events(change for change in news.account_data if change.room_id is None)
    return SyncResult({"end": end, "rooms": rooms, "presence": [], "account_data": account_data}, end, empty=False)


def _room_info(answer: RoomAnswer, news: News, changes: Iterable[AccountData]) -> dict[str, Any]:
    room_id = answer.task.room_id
    return {
        "room_id": room_id,
        "membership": news.rows[room_id].membership,
        "messages": {
            "start": answer.prev_batch,
            "end": RoomToken(answer.position).encode(),
            "chunk": [{**event, "room_id": room_id} for event in answer.timeline],
        },
        "state": [{**event, "room_id": room_id} for event in answer.state],
        "account_data": _events(changes),
    }


def _invitations(user_id: str, news: News) -> list[dict[str, Any]]:
    pending = {
        invite.room_id: news.rows[invite.room_id].event_id
        for invite in news.invites
        if invite.membership == "invite" == news.rows[invite.room_id].membership
    }
    found = membership_events(pending, user_id)
    return [{"room_id": event["room_id"], "membership": "invite", "invite": event} for event in found]


def _events(changes: Iterable[AccountData]) -> list[dict[str, Any]]:
    return [{"type": change.type, "content": change.content} for change in changes]
