"""Invitations to mail addresses and telephone numbers, and joins that redeem them.

Source: client-server API v1.19, "Third-party invites"; identity service API, "Invitation storage".

The identity server is the client's choice, and is asked only for users who may invite. A room keeps of the address
nothing but the name that the identity server made of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.adapters import identity_server
from homeserver.adapters.guarded_http import RequestFailed, RequestRefused
from homeserver.adapters.identity_server import IdentityServer, IdentityServerRefused
from homeserver.matrix import unpadded_base64
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState
from homeserver.matrix.event_auth.third_party_invite import is_signed_by_any
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.identifiers import domain_of, fits_identifier, is_server_name, is_user_id
from homeserver.observability import log
from homeserver.services import membership, rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.membership import Redemption
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id, send_state_event
from homeserver.settings import settings
from homeserver.storage.rooms import RoomView, load_room

MEDIA = ("email", "msisdn")
_TYPE = "m.room.third_party_invite"
_MOST_KEYS = 8
_LONGEST_ADDRESS = 500
# An invitation makes an identity server send a mail: enough for a dinner party, too little for spam.
_PER_SECOND, _BURST = 0.1, 20
# What the identity server may put into its mail: parameter, event type, key of its content.
_SHOWN = (
    ("room_alias", "m.room.canonical_alias", "alias"),
    ("room_avatar_url", "m.room.avatar", "url"),
    ("room_join_rules", "m.room.join_rules", "join_rule"),
    ("room_name", "m.room.name", "name"),
    ("room_type", "m.room.create", "type"),
)


@dataclass(frozen=True, slots=True)
class AddressInvite:
    """Whom to invite by what is not a user ID, and which identity server to ask with which access token."""

    medium: str
    address: str
    id_server: str
    id_access_token: str

    @classmethod
    def of(cls, medium: str, address: str, id_server: str, id_access_token: str) -> "AddressInvite":
        """Raises InvalidParam for what no identity server can be asked, M_THREEPID_MEDIUM_NOT_SUPPORTED."""
        if medium not in MEDIA:
            raise MatrixError("medium must be email or msisdn.", errcode="M_THREEPID_MEDIUM_NOT_SUPPORTED")
        if not is_server_name(id_server):
            raise InvalidParam("id_server must be a host name, with a port if need be.")
        # Addresses are compared byte by byte: e-mail in lower case, numbers without anything but digits.
        plain = address.casefold() if medium == "email" else address
        if not 0 < len(plain) <= _LONGEST_ADDRESS or not (plain.isdigit() if medium == "msisdn" else "@" in plain):
            raise InvalidParam(f"This is no address of the medium {medium}.")
        return cls(medium, plain, id_server, id_access_token)

    @property
    def server(self) -> IdentityServer:
        return IdentityServer(self.id_server, self.id_access_token)


def take_invite(requester: Requester) -> None:
    """One invitation by address. Raises LimitExceeded."""
    rate_limits.take(f"address-invite/{requester.user_id}", per_second=_PER_SECOND, burst=_BURST)


def user_behind(invite: AddressInvite) -> str | None:
    """The user who has bound the address, or None. Raises MatrixError where the identity server cannot say."""
    try:
        return invite.server.lookup(invite.medium, invite.address)
    except RequestFailed as failed:
        raise _failure(failed) from failed


def invite_address(requester: Requester, room_id: str, invite: AddressInvite, *, reason: str | None = None) -> None:
    """Invite whoever has an address: the user who bound it, or who will prove later that it is theirs.

    Raises Forbidden where the requester may not invite (before any other server is asked), M_SERVER_NOT_TRUSTED for
    an identity server that is not asked, M_TERMS_NOT_SIGNED as it answers it, 502 where it fails.
    """
    check_room_id(room_id)
    _inviting(requester, room_id)
    take_invite(requester)
    user_id = user_behind(invite)
    if user_id is not None:
        membership.invite(requester, room_id, user_id, reason=reason)
    else:
        invite_stranger(requester, room_id, invite, reason=reason)


def invite_stranger(requester: Requester, room_id: str, invite: AddressInvite, *, reason: str | None = None) -> None:
    """Invite an address that nobody had bound when it was looked up."""
    view = _inviting(requester, room_id)
    try:
        stored = invite.server.store_invite(_question(requester, view, invite))
    except IdentityServerRefused as refused:
        if refused.errcode == "M_THREEPID_IN_USE" and is_user_id(refused.mxid):
            membership.invite(requester, room_id, str(refused.mxid), reason=reason)
            return
        raise _failure(refused) from refused
    except RequestFailed as failed:
        raise _failure(failed) from failed
    # The first key stands twice: clients and servers from before there was a list look for it alone.
    content = {"display_name": stored.display_name, **stored.public_keys[0], "public_keys": stored.public_keys}
    send_state_event(requester, room_id, EventDraft(_TYPE, content, stored.token))


def _inviting(requester: Requester, room_id: str) -> RoomView:
    """The room, for a member who may invite. Raises Forbidden."""
    shown = [(event_type, "") for _, event_type, _ in _SHOWN]
    keys = [*shown, ("m.room.power_levels", ""), ("m.room.member", requester.user_id)]
    view, _ = load_room(room_id, keys)
    if view is None or view.membership(requester.user_id) != "join":
        raise Forbidden(NOT_IN_ROOM)
    levels = AuthState({key: entry.event for key, entry in view.state.items()}).power_levels
    if levels.user_level(requester.user_id) < levels.invite:
        raise Forbidden("You have too little power to invite.")
    return view


def _question(requester: Requester, view: RoomView, invite: AddressInvite) -> dict[str, str]:
    own = view.event("m.room.member", requester.user_id)
    told: dict[str, Any] = {
        "sender_display_name": own.content.get("displayname") if own else None,
        "sender_avatar_url": own.content.get("avatar_url") if own else None,
    }
    for name, event_type, key in _SHOWN:
        event = view.event(event_type)
        told[name] = event.content.get(key) if event else None
    return {
        "medium": invite.medium,
        "address": invite.address,
        "room_id": view.room_id,
        "sender": requester.user_id,
        **{name: value for name, value in told.items() if isinstance(value, str)},
    }


def _failure(failed: RequestFailed) -> MatrixError:
    """What the client is told. Never 401: it would take its own access token for the one that is refused."""
    if isinstance(failed, RequestRefused):
        return Forbidden("This server does not ask that identity server.", errcode="M_SERVER_NOT_TRUSTED")
    if isinstance(failed, IdentityServerRefused):
        known = failed.errcode in {"M_TERMS_NOT_SIGNED", "M_THREEPID_DENIED"}
        return Forbidden(f"The identity server refuses: {failed}", errcode=failed.errcode if known else None)
    log.warning("an identity server cannot be asked: %s", failed)
    return MatrixError("The identity server cannot be asked at the moment.", status=502)


def redemption_of(requester: Requester, room_id: str, signed: Mapping[str, Any]) -> Redemption:
    """What `third_party_signed` of a join redeems, after the checks that the specification asks for.

    The room has the invitation, one of its keys signed the statement for the requester, and who issued the key
    still stands by it. Raises Forbidden, BadJson, NotFound, 502 where the key's validity cannot be learned.
    """
    sender, mxid, token = (_text(signed, name) for name in ("sender", "mxid", "token"))
    if not isinstance(signed.get("signatures"), Mapping):
        raise BadJson("third_party_signed must have signatures.")
    check_room_id(room_id)
    if mxid != requester.user_id:
        raise Forbidden("This third-party invite is for another user.")
    if not is_user_id(sender) or not fits_identifier(token):
        raise InvalidParam("third_party_signed has no sender or no token that can be one.")
    view, _ = load_room(room_id, [(_TYPE, token)])
    if view is None:
        raise NotFound("This server knows no such room.")
    pending = view.event(_TYPE, token)
    if pending is None or pending.sender != sender:
        raise Forbidden("The room has no such invitation.")
    if domain_of(sender) != settings().server_name:
        raise Forbidden("Only the server of who invited you can let you in.")
    check_signed(pending, signed)
    shown = pending.content.get("display_name")
    invitation = {"display_name": shown if isinstance(shown, str) else "", "signed": dict(signed)}
    content = {"membership": "invite", "third_party_invite": invitation}
    return Redemption(sender, content, token, pending.event_id)


def _text(signed: Mapping[str, Any], name: str) -> str:
    value = signed.get(name)
    if not isinstance(value, str):
        raise BadJson(f"third_party_signed must have {name}, a string.")
    return value


def check_signed(pending: Event, signed: Mapping[str, Any]) -> None:
    """Whether a key of the `m.room.third_party_invite` signed, and is still valid.

    Raises Forbidden, MatrixError (502) if nobody can say.
    """
    unknown: RequestFailed | None = None
    for public_key, url in _keys(pending.content):
        try:
            key = unpadded_base64.decode(public_key)
        except ValueError:
            continue
        if not is_signed_by_any(signed, [key]):
            continue
        try:
            if url is None or identity_server.is_key_valid(url, public_key):
                return
        except RequestFailed as failed:
            unknown = failed
    if unknown is not None:
        raise _failure(unknown) from unknown
    raise Forbidden("No valid key of the invitation has signed this.")


def _keys(content: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The keys of an `m.room.third_party_invite`, each once, with where to ask for their validity."""
    listed = content.get("public_keys")
    seen = set()
    for entry in [content, *(listed if isinstance(listed, list) else [])][:_MOST_KEYS]:
        key = entry.get("public_key") if isinstance(entry, Mapping) else None
        url = entry.get("key_validity_url") if isinstance(entry, Mapping) else None
        if isinstance(key, str) and isinstance(url, str | None) and (key, url) not in seen:
            seen.add((key, url))
            yield key, url
