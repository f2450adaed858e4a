"""Searching rooms, and reports to the operator: a function of its own, because it reads much and writes other tables.

Source: client-server API v1.19, "Server Side Search", "Reporting Content".
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import BadJson, InvalidParam
from homeserver.matrix.filters import parse_room_event_filter
from homeserver.services import reports
from homeserver.services.search import KEYS, RoomEventSearch, search
from homeserver.services.search_results import DEFAULT_CONTEXT, MAX_CONTEXT, EventContext
from homeserver.web.authentication import authenticate
from homeserver.web.requests import field, json_object, json_response, query, string_list
from homeserver.web.routing import Router

router = Router()
_ROOM = "/_matrix/client/{version}/rooms/{room_id}"
_ORDERS = ("rank", "recent")
_GROUP_KEYS = ("room_id", "sender")


@router.post("/_matrix/client/{version}/search")
def post_search(request: Request) -> Response:
    """POST /search"""
    requester = authenticate(request)
    categories: dict[str, Any] = field(json_object(request), "search_categories", dict, required=True)
    criteria: dict[str, Any] | None = field(categories, "room_events", dict)
    if criteria is None:  # there is no other category
        return json_response({"search_categories": {}})
    found = search(requester, _criteria(criteria), query(request, "next_batch"))
    return json_response({"search_categories": {"room_events": found}})


def _criteria(body: Mapping[str, Any]) -> RoomEventSearch:
    keys = string_list(body, "keys")
    if unknown := set(keys) - set(KEYS):
        raise InvalidParam(f"keys has {min(unknown)!r}, which cannot be searched.")
    order = field(body, "order_by", str)
    if order is not None and order not in _ORDERS:
        raise InvalidParam("order_by must be rank or recent.")
    context = field(body, "event_context", dict)
    return RoomEventSearch(
        term=field(body, "search_term", str, required=True),
        keys=frozenset(KEYS if body.get("keys") is None else keys),
        event_filter=parse_room_event_filter(field(body, "filter", dict) or {}),
        by_rank=order != "recent",
        context=_context(context) if context is not None else None,
        include_state=field(body, "include_state", bool) or False,
        group_by=_group_by(field(body, "groupings", dict) or {}),
    )


def _context(body: Mapping[str, Any]) -> EventContext:
    return EventContext(
        before=_context_limit(body, "before_limit"),
        after=_context_limit(body, "after_limit"),
        include_profile=field(body, "include_profile", bool) or False,
    )


def _context_limit(body: Mapping[str, Any], name: str) -> int:
    limit: int | None = field(body, name, int)
    if limit is None:
        return DEFAULT_CONTEXT
    if limit < 0:
        raise InvalidParam(f"{name} must not be negative.")
    return min(limit, MAX_CONTEXT)


def _group_by(groupings: Mapping[str, Any]) -> tuple[str, ...]:
    keys: list[str] = []
    for group in field(groupings, "group_by", list) or []:
        key = field(group, "key", str) if isinstance(group, dict) else None
        if key is None:
            raise BadJson("group_by must be an array of objects with a key.")
        if key not in _GROUP_KEYS:
            raise InvalidParam(f"Results can be grouped by {' or '.join(_GROUP_KEYS)}.")
        keys.append(key)
    return tuple(dict.fromkeys(keys))


@router.post(_ROOM + "/report")
def report_room(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/report"""
    requester = authenticate(request)
    reports.report_room(requester, room_id, field(json_object(request), "reason", str, required=True))
    return json_response({})


@router.post(_ROOM + "/report/{event_id...}")
def report_event(request: Request, room_id: str, event_id: str) -> Response:
    """POST /rooms/{roomId}/report/{eventId}"""
    requester = authenticate(request)
    body = json_object(request)
    reason, score = field(body, "reason", str), body.get("score")
    reports.report_event(requester, room_id, event_id, reason=reason, score=score)
    return json_response({})


@router.post("/_matrix/client/{version}/users/{user_id}/report")
def report_user(request: Request, user_id: str) -> Response:
    """POST /users/{userId}/report"""
    requester = authenticate(request)
    reports.report_user(requester, user_id, field(json_object(request), "reason", str, required=True))
    return json_response({})
