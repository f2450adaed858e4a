"""Invitations by address that have found their user, across servers.

An identity server tells the user's server (`3pid/onbind`). If that is in the room, it makes the invitation itself, in
the inviter's name; else it asks the inviter's server to do so (`exchange_third_party_invite`).

Source: server-server API v1.19, "Third-party invites".
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.adapters.federation_http import FederationClient, FederationError, federation_path
from homeserver.matrix.canonical_json import NotCanonical, encode_canonical
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.identifiers import domain_of, fits_identifier, is_room_id, is_user_id
from homeserver.observability import log
from homeserver.services import rate_limits
from homeserver.services.attempts import attempts
from homeserver.services.invite_permissions import check_wants_invites, permission_key
from homeserver.services.remote_invite import SHOWN_STATE, check_can_be_invited, invite_elsewhere
from homeserver.services.residency import candidates, is_resident, server_of_id
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.room_rows import is_local
from homeserver.services.send_event import keys_for
from homeserver.services.served_handshakes import check_is_of, open_room
from homeserver.services.third_party_invites import check_signed
from homeserver.storage.profiles import Profile
from homeserver.storage.rooms import RoomView, load_room

MOST_INVITES = 20  # of one notification
_TYPE, _MEMBER = "m.room.third_party_invite", "m.room.member"
_ONBIND_S, _LEAST_S = 20.0, 2.0
_MOST_BYTES = 64 * 1024
# Anybody can say that an address was bound, and each may make this server ask others.
_PER_SECOND, _BURST = 0.1, 10


@dataclass(frozen=True, slots=True)
class BoundInvite:
    """An invitation to an address that is now bound to `user_id`; `signed`: what the identity server says of it."""

    room_id: str
    sender: str
    user_id: str
    token: str
    signed: Mapping[str, Any]

    @classmethod
    def of(cls, room_id: Any, sender: Any, user_id: Any, signed: Any) -> "BoundInvite":
        """Raises InvalidParam for what is none, BadJson for a statement of the wrong shape."""
        if not is_room_id(room_id) or not is_user_id(sender) or not is_user_id(user_id):
            raise InvalidParam("An invitation has a room, a sender and an invited user.")
        if not isinstance(signed, dict) or not isinstance(signed.get("signatures"), dict):
            raise BadJson("signed must be an object with signatures.")
        token = signed.get("token")
        if not isinstance(token, str) or not fits_identifier(token):
            raise BadJson("signed must have a token.")
        if signed.get("mxid") != user_id:
            raise InvalidParam("The identity server speaks of another user.")
        try:
            encode_canonical(signed)
        except NotCanonical as error:
            raise BadJson(f"signed is not canonical JSON: {error}") from None
        return cls(room_id, sender, user_id, token, signed)

    def draft(self, display_name: Any) -> EventDraft:
        """The invitation as an event of the room."""
        shown = display_name if isinstance(display_name, str) else ""
        invitation = {"display_name": shown, "signed": dict(self.signed)}
        return EventDraft(_MEMBER, {"membership": "invite", "third_party_invite": invitation}, self.user_id)


def exchange_invite(origin: str, room_id: str, body: Mapping[str, Any]) -> None:
    """Make the invitation that `PUT /exchange_third_party_invite/{roomId}` asks for, of a user of the origin.

    Repeating it changes nothing. Raises as `open_room` and `BoundInvite.of` do; Forbidden where the room has no such
    invitation by a user of this server, or nobody has signed for it; what `invite_elsewhere` raises; LimitExceeded.
    """
    content = body.get("content")
    content = content if isinstance(content, dict) else {}
    invitation = content.get("third_party_invite")
    if body.get("type") != _MEMBER or not isinstance(invitation, dict) or content.get("membership") != "invite":
        raise InvalidParam("This is no invitation that redeems one by address.")
    if body.get("room_id") != room_id:
        raise InvalidParam("The invitation is for another room.")
    bound = BoundInvite.of(room_id, body.get("sender"), body.get("state_key"), invitation.get("signed"))
    check_is_of(bound.user_id, origin)
    open_room(room_id, origin)
    if not is_local(bound.sender):
        raise Forbidden("Only the server of who invited can make an invitation of this.")
    _invite(bound)


def note_binding(user_id: str, invites: list[Any], network: str) -> None:
    """Take up that an address was bound to a local user (`PUT /3pid/onbind`), with the invitations that wait for it.

    What becomes of each is nobody's business who says so: what fails is logged. `network`: where the notice came from.
    Raises NotFound for a user who is none of this server, InvalidParam for too many invitations, LimitExceeded.
    """
    if not is_user_id(user_id) or not is_local(user_id):
        raise NotFound("This server has no such user.")
    if len(invites) > MOST_INVITES:
        raise InvalidParam(f"At most {MOST_INVITES} invitations can be told at once.")
    rate_limits.take(f"onbind/{network}", per_second=_PER_SECOND, burst=_BURST)
    if Profile.fetch(user_id) is None:  # which every user has
        raise NotFound("This server has no such user.")
    end = time.monotonic() + _ONBIND_S
    for told in invites:
        try:
            _take_up(told, user_id, end)
        except (MatrixError, FederationError) as error:
            log.info("an invitation by address of %s comes to nothing: %s", user_id, error)


def _take_up(told: Any, user_id: str, end: float) -> None:
    if not isinstance(told, dict):
        raise BadJson("An invitation must be an object.")
    bound = BoundInvite.of(told.get("room_id"), told.get("sender"), told.get("mxid"), told.get("signed"))
    if bound.user_id != user_id:
        raise InvalidParam("The invitation is for another user.")
    view, _ = load_room(bound.room_id)
    if is_resident(view):
        _invite(bound)
    else:
        _ask_for_invite(bound, end)


def _ask_for_invite(bound: BoundInvite, end: float) -> None:
    """Ask the inviter's server, which sends the invitation to this one. Raises FederationError where nobody helps."""
    body = {
        "type": _MEMBER,
        "room_id": bound.room_id,
        "sender": bound.sender,
        "state_key": bound.user_id,
        "content": bound.draft("").content,
    }
    failure: FederationError | None = None
    for server in candidates([domain_of(bound.sender)], server_of_id(bound.room_id)):
        left = end - time.monotonic()
        if left < _LEAST_S:
            break
        path = federation_path("v1", "exchange_third_party_invite", bound.room_id)
        try:
            FederationClient().request("PUT", server, path, content=body, timeout_s=left, max_bytes=_MOST_BYTES)
        except FederationError as error:
            failure = error
            continue
        return
    if failure is not None:
        raise failure
    raise MatrixError("There is no time left to ask another server.")


def _invite(bound: BoundInvite) -> None:
    """Make the invitation in a room that this server is in, in the inviter's name. Raises Forbidden, NotFound."""
    pending = _pending(_read(bound), bound)
    check_signed(pending, bound.signed)
    draft = bound.draft(pending.content.get("display_name"))
    for _ in attempts("The room"):
        view = _read(bound)
        if _pending(view, bound) != pending:
            raise Forbidden("The invitation was withdrawn.")
        if view.membership(bound.user_id) == "invite":
            return
        room = RoomDraft(view, view.rules)
        event = room.add(draft, bound.sender)
        if not is_local(bound.user_id):
            check_can_be_invited(view, bound.user_id)
            invite_elsewhere(view, event)
            return
        check_wants_invites(view.extras.get(permission_key(bound.user_id)))
        try:
            room.commit()
        except Raced:
            continue
        return
    raise AssertionError("attempts() never ends by itself")


def _read(bound: BoundInvite) -> RoomView:
    inside = is_local(bound.user_id)
    view, _ = load_room(
        bound.room_id,
        [*keys_for(bound.draft(""), bound.sender), *SHOWN_STATE, (_TYPE, bound.token)],
        local_users=[bound.user_id] if inside else [],
        extras=[permission_key(bound.user_id)] if inside else [],
    )
    if view is None or not is_resident(view):
        raise NotFound("This server is not in this room.")
    return view


def _pending(view: RoomView, bound: BoundInvite) -> Event:
    """The invitation by address. Raises Forbidden where the room has none with this token by this inviter."""
    pending = view.event(_TYPE, bound.token)
    if pending is None or pending.sender != bound.sender:
        raise Forbidden("The room has no such invitation.")
    return pending
