"""Messages of the operator to one user, in a room that the server makes for them.

Source: client-server API v1.19, "Server Notices"; for the call the documentation of Synapse's admin API ("Server
Notices"), which existing tools speak. The room belongs to the server's account, which nobody can log in to; its user is
invited, can read and not write, and cannot leave (see notice_rooms).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, MissingParam, NotFound
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.services.access_tokens import Requester
from homeserver.services.account_data import change_account_data
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.create_room import RoomRequest, create_room
from homeserver.services.notice_rooms import notices_user
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.send_event import Transaction as ClientTransaction
from homeserver.services.send_event import keys_for
from homeserver.settings import settings
from homeserver.storage.accounts import create_account, load_account
from homeserver.storage.connection import Key, Transaction, TransactionCancelled
from homeserver.storage.profiles import create_profile
from homeserver.storage.rooms import load_room
from homeserver.storage.server_notices import notice_room_of, set_notice_room

_TAGS, _TAG = "m.tag", "m.server_notice"
_NAME = "Server notices"
# Whoever is invited reads: below the level that messages and invitations take.
_LEVELS = {"users_default": -10}


def send_server_notice(
    requester: Requester, user_id: str, content: Mapping[str, Any], *, txn_id: str | None = None
) -> str:
    """Send a message to a local user as the server; returns the event's ID. A `txn_id` makes it safe to repeat.

    The user's room is made with the first notice, and the user is invited whenever they are not there. Raises
    Forbidden for who is no administrator, M_UNKNOWN where notices are off, NotFound for who has no account here,
    MissingParam, BadJson or TooLarge for a content that cannot be sent.
    """
    account = load_account(requester.user_id)
    if account is None or not account.admin or not account.active:
        raise Forbidden("Only administrators of this server can send notices.")
    sender = notices_user()
    if sender is None:
        raise MatrixError("This server sends no notices: SERVER_NOTICES_LOCALPART is empty.")
    _check_content(content)
    if not is_user_id(user_id):
        raise InvalidParam("user_id is not a Matrix user ID.")
    target = load_account(user_id) if domain_of(user_id) == settings().server_name else None
    if target is None or not target.active or user_id == sender:
        raise NotFound("There is no such user on this server.")
    _make_account(sender)
    room_id = _room_for(user_id, sender)
    # The tag first: who sees the invitation sees what room it is.
    change_account_data(user_id, room_id, _TAGS, _with_tag)
    transaction = None
    if txn_id is not None:
        by_admin = Requester(sender, f"{requester.user_id}/{requester.device_id}", "")
        transaction = ClientTransaction.of(by_admin, "notice", user_id, txn_id)
    return _post(room_id, sender, user_id, content, transaction)


def _check_content(content: Mapping[str, Any]) -> None:
    for name in ("msgtype", "body", *(["server_notice_type"] if content.get("msgtype") == "m.server_notice" else [])):
        if name not in content:
            raise MissingParam(f"content.{name} is required.")
        if not isinstance(content[name], str):
            raise BadJson(f"content.{name} must be a string.")


def _make_account(sender: str) -> None:
    """See to it that the server's account is there and nobody else's."""
    account = load_account(sender)
    if account is None:
        transaction = Transaction()
        create_account(transaction, sender, password_hash=None, admin=False, now=now_ms())
        create_profile(transaction, sender, _NAME)
        try:
            transaction.commit()
        except TransactionCancelled:
            account = load_account(sender)
    if account is not None and (account.password is not None or not account.active):
        raise MatrixError(f"{sender} is somebody's account: set SERVER_NOTICES_LOCALPART to a name that is free.")


def _room_for(user_id: str, sender: str) -> str:
    """The room of a user's notices; it is made if there is none, or none any more that the server can write to."""
    for _ in attempts("The notices"):
        before = notice_room_of(user_id)
        if before is not None:
            member = ("m.room.member", sender)
            view, _found = load_room(before, [member, ("m.room.tombstone", "")])
            if view is not None and view.membership(sender) == "join" and view.event("m.room.tombstone") is None:
                return before
        request = RoomRequest(
            preset="private_chat",
            name=_NAME,
            power_level_override=_LEVELS,
            also=partial(set_notice_room, user_id=user_id, before=before),
        )
        try:
            return create_room(Requester(sender, "", ""), request)
        except MatrixError:
            # Two notices at once: the other one's room is there now, and only one of the two was made.
            if notice_room_of(user_id) == before:
                raise
    raise AssertionError("attempts() never ends by itself")


def _with_tag(content: dict[str, Any]) -> dict[str, Any] | None:
    tags = content.get("tags")
    tags = tags if isinstance(tags, dict) else {}
    return None if _TAG in tags else {**content, "tags": {**tags, _TAG: {}}}


def _post(
    room_id: str, sender: str, user_id: str, content: Mapping[str, Any], transaction: ClientTransaction | None
) -> str:
    """Commit the message, and with it the invitation of a user who is not there."""
    message = EventDraft("m.room.message", content)
    # The server's own invitations need no permission: the user could not refuse them either.
    invitation = EventDraft("m.room.member", {"membership": "invite"}, state_key=user_id)
    keys = [*keys_for(message, sender), *keys_for(invitation, sender)]
    extras: list[Key] = [transaction.key] if transaction is not None else []
    for _ in attempts("The room"):
        view, found = load_room(room_id, keys, local_users=[user_id], extras=extras)
        if transaction is not None and (earlier := found.get(transaction.key)) is not None:
            return str(earlier.event_id)
        if view is None:
            raise LookupError(f"{room_id}, where {user_id} gets notices, is gone")
        room = RoomDraft(view, view.rules)
        if view.membership(user_id) not in {"join", "invite"}:
            room.add(invitation, sender)
        event = room.add(message, sender)
        if transaction is not None:
            room.client_transaction = transaction.record(event.event_id)
        try:
            room.commit()
        except Raced:
            continue
        return event.event_id
    raise AssertionError("attempts() never ends by itself")
