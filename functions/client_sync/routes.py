"""`GET /sync`, and what there was before it: read the request, and wait."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from homeserver.matrix.errors import BadPagination, InvalidParam
from homeserver.services.room_wait import wait_in_room
from homeserver.services.sync_wait import (
    DRAFT_EVENTS,
    DRAFT_INITIAL_SYNC,
    EVENTS,
    INITIAL_SYNC,
    PEEK,
    SyncRequest,
    wait_for_news,
)
from homeserver.web.endpoints import LEGACY, Router
from homeserver.web.token_place import PARAMETER, chosen_token

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_PRESENCE = ("offline", "online", "unavailable")
# Parameters that have a field of their own; the others go to sync_answer as they came.
_STATE_AFTER = "org.matrix.msc4222.use_state_after"
# The draft's names for both ends of the stream, and how long it waits where the client says nothing, in milliseconds.
_START, _END = "START", "END"
_DRAFT_TIMEOUT = 30_000
_READ = {PARAMETER, "filter", "full_state", "set_presence", "since", "timeout", "use_state_after"}


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
        access_token=_token(event, query),
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
        access_token=_token(event, query),
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
    request = SyncRequest(access_token=_token(event, query), kind=INITIAL_SYNC, query=asked)
    answer = wait_for_news(request, remaining=context.get_remaining_time_in_millis() / 1000)
    return Answer(answer.status, answer.body)


# ── The stream of the 2014 draft ─────────────────────────────────────────────


@router.get("/{version}/events", LEGACY)
def draft_events(event: dict[str, Any], context: Any) -> Answer:
    """GET /events — of the draft of 2014."""
    query = _first_values(event.get("rawQueryString") or "")
    since, asked = query.get("from") or _END, {}
    if "limit" in query:
        asked["limit"] = str(_number(query, "limit", least=1))
    if since == _START:
        asked["from_start"] = "true"
    request = SyncRequest(
        access_token=_token(event, query),
        since=None if since in {_START, _END} else since,
        timeout=_number(query, "timeout", default=_DRAFT_TIMEOUT) / 1000,
        kind=DRAFT_EVENTS,
        query=asked,
    )
    return _draft_answer(request, context)


@router.get("/{version}/initialSync", LEGACY)
def draft_initial_sync(event: dict[str, Any], context: Any) -> Answer:
    """GET /initialSync — of the draft of 2014."""
    query = _first_values(event.get("rawQueryString") or "")
    asked = {"feedback": "true" if _boolean(query, "feedback") else "false"}
    if "limit" in query:
        asked["limit"] = str(_number(query, "limit"))
    return _draft_answer(SyncRequest(_token(event, query), kind=DRAFT_INITIAL_SYNC, query=asked), context)


def _draft_answer(request: SyncRequest, context: Any) -> Answer:
    """What is waited for. All that can be wrong with a request by now is its token: the draft has a code for that."""
    try:
        answer = wait_for_news(request, remaining=context.get_remaining_time_in_millis() / 1000)
    except InvalidParam as error:
        raise BadPagination(error.message) from error
    if answer.status == BadPagination.status:
        told = json.loads(answer.body)
        if told.get("errcode") == InvalidParam.errcode:
            raise BadPagination(told["error"])
    return Answer(answer.status, answer.body)


def _first_values(raw_query: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in parse_qsl(raw_query, keep_blank_values=True):
        values.setdefault(name, value)
    return values


def _token(event: Mapping[str, Any], query: Mapping[str, str]) -> str | None:
    return chosen_token(event["headers"].get("authorization"), query.get(PARAMETER), event["rawPath"])


def _number(query: Mapping[str, str], name: str, *, default: int = 0, least: int = 0) -> int:
    text = query.get(name, str(default))
    if not _NUMBER.fullmatch(text) or int(text) < least:
        raise InvalidParam(f"{name} must be an integer of at least {least}.")
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
