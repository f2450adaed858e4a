"""What handshakes of joins, leaves and knocks have in common: a template of an event, and the event that comes back.

This server is in the room and the user's server need not be. It makes the template from the room as it is, as it makes
its own events; the user's server signs it and sends it back; what is accepted then goes on to the other servers.

Source: server-server API v1.19, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)".
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.adapters.signing_key import signing_key
from homeserver.matrix.errors import (
    AuthRuleViolation,
    BadJson,
    Forbidden,
    InvalidParam,
    MatrixError,
    NotFound,
    TooLarge,
)
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.event_format import check_event_format
from homeserver.matrix.identifiers import domain_of, is_event_id, is_user_id
from homeserver.matrix.relations import relation_of
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.signing import sign_event
from homeserver.observability import log
from homeserver.services.pdu_checks import check_pdus
from homeserver.services.receive_events import Verdict, receive_events
from homeserver.services.residency import is_resident
from homeserver.services.room_draft import RoomDraft
from homeserver.services.server_access import check_access
from homeserver.settings import settings
from homeserver.storage.connection import Key
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import RoomView, StateKey

_MEMBER = "m.room.member"
_CREATE = ("m.room.create", "")
_KEYS_S = 10.0  # for the keys of a server whose user vouches for a join


@dataclass(frozen=True, slots=True)
class Handshake:
    """The second half of a handshake: `membership` in `room_id`, by a user of `origin`, as the event `event_id`."""

    membership: str
    origin: str
    room_id: str
    event_id: str


def open_room(room_id: str, origin: str, keys: Iterable[StateKey] = (), extras: Sequence[Key] = ()) -> RoomView:
    """A room that this server is in and that a user of another server may be let into, or out of: one round.

    Raises what `check_access` does; NotFound for a room that this server has left, Forbidden for one that is only for
    users of the server that made it.
    """
    view = check_access(room_id, origin, needs_member=False, keys=[_CREATE, *keys], extras=extras)
    if not is_resident(view):
        raise NotFound("This server is not in this room.")
    create = view.event(*_CREATE)
    if create is not None and create.content.get("m.federate") is False and domain_of(create.sender) != origin:
        raise Forbidden("This room is only for users of the server that made it.")
    return view


def check_is_of(user_id: str, origin: str) -> None:
    """Raises InvalidParam for no user ID, Forbidden for a user of another server than the one that asks."""
    if not is_user_id(user_id):
        raise InvalidParam("userId is not a Matrix user ID.")
    if domain_of(user_id) != origin:
        raise Forbidden("A server can only ask for its own users.")


def check_version(view: RoomView, versions: Collection[str]) -> None:
    """Raises M_INCOMPATIBLE_ROOM_VERSION where the room's version is none that the other server knows."""
    version = view.rules.version
    if version not in versions:
        raise MatrixError(
            f"This room has the version {version}, which your server does not support.",
            errcode="M_INCOMPATIBLE_ROOM_VERSION",
            extra={"room_version": version},
        )


def template(view: RoomView, draft: EventDraft, user_id: str) -> dict[str, Any]:
    """The body that answers a `make_...`: the event as this server would make it, for another to sign.

    `view` has what authorises the event. Raises AuthRuleViolation where the room would refuse it.
    """
    event = RoomDraft(view, view.rules).add(draft, user_id)
    left_out = {"event_id", "hashes", "signatures"}
    made = {key: value for key, value in event.pdu.items() if key not in left_out}
    return {"room_version": view.rules.version, "event": {**made, "origin": settings().server_name}}


def known_record(view: RoomView, event_id: str) -> EventRecord | None:
    """The record of an event that the room has already; the view was asked for it.

    Raises Forbidden where the room refused it when it came first, and for one that is known from the room's state
    elsewhere, of which nobody has told what was before it.
    """
    record: EventRecord | None = view.extras.get((EventRecord, event_id, None))
    if record is None or record.room != view.room_id:
        return None
    if "o" in (record.flags or ""):
        raise Forbidden("This server knows the event without its place in the room: make another one.")
    if record.flags:
        raise Forbidden("The room has refused this event.")
    return record


def check_event_id(event_id: str) -> None:
    """Raises InvalidParam for what can be no event ID: nothing is looked up under it."""
    if not is_event_id(event_id):
        raise InvalidParam("eventId is not an event ID.")


def returned_event(handshake: Handshake, rules: RoomVersionRules, pdu: Any) -> tuple[Event, bool]:
    """The membership event of a handshake's second half, and whether a user of this server vouches for it.

    Then it has this server's signature too. Raises InvalidParam for anything but an event of this room, with this ID,
    this membership, of a user of the origin about themselves, with a right hash and all signatures that it needs;
    MatrixError (503) where the keys of another server cannot be had at the moment.
    """
    try:
        check_event_format(pdu, rules)
    except (BadJson, TooLarge) as error:
        raise _unfit(handshake, "1", error.message) from None
    content = pdu["content"]
    if pdu["type"] != _MEMBER or content.get("membership") != handshake.membership:
        raise _unfit(handshake, "handshake", f"It is no membership event with {handshake.membership}.")
    if pdu.get("state_key") != pdu["sender"] or domain_of(pdu["sender"]) != handshake.origin:
        raise _unfit(handshake, "handshake", "It is not of a user of your server about themselves.")
    if relation_of(content) is not None:
        raise _unfit(handshake, "handshake", "A membership relates to no other event.")
    vouches = rules.restricted_joins and handshake.membership == "join" and _is_own(content)
    # It counts for nothing before the event has come through: nobody sees it until then.
    signed = sign_event(pdu, rules, settings().server_name, signing_key()) if vouches else pdu
    return checked_event(handshake, rules, signed), vouches


def checked_event(handshake: Handshake, rules: RoomVersionRules, pdu: Any) -> Event:
    """An event that passes the checks of format, signatures and hash, and is the one that is announced.

    Raises InvalidParam, MatrixError (503) where keys cannot be had at the moment.
    """
    (checked,) = check_pdus([pdu], rules, handshake.room_id, seconds=_KEYS_S)
    if checked.retry:
        raise MatrixError("The keys of a server that signed the event cannot be had at the moment.", status=503)
    if checked.event is None or checked.rule:
        raise InvalidParam(f"The event fails check {checked.rule}: {checked.reason}")
    if checked.event_id != handshake.event_id:
        raise _unfit(handshake, "handshake", "It has another ID than the one in the address.")
    return checked.event


def _is_own(content: Any) -> bool:
    """Whether a join says that a user of this server lets the joining one in."""
    authoriser = content.get("join_authorised_via_users_server")
    return is_user_id(authoriser) and domain_of(authoriser) == settings().server_name


def _unfit(handshake: Handshake, rule: str, reason: str) -> InvalidParam:
    log.info("refused %s of %s by rule %s: %s", handshake.event_id, handshake.origin, rule, reason)
    return InvalidParam(f"This is not the event that it must be. {reason}")


def take_in(event: Event) -> None:
    """Commit an event that another server handed in, so that it goes on to the others.

    Raises Forbidden with the reason where the room refuses it, also for one that refers to what is unknown here.
    """
    outcome = receive_events(event.room_id, [event], origin="relay")[event.event_id]
    if outcome.verdict in {Verdict.ACCEPTED, Verdict.KNOWN}:
        return
    if outcome.verdict is Verdict.MISSING:
        log.info("refused %s: it refers to %s", event.event_id, ", ".join([*outcome.prev, *outcome.auth]))
        raise Forbidden("The event refers to events that this server does not know.")
    if outcome.rule:
        raise AuthRuleViolation(outcome.rule, outcome.reason)
    raise Forbidden(outcome.reason or "The room refuses this event.")


def record_of(event: Event) -> EventRecord:
    """The record of an event that was taken in. Raises Forbidden where the room had refused it before."""
    record = EventRecord.fetch(event.event_id)
    if record is None or record.flags:
        raise Forbidden("The room has refused this event.")
    return record
