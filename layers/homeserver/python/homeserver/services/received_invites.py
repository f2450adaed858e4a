"""Invitations of this server's users to rooms of other servers: checked, signed, and shown to the user.

What is signed here lets the other server tell its room that the user is invited. So nothing is signed but an invitation
of one of this server's users, by a user of the server that asks.

Where this server is in the room, the invitation comes as one of the room's events as well: then it is only signed.

Source: server-server API v1.19, "Inviting to a room"; client-server API, "Invite permission".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.adapters.signing_key import signing_key
from homeserver.matrix.client_event import STRIPPED_STATE_TYPES
from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of, is_room_id
from homeserver.matrix.room_versions import ROOM_VERSIONS, V1, RoomVersionRules
from homeserver.matrix.signing import SignatureError, sign_event, signature_key_ids, verify_event_signature
from homeserver.observability import fault_point, log
from homeserver.services import rate_limits
from homeserver.services.invite_permissions import check_wants_invites, permission_key
from homeserver.services.pdu_checks import check_pdus
from homeserver.services.room_rows import is_local
from homeserver.services.served_handshakes import Handshake, check_event_id, checked_event
from homeserver.services.server_access import ACL, check_acl
from homeserver.services.server_keys import verify_keys
from homeserver.services.stub_rooms import is_in_room, record_out_of_band
from homeserver.settings import settings
from homeserver.storage.connection import Key
from homeserver.storage.profiles import Profile
from homeserver.storage.rooms import RoomView, load_room

_MEMBER = "m.room.member"
_CREATE = "m.room.create"
_MOST_STATE = 100
_KEYS_S = 10.0
# People are not asked by whom they are invited: enough for a conference, too little to fill an inbox with.
_PER_SECOND, _BURST = 0.2, 60


@dataclass(frozen=True, slots=True)
class InviteRequest:
    """An invitation as another server sends it. `version`: of the room, as it says; None: a first one, 1 or 2.

    `pdu` and `room_state` are whatever JSON came.
    """

    origin: str
    room_id: str
    event_id: str
    pdu: Any
    version: str | None
    room_state: Any


def receive_invite(request: InviteRequest) -> dict[str, Any]:
    """Sign the invitation of a local user, and show it to them; returns the event with this server's signature.

    Repeating it is answered the same, and shows nothing a second time. Raises M_INCOMPATIBLE_ROOM_VERSION for a version
    that this server does not know; InvalidParam for what is not an invitation of a user of this server by one of the
    origin, or is not signed; NotFound for a user who does not exist; Forbidden for a server that the room's ACL shuts
    out, and with M_INVITE_BLOCKED for a user who wants no invitations; LimitExceeded.
    """
    check_event_id(request.event_id)
    if not is_room_id(request.room_id):
        raise InvalidParam("This is not a room ID.")
    rules = _rules(request)
    target = _target(request)
    profile_key: Key = (Profile, target, None)
    view, found = load_room(request.room_id, [ACL], extras=[profile_key, permission_key(target)])
    resident = view is not None and is_in_room(view.head)
    if view is not None and resident:
        check_acl(view, request.origin)
    rules = _known_rules(view, rules)
    event = _checked(request, rules)
    if profile_key not in found:  # which every user has
        raise NotFound("This server has no such user.")
    check_wants_invites(found.get(permission_key(target)))
    shown = _checked_state(request, rules)
    signed = sign_event(event.pdu, rules, settings().server_name, signing_key())
    if not resident:
        rate_limits.take(f"received-invite/{target}", per_second=_PER_SECOND, burst=_BURST)
        invitation = Event(event.event_id, event.room_id, signed, rules)
        fault_point("received_invite.before")
        record_out_of_band(invitation, shown, invite_from=request.origin)
    # As it came, with what stands beside the signed part.
    return {**request.pdu, "signatures": signed["signatures"]}


def _rules(request: InviteRequest) -> RoomVersionRules:
    if request.version is None:
        return V1
    rules = ROOM_VERSIONS.get(request.version)
    if rules is None:
        raise MatrixError(
            f"This server does not know the room version {request.version}.",
            errcode="M_INCOMPATIBLE_ROOM_VERSION",
            extra={"room_version": request.version},
        )
    return rules


def _known_rules(view: RoomView | None, rules: RoomVersionRules) -> RoomVersionRules:
    """Of the first two versions, whose events look alike, the one that the room is known to have."""
    if view is not None and view.head.kind == "full" and rules.hashed_edges and view.rules.hashed_edges:
        return view.rules
    return rules


def _target(request: InviteRequest) -> str:
    """The invited user, after what can be told before any look at signatures. Raises InvalidParam."""
    pdu = request.pdu
    if not isinstance(pdu, Mapping) or pdu.get("type") != _MEMBER or not isinstance(pdu.get("content"), Mapping):
        raise _unfit(request, "It is no membership event.")
    if pdu["content"].get("membership") != "invite":
        raise _unfit(request, "It is no invitation.")
    target, sender = pdu.get("state_key"), pdu.get("sender")
    if not isinstance(target, str) or not is_local(target):
        raise _unfit(request, "It is not for a user of this server.")
    if not isinstance(sender, str) or domain_of(sender) != request.origin:
        raise _unfit(request, "It is not by a user of your server.")
    return target


def _unfit(request: InviteRequest, reason: str) -> InvalidParam:
    log.info("refused the invitation %s of %s: %s", request.event_id, request.origin, reason)
    return InvalidParam(f"This server does not sign that. {reason}")


def _checked(request: InviteRequest, rules: RoomVersionRules) -> Event:
    """The invitation, if format, hash and signatures are right. Raises InvalidParam, MatrixError (503)."""
    event = checked_event(Handshake("invite", request.origin, request.room_id, request.event_id), rules, request.pdu)
    # For one that redeems a third-party invite no signature is asked for where it is in the room: here it is.
    key_ids = signature_key_ids(event.pdu, request.origin)
    keys = verify_keys(request.origin, sorted(key_ids), valid_at_ms=event.origin_server_ts, rules=rules)
    try:
        verify_event_signature(event.pdu, rules, request.origin, keys)
    except SignatureError as error:
        raise _unfit(request, error.message) from None
    return event


def _checked_state(request: InviteRequest, rules: RoomVersionRules) -> list[Mapping[str, Any]]:
    """What the other server tells of the room, as far as it may be shown.

    From room version 12 on the create event says which room it is: it must be there, and be the room's. Whole events
    must be the room's and signed. Raises InvalidParam for what is not so, Forbidden for a room that is not for others.
    """
    listed = request.room_state if isinstance(request.room_state, list) else []
    wanted = {*((event_type, "") for event_type in STRIPPED_STATE_TYPES), (_MEMBER, request.pdu["sender"])}
    shown = {
        (told["type"], told["state_key"]): told
        for told in listed[:_MOST_STATE]
        if isinstance(told, dict)
        and isinstance(told.get("type"), str)
        and isinstance(told.get("state_key"), str)
        and (told["type"], told["state_key"]) in wanted
    }
    create = shown.get((_CREATE, ""))
    if create is not None and isinstance(create.get("content"), dict) and create["content"].get("m.federate") is False:
        raise Forbidden("The room is only for users of the server that made it.")
    if rules.room_id_is_create_hash:
        if create is None:
            raise _unfit(request, "invite_room_state lacks the create event.")
        whole = [told for told in shown.values() if "auth_events" in told or "hashes" in told]
        for checked in check_pdus(whole, rules, request.room_id, seconds=_KEYS_S):
            if (checked.event is None and not checked.retry) or checked.rule == "3":
                raise _unfit(request, f"invite_room_state has an event that fails check {checked.rule}.")
    return list(shown.values())
