"""`GET /rooms/...`: messages, single events, context, state, members.

Source: client-server API v1.19, "Getting events for a room", "Event context".
"""

import re

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.canonical_json import parse_json
from homeserver.matrix.errors import InvalidParam, MissingParam, NotJson
from homeserver.matrix.filters import RoomEventFilter, parse_room_event_filter
from homeserver.services import draft_reading, history, peeking, relations, room_state, seed_backfill, threads
from homeserver.services.timestamp_to_event import timestamp_to_event
from homeserver.web.authentication import authenticate
from homeserver.web.requests import json_response, query, query_boolean, query_choice, query_integer
from homeserver.web.routing import LEGACY, V1, Router

router = Router()
_ROOM = "/_matrix/client/{version}/rooms/{room_id}"
_DRAFT_ROOM = "/{version}/rooms/{room_id}"
_ANY_TIME = 10**17  # milliseconds: three million years
_EVENT_ID_OF_HASH = re.compile(r"(\$[A-Za-z0-9+/_-]{43})(?:/(.*))?\Z", re.DOTALL)
_MEMBERSHIPS = ("join", "invite", "leave", "ban", "knock")


def _filter(request: Request) -> RoomEventFilter:
    text = query(request, "filter")
    if text is None:
        return parse_room_event_filter({})
    try:
        return parse_room_event_filter(parse_json(text.encode()))
    except (NotJson, UnicodeEncodeError) as error:
        raise InvalidParam("filter is not JSON.") from error


@router.get(_ROOM + "/messages")
def messages(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/messages"""
    requester = authenticate(request)
    event_filter = _filter(request)
    asked = history.PageQuery(
        backwards=history.parse_direction(query(request, "dir")),
        start=query(request, "from"),
        stop=query(request, "to"),
        limit=query_integer(request, "limit", history.DEFAULT_LIMIT, minimum=1, maximum=history.MAX_LIMIT),
        event_filter=event_filter,
    )
    return json_response(history.messages(requester, room_id, asked))


@router.get(_ROOM + "/timestamp_to_event", V1)
def event_by_timestamp(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/timestamp_to_event"""
    requester = authenticate(request)
    if query(request, "ts") is None:
        raise MissingParam("ts is required.")
    ts = query_integer(request, "ts", 0, minimum=-_ANY_TIME, maximum=_ANY_TIME)
    backwards = history.parse_direction(query(request, "dir"))
    return json_response(timestamp_to_event(requester, room_id, ts, backwards=backwards))


@router.get(_ROOM + "/relations/{event_id}", V1)
@router.get(_ROOM + "/relations/{event_id}/{rel_type}", V1)
@router.get(_ROOM + "/relations/{event_id}/{rel_type}/{event_type...}", V1)
def relations_of(
    request: Request, room_id: str, event_id: str, rel_type: str | None = None, event_type: str | None = None
) -> Response:
    """GET /rooms/{roomId}/relations/{eventId}/{relType}/{eventType}"""
    requester = authenticate(request)
    question = relations.RelationsQuestion(
        *_children_asked_for(event_id, rel_type, event_type),
        backwards=history.parse_direction(query(request, "dir") or "b"),
        start=query(request, "from"),
        stop=query(request, "to"),
        limit=query_integer(request, "limit", relations.DEFAULT_LIMIT, minimum=1, maximum=relations.MAX_LIMIT),
        recurse=_recurse(request),
    )
    return json_response(relations.relations(requester, room_id, question))


def _recurse(request: Request) -> bool | None:
    # The second is what clients send to a server that has the feature and does not list v1.10.
    names = (name for name in ("recurse", "org.matrix.msc3981.recurse") if query(request, name) is not None)
    name = next(names, None)
    return None if name is None else query_boolean(request, name)


def _children_asked_for(
    event_id: str, rel_type: str | None, event_type: str | None
) -> tuple[str, str | None, str | None]:
    # Event IDs of room version 3 may have slashes, which arrive decoded; they are 43 characters long.
    path = "/".join(part for part in (event_id, rel_type, event_type) if part is not None)
    whole = _EVENT_ID_OF_HASH.match(path)
    if whole is None or "/" not in whole[1]:
        return event_id, rel_type, event_type
    first, _, second = (whole[2] or "").partition("/")
    return whole[1], first or None, second or None


@router.get(_ROOM + "/threads", V1)
def threads_of(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/threads"""
    requester = authenticate(request)
    return json_response(
        threads.threads(
            requester,
            room_id,
            participated=query_choice(request, "include", ("all", "participated")) == "participated",
            start=query(request, "from"),
            limit=query_integer(request, "limit", threads.DEFAULT_LIMIT, minimum=1, maximum=threads.MAX_LIMIT),
        )
    )


@router.get(_ROOM + "/event/{event_id...}")
def event(request: Request, room_id: str, event_id: str) -> Response:
    """GET /rooms/{roomId}/event/{eventId}"""
    return json_response(history.event(authenticate(request), room_id, event_id))


@router.get(_ROOM + "/context/{event_id...}")
def context(request: Request, room_id: str, event_id: str) -> Response:
    """GET /rooms/{roomId}/context/{eventId}"""
    requester = authenticate(request)
    limit = query_integer(request, "limit", history.DEFAULT_LIMIT, maximum=history.MAX_LIMIT)
    return json_response(history.context(requester, room_id, event_id, limit=limit, event_filter=_filter(request)))


@router.get(_ROOM + "/state")
def state(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/state"""
    return json_response(room_state.room_state(authenticate(request), room_id))


@router.get(_ROOM + "/state/{event_type}")
@router.get(_ROOM + "/state/{event_type}/")
@router.get(_ROOM + "/state/{event_type}/{state_key...}")
def state_event(request: Request, room_id: str, event_type: str, state_key: str = "") -> Response:
    """GET /rooms/{roomId}/state/{eventType}/{stateKey}"""
    requester = authenticate(request)
    found = room_state.state_event(requester, room_id, event_type, state_key)
    whole = query_choice(request, "format", ("content", "event")) == "event"
    return json_response(found if whole else found["content"])


@router.get(_ROOM + "/members")
def members(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/members"""
    requester = authenticate(request)
    chunk = room_state.members(
        requester,
        room_id,
        at=query(request, "at"),
        membership=query_choice(request, "membership", _MEMBERSHIPS),
        not_membership=query_choice(request, "not_membership", _MEMBERSHIPS),
    )
    return json_response({"chunk": chunk})


@router.get(_ROOM + "/initialSync")
def room_initial_sync(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/initialSync — "Room Previews"."""
    requester = authenticate(request)
    limit = query_integer(request, "limit", history.DEFAULT_LIMIT, minimum=1, maximum=history.MAX_LIMIT)
    return json_response(peeking.room_initial_sync(requester, room_id, limit=limit))


@router.get("/_matrix/client/{version}/events/{event_id...}")
def event_by_id(request: Request, event_id: str) -> Response:
    """GET /events/{eventId} (deprecated)"""
    return json_response(peeking.event_by_id(authenticate(request), event_id))


@router.get(_ROOM + "/joined_members")
def joined_members(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/joined_members"""
    return json_response({"joined": room_state.joined_members(authenticate(request), room_id)})


# ── The 2014 draft ───────────────────────────────────────────────────────────


@router.get(_DRAFT_ROOM + "/initialSync", LEGACY)
def draft_room_initial_sync(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/initialSync — of the draft of 2014."""
    requester = authenticate(request)
    limit, feedback = _draft_limit(request), query_boolean(request, "feedback")
    return json_response(draft_reading.draft_room_snapshot(requester, room_id, limit=limit, feedback=feedback))


@router.get(_DRAFT_ROOM + "/messages", LEGACY)
def draft_messages(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/messages — of the draft of 2014."""
    requester = authenticate(request)
    asked = history.PageQuery(
        backwards=query_choice(request, "dir", ("b", "f")) != "f",
        start=draft_reading.token_of_stream(query(request, "from")),
        stop=draft_reading.token_of_stream(query(request, "to")),
        limit=_draft_limit(request),
    )
    feedback = query_boolean(request, "feedback")
    return json_response(draft_reading.draft_messages(requester, room_id, asked, feedback=feedback))


def _draft_limit(request: Request) -> int:
    return query_integer(request, "limit", history.DEFAULT_LIMIT, minimum=1, maximum=history.MAX_LIMIT)


@router.get(_DRAFT_ROOM + "/backfill", LEGACY)
def backfill(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/backfill — of the draft of 2014."""
    requester = authenticate(request)
    limit = query_integer(request, "limit", seed_backfill.DEFAULT_LIMIT, minimum=1, maximum=seed_backfill.MAX_LIMIT)
    return json_response(seed_backfill.backfill_from(requester, room_id, query(request, "remote"), limit))
