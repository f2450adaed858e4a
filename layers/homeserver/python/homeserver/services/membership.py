"""Membership: join, invite, leave, kick, ban, unban, forget, and the profile that a membership carries.

Source: client-server API v1.19, "Room membership".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.observability import log
from homeserver.services.access_tokens import Requester
from homeserver.services.aliases import room_of_alias
from homeserver.services.attempts import attempts
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.send_event import NOT_IN_ROOM, check_can_invite, check_room_id, keys_for
from homeserver.settings import settings
from homeserver.storage.connection import Key, Transaction, TransactionCancelled, query_range
from homeserver.storage.inbox import Counters
from homeserver.storage.inbox_shards import COUNTERS
from homeserver.storage.profiles import Profile, profile_fields
from homeserver.storage.room_items import LocalMember, Membership
from homeserver.storage.rooms import RoomView, load_room

# What a membership event carries of a profile.
_PROFILE_FIELDS = ("displayname", "avatar_url")


def member_profile(profile: Profile | None) -> dict[str, Any]:
    """The keys that a profile puts into a membership event."""
    fields = profile_fields(profile)
    return {name: fields[name] for name in _PROFILE_FIELDS if fields.get(name) is not None}


def join_room(requester: Requester, room_id_or_alias: str, *, reason: str | None = None) -> str:
    """Join a room by ID or alias; returns the room ID. Joining a room one is in changes nothing.

    Raises NotFound for a room that this server does not know, Forbidden where the rules refuse the join.
    """
    is_alias = room_id_or_alias.startswith("#")
    room_id = room_of_alias(room_id_or_alias) if is_alias else room_id_or_alias
    user_id = requester.user_id
    content: dict[str, Any] = {"membership": "join"}
    if reason is not None:
        content["reason"] = reason
    _change(user_id, user_id, room_id, content, unless=("join",), with_profile=True)
    return room_id


def invite(requester: Requester, room_id: str, user_id: str, *, reason: str | None, is_direct: bool = False) -> None:
    """Invite a user; inviting them again changes nothing.

    Raises Forbidden where the rules refuse it, also for someone who is in the room already.
    """
    check_can_invite(user_id)
    content: dict[str, Any] = {"membership": "invite"}
    if is_direct:
        content["is_direct"] = True
    if reason is not None:
        content["reason"] = reason
    _change(requester.user_id, user_id, room_id, content, unless=("invite",), with_profile=True)


def leave_room(requester: Requester, room_id: str, *, reason: str | None = None) -> None:
    """Leave a room or decline an invitation. Leaving a room one has left changes nothing."""
    content: dict[str, Any] = {"membership": "leave"}
    if reason is not None:
        content["reason"] = reason
    _change(requester.user_id, requester.user_id, room_id, content, unless=("leave",))


def kick(requester: Requester, room_id: str, user_id: str, *, reason: str | None) -> None:
    """Remove a user from a room, or withdraw their invitation. Raises Forbidden for someone who is not there."""
    _remove(requester, room_id, user_id, reason, only=("join", "invite", "knock"))


def unban(requester: Requester, room_id: str, user_id: str, *, reason: str | None) -> None:
    """Lift a ban. Raises Forbidden for someone who is not banned."""
    _remove(requester, room_id, user_id, reason, only=("ban",))


def _remove(requester: Requester, room_id: str, user_id: str, reason: str | None, *, only: Sequence[str]) -> None:
    content: dict[str, Any] = {"membership": "leave"}
    if reason is not None:
        content["reason"] = reason
    _change(requester.user_id, user_id, room_id, content, only=only)


def ban(requester: Requester, room_id: str, user_id: str, *, reason: str | None) -> None:
    """Ban a user, whether they are in the room or not. Banning a banned user changes nothing."""
    content: dict[str, Any] = {"membership": "ban"}
    if reason is not None:
        content["reason"] = reason
    _change(requester.user_id, user_id, room_id, content, unless=("ban",))


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
    """Let a deactivated user leave every room and decline every invitation; one that fails does not stop the rest."""
    requester = Requester(user_id, "", "")
    for row in query_range(Membership, user_id, consistent=True):
        if row.membership in {"join", "invite", "knock"}:
            try:
                leave_room(requester, row.room)
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
        content.pop("join_authorised_via_users_server", None)
        if content == current.content:
            return
        room = RoomDraft(view, view.rules)
        room.add(EventDraft("m.room.member", content, state_key=user_id), user_id)
        try:
            room.commit()
        except Raced:
            continue
        return


def _change(
    sender: str,
    target: str,
    room_id: str,
    content: dict[str, Any],
    *,
    unless: Sequence[str] = (),
    only: Sequence[str] | None = None,
    with_profile: bool = False,
) -> Event | None:
    """Commit a membership event; None if the target's membership is one of `unless` already."""
    check_room_id(room_id)
    if not is_user_id(target):
        raise InvalidParam("user_id is not a Matrix user ID.")
    draft = EventDraft("m.room.member", content, state_key=target)
    is_local = domain_of(target) == settings().server_name
    joins = content["membership"] == "join"
    counters_key: Key = (Counters, target, COUNTERS)
    profile_key: Key = (Profile, target, None)
    extras = ([counters_key] if joins else []) + ([profile_key] if with_profile and is_local else [])
    for _ in attempts("The room"):
        view, found = load_room(
            room_id, keys_for(draft, sender), local_users=[target] if is_local else [], extras=extras
        )
        if view is None:
            raise NotFound("This server knows no such room.") if joins else Forbidden(NOT_IN_ROOM)
        before = view.membership(target)
        if before in unless and before in {"join", "leave"}:  # what users do to themselves
            if view.event("m.room.member", target) is None:
                raise Forbidden(NOT_IN_ROOM)
            return None
        if only is not None and before not in only:
            raise Forbidden(_why_not(view, sender, before))
        full = {**(member_profile(found.get(profile_key)) if with_profile else {}), **content}
        room = RoomDraft(view, view.rules, counters={target: found.get(counters_key)})
        event = room.add(EventDraft("m.room.member", full, state_key=target), sender)
        if before in unless:
            return None  # only those who may do it learn that there is nothing to do
        try:
            room.commit()
        except Raced:
            continue
        return event
    raise AssertionError("attempts() never ends by itself")


def _why_not(view: RoomView, sender: str, membership: str) -> str:
    if view.membership(sender) != "join":
        return NOT_IN_ROOM
    return "This user is banned from the room." if membership == "ban" else "This user is not in the room."
