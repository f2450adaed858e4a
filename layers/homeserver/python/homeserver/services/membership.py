"""Membership: join, invite, leave, kick, ban, unban, forget, and the profile that a membership carries.

Source: client-server API v1.19, "Room membership". Whatever changes a membership goes through `change_membership`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.observability import log
from homeserver.services import guests, rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.invite_permissions import check_wants_invites, permission_key
from homeserver.services.membership_elsewhere import change_elsewhere, is_elsewhere, leave_unseen, let_in_elsewhere
from homeserver.services.membership_requests import Elsewhere
from homeserver.services.notice_rooms import check_may_leave
from homeserver.services.remote_invite import SHOWN_STATE, check_can_be_invited, invite_elsewhere
from homeserver.services.request_transactions import RequestClaim
from homeserver.services.residency import NotResident
from homeserver.services.restricted_joins import find_grant, needs_grant
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.send_event import (
    NOT_IN_ROOM,
    check_can_invite,
    check_room_id,
    keys_for,
    unchanged_state,
)
from homeserver.services.upgraded_settings import carry_settings_on_join
from homeserver.settings import settings
from homeserver.storage.connection import Key, Transaction, TransactionCancelled, query_range
from homeserver.storage.inbox import Counters
from homeserver.storage.inbox_shards import COUNTERS
from homeserver.storage.profiles import Profile, profile_fields
from homeserver.storage.room_guests import add_guest, guest_keys
from homeserver.storage.room_items import LocalMember, Membership
from homeserver.storage.rooms import RoomView, StateKey, load_room

# What a membership event carries of a profile.
_PROFILE_FIELDS = ("displayname", "avatar_url")
# Whose word let somebody in. Only this server can say so: taken from a client, it would be a way around the conditions.
_AUTHORISER = "join_authorised_via_users_server"


def member_profile(profile: Profile | None) -> dict[str, Any]:
    """The keys that a profile puts into a membership event."""
    fields = profile_fields(profile)
    return {name: fields[name] for name in _PROFILE_FIELDS if fields.get(name) is not None}


@dataclass(frozen=True, slots=True)
class Redemption:
    """An invitation to a third-party identifier that a join redeems: the invitation it becomes, in `inviter`'s name.

    `pending` is the ID of the event that made it, which must still be the one in force.
    """

    inviter: str
    content: Mapping[str, Any]
    token: str
    pending: str


def join_room(
    requester: Requester,
    room_id: str,
    *,
    reason: str | None = None,
    redemption: Redemption | None = None,
    elsewhere: Elsewhere | None = None,
    claim: RequestClaim | None = None,
) -> None:
    """Join a room, through other servers if need be (`elsewhere`). Joining a room one is in changes nothing.

    Raises NotFound for a room that nobody knows, Forbidden where the rules refuse the join, where a restricted room's
    conditions are not met (see `restricted_joins`), and where guests are not admitted; what `have_done` raises.
    """
    user_id = requester.user_id
    content = _content("join", reason)
    joined = change_membership(
        requester,
        user_id,
        room_id,
        content,
        unless=("join",),
        with_profile=True,
        redemption=redemption,
        elsewhere=elsewhere,
        claim=claim,
    )
    if joined is not None:
        carry_settings_on_join(user_id, room_id)


def invite(
    requester: Requester,
    room_id: str,
    user_id: str,
    *,
    reason: str | None,
    is_direct: bool = False,
    claim: RequestClaim | None = None,
) -> None:
    """Invite a user; inviting them again changes nothing.

    Raises Forbidden where the rules refuse it, also for someone who is in the room already, and with M_INVITE_BLOCKED
    for who wants no invitations; for a user of another server what `invite_elsewhere` raises.
    """
    check_can_invite(user_id)
    content = {**_content("invite", reason), **({"is_direct": True} if is_direct else {})}
    change_membership(requester, user_id, room_id, content, unless=("invite",), with_profile=True, claim=claim)


def leave_room(
    requester: Requester, room_id: str, *, reason: str | None = None, claim: RequestClaim | None = None
) -> None:
    """Leave a room, decline an invitation or take a knock back. Leaving a room one has left changes nothing.

    Raises M_CANNOT_LEAVE_SERVER_NOTICE_ROOM for the room of the server's notices; what `have_done` raises.
    """
    check_room_id(room_id)
    check_may_leave(requester.user_id, room_id)
    content = _content("leave", reason)
    change_membership(requester, requester.user_id, room_id, content, unless=("leave",), claim=claim)


def kick(requester: Requester, room_id: str, user_id: str, *, reason: str | None) -> None:
    """Remove a user from a room, withdraw their invitation or turn their knock down.

    Raises Forbidden for someone who is not there: a second kick makes no second event.
    """
    _remove(requester, room_id, user_id, reason, only=("join", "invite", "knock"))


def unban(requester: Requester, room_id: str, user_id: str, *, reason: str | None) -> None:
    """Lift a ban. Raises Forbidden for someone who is not banned."""
    _remove(requester, room_id, user_id, reason, only=("ban",))


def _remove(requester: Requester, room_id: str, user_id: str, reason: str | None, *, only: Sequence[str]) -> None:
    content = _content("leave", reason)
    change_membership(requester, user_id, room_id, content, only=only)


def remove(
    requester: Requester, room_id: str, user_id: str, *, reason: str | None, claim: RequestClaim | None = None
) -> None:
    """Set a user's membership to `leave`, whatever it is: a kick, or the end of an invitation, a knock or a ban.

    Removing somebody who has left changes nothing. Raises Forbidden for someone who never was there.
    """
    content = _content("leave", reason)
    change_membership(requester, user_id, room_id, content, unless=("leave",), claim=claim)


def _content(membership: str, reason: str | None) -> dict[str, Any]:
    return {"membership": membership, **({"reason": reason} if reason is not None else {})}


def ban(
    requester: Requester, room_id: str, user_id: str, *, reason: str | None, claim: RequestClaim | None = None
) -> None:
    """Ban a user, whether they are in the room or not. Banning a banned user changes nothing."""
    content = _content("ban", reason)
    change_membership(requester, user_id, room_id, content, unless=("ban",), claim=claim)


def forget_room(requester: Requester, room_id: str) -> None:
    """Forget a room that was left: its history is closed to the user, and no sync mentions it again.

    Raises MatrixError (400 M_UNKNOWN) while the user is in the room, NotFound for a room they were never in.
    """
    check_room_id(room_id)
    for _ in attempts("The room"):
        row = LocalMember.fetch(room_id, f"local/{requester.user_id}")
        if row is None:
            raise NotFound("You were never in this room.")
        if row.membership in {"join", "invite", "knock"}:
            raise MatrixError("You have to leave the room before it can be forgotten.")
        transaction = Transaction()
        transaction.update("local", row, [LocalMember.forgotten.set(1)], LocalMember.event_id == row.event_id)
        try:
            transaction.commit()
        except TransactionCancelled:
            continue
        return


def joined_rooms(user_id: str) -> list[str]:
    """The IDs of the rooms a local user is in."""
    rows = query_range(Membership, user_id, consistent=True)
    return [row.room for row in rows if row.membership == "join"]


def leave_all_rooms(user_id: str) -> None:
    """Let a deactivated user leave every room and decline every invitation; one that fails does not stop the rest.

    Other servers are told by a worker: nobody waits for that.
    """
    requester, leave = Requester(user_id, "", ""), {"membership": "leave"}
    for row in query_range(Membership, user_id, consistent=True):
        if row.membership in {"join", "invite", "knock"}:
            try:
                change_membership(requester, user_id, row.room, dict(leave), unless=("leave",), in_job=True)
            except NotResident:
                leave_unseen(user_id, row.room, leave)
            except MatrixError as error:
                log.warning("%s could not leave %s: %s", user_id, row.room, error)


def update_profile_in_rooms(user_id: str, profile: Mapping[str, Any]) -> None:
    """Let the membership in every joined room show a new profile. Rooms that refuse it keep the old one."""
    shown = {name: profile[name] for name in _PROFILE_FIELDS if profile.get(name) is not None}
    for room_id in joined_rooms(user_id):
        try:
            _show_profile(user_id, room_id, shown)
        except MatrixError as error:
            log.warning("the profile of %s does not show in %s: %s", user_id, room_id, error)


def _show_profile(user_id: str, room_id: str, shown: Mapping[str, Any]) -> None:
    keep = EventDraft("m.room.member", {"membership": "join"}, state_key=user_id)
    for _ in attempts("The room"):
        view, _found = load_room(room_id, keys_for(keep, user_id), local_users=[user_id])
        current = view.event("m.room.member", user_id) if view else None
        if view is None or current is None or current.content.get("membership") != "join":
            return
        content = {key: value for key, value in current.content.items() if key not in _PROFILE_FIELDS} | dict(shown)
        # A join that was authorised by another server's user cannot be repeated without their signature.
        content.pop(_AUTHORISER, None)
        if content == current.content:
            return
        room = RoomDraft(view, view.rules)
        room.add(EventDraft("m.room.member", content, state_key=user_id), user_id)
        try:
            room.commit()
        except Raced:
            continue
        return


def set_membership(requester: Requester, room_id: str, target: str, content: Mapping[str, Any]) -> str:
    """A membership set as a state event, with the content as it comes; returns the event's ID.

    Setting what is set already by the same user makes no event. Raises as the membership's own endpoint does.
    """
    rate_limits.take_send(requester.user_id)
    if content.get("membership") == "invite":
        check_can_invite(target)
    if content.get("membership") == "leave" and target == requester.user_id:
        check_room_id(room_id)
        check_may_leave(target, room_id)
    kept = {key: value for key, value in content.items() if key != _AUTHORISER}
    event = change_membership(requester, target, room_id, kept, exactly=True)
    if event is None:
        raise AssertionError("nothing was to be left out")
    return event.event_id


def change_membership(
    requester: Requester,
    target: str,
    room_id: str,
    content: dict[str, Any],
    *,
    unless: Sequence[str] = (),
    only: Sequence[str] | None = None,
    with_profile: bool = False,
    exactly: bool = False,
    redemption: Redemption | None = None,
    elsewhere: Elsewhere | None = None,
    in_job: bool = False,
    claim: RequestClaim | None = None,
) -> Event | None:
    """Commit a membership event; None if the target's membership is one of `unless` already.

    `only`: the memberships that the target must have; `with_profile`: the target's profile goes into the content;
    `exactly`: the content is the client's own, and the same one again makes no event. What users do to themselves in
    rooms that this server is not in is done through `elsewhere`, by a worker; with `in_job` it is not (NotResident).
    Of an event that another server made for it, or that is another server's to make, only the ID is returned.
    `claim`: the request that this is done for; its answer is committed with the event (see `request_transactions`).
    Raises Forbidden, NotFound for a join of or a knock at an unknown room, InvalidParam.
    """
    check_room_id(room_id)
    if not is_user_id(target):
        raise InvalidParam("user_id is not a Matrix user ID.")
    sender, wanted = requester.user_id, content.get("membership")
    draft = EventDraft("m.room.member", content, state_key=target)
    is_local = domain_of(target) == settings().server_name
    joins, invites = wanted == "join", wanted == "invite"
    counters_key: Key = (Counters, target, COUNTERS)
    profile_key: Key = (Profile, target, None)
    keys = keys_for(draft, sender)
    extras = ([counters_key] if joins else []) + ([profile_key] if with_profile and is_local else [])
    if invites and is_local:
        extras.append(permission_key(target))
    if claim is not None:
        extras.append(claim.key)
    if invites and not is_local:
        keys += [*SHOWN_STATE, ("m.room.member", sender)]
    if joins and requester.is_guest:
        keys.append(guests.GUEST_ACCESS)
        extras += guest_keys(room_id, sender)
    if redemption is not None:
        keys += [("m.room.member", redemption.inviter), ("m.room.third_party_invite", redemption.token)]

    def read(more: Sequence[StateKey] = (), others: Sequence[Key] = ()) -> tuple[RoomView | None, dict[Key, Any]]:
        return load_room(room_id, [*keys, *more], local_users=[target] if is_local else [], extras=[*extras, *others])

    for _ in attempts("The room"):
        view, found = read()
        if claim is not None:
            claim.check(found)
        if target == sender and redemption is None and is_elsewhere(view, target, wanted):
            if in_job:
                raise NotResident
            full = {**(member_profile(found.get(profile_key)) if with_profile else {}), **content}
            if only is not None:
                raise Forbidden(NOT_IN_ROOM)
            return change_elsewhere(requester, room_id, view, full, elsewhere, unless=unless, exactly=exactly)
        if view is None or view.head.kind != "full":
            unknown = wanted in {"join", "knock"} and not exactly
            raise NotFound("This server knows no such room.") if unknown else Forbidden(NOT_IN_ROOM)
        before = view.membership(target)
        if target == sender and before in unless and before in {"join", "leave"}:
            if view.event("m.room.member", target) is None:
                raise Forbidden(NOT_IN_ROOM)
            return None
        if only is not None and before not in only:
            raise Forbidden(_why_not(view, sender, before))
        if exactly and (same := unchanged_state(view, draft, sender)) is not None:
            return same
        authoriser, holds = {}, []
        if joins and redemption is None and target == sender and needs_grant(view, sender):
            try:
                grant = find_grant(view, sender, read)
            except MatrixError as refusal:
                if in_job or refusal.errcode != "M_UNABLE_TO_GRANT_JOIN" or not int(view.head.remote_servers):
                    raise
                full = {**(member_profile(found.get(profile_key)) if with_profile else {}), **content}
                return let_in_elsewhere(requester, view, full, elsewhere)
            if grant is None:
                continue  # the room changed between the two reads
            view, found, authoriser = grant.view, dict(grant.found), {_AUTHORISER: grant.authoriser}
            holds.append(grant.hold)
        full = {**(member_profile(found.get(profile_key)) if with_profile else {}), **content, **authoriser}
        room = RoomDraft(view, view.rules, counters={target: found.get(counters_key)})
        room.extras += holds
        if joins and requester.is_guest and before != "join":
            guests.check_admits_guests(view)
            room.extras.append(partial(guests.hold_open, view=view))
            room.extras.append(partial(add_guest, room_id=room_id, user_id=sender, found=found))
        if redemption is not None:
            _redeem(room, redemption, target)
        event = room.add(EventDraft("m.room.member", full, state_key=target), sender)
        if before in unless:
            if before == "leave" and view.event("m.room.member", target) is None:
                raise Forbidden(_why_not(view, sender, before))
            return None  # only those who may do it learn that there is nothing to do
        if invites and is_local:
            check_wants_invites(found.get(permission_key(target)))
        if invites and not is_local:
            check_can_be_invited(view, target)
            return invite_elsewhere(view, event)
        if claim is not None:
            room.extras.append(claim.write)
        try:
            room.commit()
        except Raced:
            continue
        return event
    raise AssertionError("attempts() never ends by itself")


def _redeem(room: RoomDraft, redemption: Redemption, target: str) -> None:
    """Add the invitation that a third-party invite becomes, unless the user needs none (any more)."""
    pending = room.view.event("m.room.third_party_invite", redemption.token) if room.view else None
    if pending is None or pending.event_id != redemption.pending:
        raise Forbidden("This invitation was withdrawn.")
    if room.auth_state().membership(target) != "invite":
        room.add(EventDraft("m.room.member", redemption.content, state_key=target), redemption.inviter)


def _why_not(view: RoomView, sender: str, membership: str) -> str:
    if view.membership(sender) != "join":
        return NOT_IN_ROOM
    return "This user is banned from the room." if membership == "ban" else "This user is not in the room."
