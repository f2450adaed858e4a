"""`GET /sync`, and what there was before it: read the request, and wait."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from homeserver.matrix.errors import InvalidParam
from homeserver.services.room_wait import wait_in_room
from homeserver.services.sync_wait import EVENTS, INITIAL_SYNC, PEEK, SyncRequest, wait_for_news
from homeserver.settings import settings
from homeserver.web.endpoints import Router

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_PRESENCE = ("offline", "online", "unavailable")
# Parameters that have a field of their own; the others go to sync_answer as they came.
_STATE_AFTER = "org.matrix.msc4222.use_state_after"
_READ = {"access_token", "filter", "full_state", "set_presence", "since", "timeout", "use_state_after"}


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON text and further headers."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[dict[str, Any], Any], Answer]
router: Router[Answer] = Router()


@router.get("/_matrix/client/{version}/sync")
def sync(event: dict[str, Any], context: Any) -> Answer:
    """GET /sync — client-server API, "Syncing"."""
    query = _first_values(event.get("rawQueryString") or "")
    _boolean(query, _STATE_AFTER)  # an older name of use_state_after, which has an answer of its own
    # An empty `since` is what some clients send before they have one.
    request = SyncRequest(
        access_token=_token(event["headers"], query),
        since=query.get("since") or None,
        timeout=_number(query, "timeout") / 1000,
        full_state=_boolean(query, "full_state"),
        filter=query.get("filter"),
        set_presence=_presence(query),
        use_state_after=_boolean(query, "use_state_after"),
        query={name: value for name, value in query.items() if name not in _READ},
    )
    answer = wait_for_news(request, remaining=context.get_remaining_time_in_millis() / 1000)
    return Answer(answer.status, answer.body)


@router.get("/_matrix/client/{version}/events")
def events(event: dict[str, Any], context: Any) -> Answer:
    """GET /events (deprecated); with `room_id` of a room that one may only look into — "Room Previews"."""
    query = _first_values(event.get("rawQueryString") or "")
    request = SyncRequest(
        access_token=_token(event["headers"], query),
        since=query.get("from") or None,
        timeout=_number(query, "timeout") / 1000,
        kind=PEEK if "room_id" in query else EVENTS,
        query={"room_id": query["room_id"]} if "room_id" in query else {},
    )
    remaining = context.get_remaining_time_in_millis() / 1000
    if request.kind == PEEK:
        answer = wait_in_room(request, query["room_id"], remaining=remaining)
    else:
        answer = wait_for_news(request, remaining=remaining)
    return Answer(answer.status, answer.body)


@router.get("/_matrix/client/{version}/initialSync")
def initial_sync(event: dict[str, Any], context: Any) -> Answer:
    """GET /initialSync (deprecated)."""
    query = _first_values(event.get("rawQueryString") or "")
    asked = {"archived": "true" if _boolean(query, "archived") else "false"}
    if "limit" in query:
        asked["limit"] = str(_number(query, "limit"))
    request = SyncRequest(access_token=_token(event["headers"], query), kind=INITIAL_SYNC, query=asked)
    answer = wait_for_news(request, remaining=context.get_remaining_time_in_millis() / 1000)
    return Answer(answer.status, answer.body)


def _first_values(raw_query: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in parse_qsl(raw_query, keep_blank_values=True):
        values.setdefault(name, value)
    return values


def _token(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The access token by the rules of homeserver.web.authentication: the header, or the query if that is allowed."""
    header = headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None
    return query.get("access_token") if settings().query_tokens == "all" else None


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "0")
    if not _NUMBER.fullmatch(text):
        raise InvalidParam(f"{name} must be an integer of at least 0.")
    return int(text)


def _boolean(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false")
    if text not in {"true", "false"}:
        raise InvalidParam(f"{name} must be true or false.")
    return text == "true"


def _presence(query: Mapping[str, str]) -> str:
    text = query.get("set_presence", "online")
    if text not in _PRESENCE:
        raise InvalidParam(f"set_presence must be one of {', '.join(_PRESENCE)}.")
    return text
