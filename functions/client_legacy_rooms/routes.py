"""The client API of the 2014 draft, its writing half: rooms, memberships, events, typing, aliases, profiles.

Each `POST` that changes something has a twin, `PUT` with a transaction ID at its end, which is answered once. Setting
state needs none: it is the same however often it is said.

Source: `docs/legacy.md`. Each endpoint is the one of today in the draft's words.
"""

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import BadJson, InvalidParam, Unrecognized
from homeserver.matrix.identifiers import domain_of, is_room_id_of_hash
from homeserver.services import aliases, draft_aliases, draft_messages, draft_rooms, profile
from homeserver.services.access_tokens import Requester
from homeserver.services.draft_rooms import DraftRoomRequest
from homeserver.services.request_transactions import RequestClaim, answered_once
from homeserver.services.send_event import redact
from homeserver.services.typing import set_typing
from homeserver.settings import settings
from homeserver.web.authentication import authenticate
from homeserver.web.draft_errors import in_draft_words
from homeserver.web.requests import field, json_object, json_response, string_list
from homeserver.web.routing import LEGACY, Router

router = Router()
_ROOM = "/{version}/rooms/{room_id}"
_LONGEST_TYPING_MS = 60_000
# Event IDs of room version 3 may have slashes, which arrive decoded; they are 43 characters long.
_EVENT_ID_OF_HASH = re.compile(r"(\$[A-Za-z0-9+/_-]{43})(?:/(.*))?\Z", re.DOTALL)


def _claim(requester: Requester, path: str, txn_id: str | None) -> RequestClaim | None:
    return RequestClaim.of(requester, path, txn_id) if txn_id is not None else None


def _reason(body: Mapping[str, Any]) -> str | None:
    reason: str | None = field(body, "reason", str)
    return reason


# ── Rooms ────────────────────────────────────────────────────────────────────


@router.post("/{version}/createRoom", LEGACY)
@router.put("/{version}/createRoom/{txn_id...}", LEGACY)
@in_draft_words
def create_room(request: Request, txn_id: str | None = None) -> Response:
    """POST /createRoom, PUT /createRoom/{txnId}"""
    requester, body = authenticate(request), json_object(request)
    visibility: str | None = field(body, "visibility", str)
    if visibility not in {None, "public", "private"}:
        raise BadJson("visibility must be public or private.")
    asked = DraftRoomRequest(
        is_public=visibility == "public",
        alias_name=field(body, "room_alias_name", str),
        name=field(body, "name", str),
        topic=field(body, "topic", str),
        invite=string_list(body, "invite"),
        direct_to=field(body, "direct_to", str),
    )
    claim = _claim(requester, "createRoom", txn_id)
    answer = answered_once(claim, lambda: draft_rooms.create_draft_room(requester, asked, claim))
    return json_response(answer)


@router.post("/{version}/join/{rest...}", LEGACY)
@in_draft_words
def join_by_id_or_alias(request: Request, rest: str) -> Response:
    """POST /join/{roomIdOrAlias}"""
    room_id_or_alias, txn_id = _named_and_txn(rest)
    if txn_id is not None:
        raise _wrong_method("PUT")
    return _join(request, room_id_or_alias, f"join/{room_id_or_alias}", None)


@router.put("/{version}/join/{rest...}", LEGACY)
@in_draft_words
def join_once(request: Request, rest: str) -> Response:
    """PUT /join/{roomIdOrAlias}/{txnId}"""
    room_id_or_alias, txn_id = _named_and_txn(rest)
    if txn_id is None:
        raise _wrong_method("POST")
    return _join(request, room_id_or_alias, f"join/{room_id_or_alias}", txn_id)


def _named_and_txn(rest: str) -> tuple[str, str | None]:
    """A room ID or alias, which may have slashes before its server name, and the transaction ID after it."""
    first, _, after = rest.partition("/")
    if not is_room_id_of_hash(first) and ":" in rest:
        end = rest.find("/", rest.index(":"))
        first, after = (rest, "") if end < 0 else (rest[:end], rest[end + 1 :])
    return first, after or None


def _wrong_method(allowed: str) -> Unrecognized:
    return Unrecognized("This endpoint does not know this method.", status=405, headers={"Allow": allowed})


@router.post(_ROOM + "/join", LEGACY)
@router.put(_ROOM + "/join/{txn_id...}", LEGACY)
@in_draft_words
def join(request: Request, room_id: str, txn_id: str | None = None) -> Response:
    """POST /rooms/{roomId}/join, PUT /rooms/{roomId}/join/{txnId}"""
    return _join(request, room_id, f"rooms/{room_id}/join", txn_id)


def _join(request: Request, room_id_or_alias: str, path: str, txn_id: str | None) -> Response:
    requester = authenticate(request)
    json_object(request)
    if path.startswith("rooms/") and not room_id_or_alias.startswith("!"):
        raise InvalidParam("This is not a room ID.")  # an alias is joined at another endpoint
    claim = _claim(requester, path, txn_id)
    return json_response(answered_once(claim, lambda: draft_rooms.join(requester, room_id_or_alias, claim)))


# ── Memberships ──────────────────────────────────────────────────────────────


@router.post(_ROOM + "/leave", LEGACY)
@router.put(_ROOM + "/leave/{txn_id...}", LEGACY)
@in_draft_words
def leave(request: Request, room_id: str, txn_id: str | None = None) -> Response:
    """POST /rooms/{roomId}/leave, PUT /rooms/{roomId}/leave/{txnId}"""
    requester = authenticate(request)
    reason = _reason(json_object(request))
    claim = _claim(requester, f"rooms/{room_id}/leave", txn_id)
    return json_response(answered_once(claim, lambda: draft_rooms.leave(requester, room_id, reason, claim)))


@router.post(_ROOM + "/invite", LEGACY)
@router.put(_ROOM + "/invite/{txn_id...}", LEGACY)
@in_draft_words
def invite(request: Request, room_id: str, txn_id: str | None = None) -> Response:
    """POST /rooms/{roomId}/invite, PUT /rooms/{roomId}/invite/{txnId}"""
    requester, user_id, reason = _target(request)
    claim = _claim(requester, f"rooms/{room_id}/invite", txn_id)
    return json_response(answered_once(claim, lambda: draft_rooms.invite(requester, room_id, user_id, reason, claim)))


@router.post(_ROOM + "/kick", LEGACY)
@router.put(_ROOM + "/kick/{txn_id...}", LEGACY)
@in_draft_words
def kick(request: Request, room_id: str, txn_id: str | None = None) -> Response:
    """POST /rooms/{roomId}/kick, PUT /rooms/{roomId}/kick/{txnId}"""
    requester, user_id, reason = _target(request)
    claim = _claim(requester, f"rooms/{room_id}/kick", txn_id)
    return json_response(answered_once(claim, lambda: draft_rooms.kick(requester, room_id, user_id, reason, claim)))


@router.post(_ROOM + "/ban", LEGACY)
@router.put(_ROOM + "/ban/{txn_id...}", LEGACY)
@in_draft_words
def ban(request: Request, room_id: str, txn_id: str | None = None) -> Response:
    """POST /rooms/{roomId}/ban, PUT /rooms/{roomId}/ban/{txnId}"""
    requester, user_id, reason = _target(request)
    claim = _claim(requester, f"rooms/{room_id}/ban", txn_id)
    return json_response(answered_once(claim, lambda: draft_rooms.ban(requester, room_id, user_id, reason, claim)))


def _target(request: Request) -> tuple[Requester, str, str | None]:
    """Who asks, whom it is about, and why."""
    requester, body = authenticate(request), json_object(request)
    return requester, field(body, "user_id", str, required=True), _reason(body)


# ── Events ───────────────────────────────────────────────────────────────────


@router.post(_ROOM + "/send/{event_type}", LEGACY)
@router.put(_ROOM + "/send/{event_type}/{txn_id...}", LEGACY)
@in_draft_words
def send(request: Request, room_id: str, event_type: str, txn_id: str | None = None) -> Response:
    """POST /rooms/{roomId}/send/{eventType}, PUT /rooms/{roomId}/send/{eventType}/{txnId}"""
    requester = authenticate(request)
    event_id = draft_messages.send(requester, room_id, event_type, json_object(request), txn_id)
    return json_response({"event_id": event_id})


@router.put(_ROOM + "/state/{event_type}", LEGACY)
@router.put(_ROOM + "/state/{event_type}/", LEGACY)
@router.put(_ROOM + "/state/{event_type}/{state_key}", LEGACY)
@in_draft_words
def set_state(request: Request, room_id: str, event_type: str, state_key: str = "") -> Response:
    """PUT /rooms/{roomId}/state/{eventType}/{stateKey}"""
    requester = authenticate(request)
    draft_messages.set_state(requester, room_id, event_type, json_object(request), state_key)
    return json_response({})


@router.post(_ROOM + "/redact/{rest...}", LEGACY)
@in_draft_words
def redact_event(request: Request, room_id: str, rest: str) -> Response:
    """POST /rooms/{roomId}/redact/{eventId}"""
    event_id, txn_id = _event_and_txn(rest)
    if txn_id is not None:
        raise _wrong_method("PUT")
    return _redact(request, room_id, event_id, None)


@router.put(_ROOM + "/redact/{rest...}", LEGACY)
@in_draft_words
def redact_once(request: Request, room_id: str, rest: str) -> Response:
    """PUT /rooms/{roomId}/redact/{eventId}/{txnId}"""
    event_id, txn_id = _event_and_txn(rest)
    if txn_id is None:
        raise _wrong_method("POST")
    return _redact(request, room_id, event_id, txn_id)


def _event_and_txn(rest: str) -> tuple[str, str | None]:
    if whole := _EVENT_ID_OF_HASH.match(rest):
        return whole[1], whole[2] or None
    event_id, _, txn_id = rest.partition("/")
    return event_id, txn_id or None


def _redact(request: Request, room_id: str, event_id: str, txn_id: str | None) -> Response:
    requester, content = authenticate(request), json_object(request)
    _reason(content)
    # The draft's transaction IDs belong to the whole path, with the event.
    redaction = redact(requester, room_id, event_id, content, txn_id, kind=f"draft_redact/{event_id}")
    return json_response({"event_id": redaction})


@router.put(_ROOM + "/typing/{user_id...}", LEGACY)
@in_draft_words
def put_typing(request: Request, room_id: str, user_id: str) -> Response:
    """PUT /rooms/{roomId}/typing/{userId}"""
    requester, body = authenticate(request), json_object(request)
    typing = field(body, "typing", bool, required=True)
    timeout = field(body, "timeout", int)
    _check_local(user_id)
    if timeout is not None:
        timeout = min(timeout, _LONGEST_TYPING_MS)
    set_typing(requester, room_id, user_id, typing=typing, timeout_ms=timeout)
    return json_response({})


def _check_local(user_id: str) -> None:
    if domain_of(user_id) != settings().server_name:
        raise InvalidParam("This user is not of this server.")


# ── Names ────────────────────────────────────────────────────────────────────


@router.put("/{version}/directory/room/{alias...}", LEGACY)
@in_draft_words
def put_alias(request: Request, alias: str) -> Response:
    """PUT /directory/room/{roomAlias}"""
    requester, body = authenticate(request), json_object(request)
    draft_aliases.create_alias(requester, alias, field(body, "room_id", str, required=True))
    return json_response({})


@router.delete("/{version}/directory/room/{alias...}", LEGACY)
@in_draft_words
def delete_alias(request: Request, alias: str) -> Response:
    """DELETE /directory/room/{roomAlias}"""
    aliases.delete_alias(authenticate(request), alias)
    return json_response({})


@router.put("/{version}/profile/{user_id}/displayname", LEGACY)
@in_draft_words
def put_displayname(request: Request, user_id: str) -> Response:
    """PUT /profile/{userId}/displayname"""
    requester, body = authenticate(request), json_object(request)
    displayname = field(body, "displayname", str, required=True)
    _check_local(user_id)
    profile.set_profile_field(requester, user_id, "displayname", {"displayname": displayname})
    return json_response({})


@router.put("/{version}/profile/{user_id}/avatar_url", LEGACY)
@in_draft_words
def put_avatar_url(request: Request, user_id: str) -> Response:
    """PUT /profile/{userId}/avatar_url"""
    requester, body = authenticate(request), json_object(request)
    avatar_url = field(body, "avatar_url", str, required=True)
    _check_local(user_id)
    profile.set_avatar_anywhere(requester, user_id, avatar_url)
    return json_response({})
