"""Sending events: messages, state, redactions.

Source: client-server API v1.19, "Sending events to a room", "Redactions"; server-server API, "Redactions".
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, NotFound, TooLarge
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import auth_event_keys
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.identifiers import (
    MAX_IDENTIFIER_BYTES,
    domain_of,
    fits_identifier,
    is_event_id,
    is_room_alias,
    is_room_id,
    is_user_id,
)
from homeserver.matrix.room_versions import V11
from homeserver.matrix.timeline_place import place_number
from homeserver.services import rate_limits, relationships
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.redactions import check_redaction, pruned_event, prunings_elsewhere, read_target
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.settings import settings
from homeserver.storage.connection import Key, in_parallel
from homeserver.storage.inbox import Counters
from homeserver.storage.inbox_shards import COUNTERS
from homeserver.storage.room_items import Alias, ClientTransaction, EventRecord
from homeserver.storage.rooms import RoomView, StateKey, load_room

NOT_IN_ROOM = "You are not in this room."
_ALIASES = ("m.room.canonical_alias", "")


def check_room_id(room_id: str) -> None:
    """Raises InvalidParam for what can be no room ID: no room is looked up under it."""
    if not is_room_id(room_id):
        raise InvalidParam("This is not a room ID.")


def check_can_invite(user_id: str) -> None:
    """Raises InvalidParam for no user ID, and Forbidden for a user of another server where this one talks to none.

    A local user need not exist (yet): as elsewhere in Matrix the invitation waits for whoever registers the name.
    """
    if not is_user_id(user_id):
        raise InvalidParam("user_id is not a Matrix user ID.")
    if domain_of(user_id) != settings().server_name and not settings().federation:
        raise Forbidden("This server cannot invite users of other servers.")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A client's transaction ID, scoped to its device and to one room's endpoint."""

    device: str
    txn: str
    shown: str  # "<device>\n<transaction ID>": told back to that device as `unsigned.transaction_id`

    @classmethod
    def of(cls, requester: Requester, kind: str, room_id: str, txn_id: str) -> "Transaction":
        """Raises InvalidParam for an ID that is empty, or too long to be kept."""
        if not txn_id or not fits_identifier(txn_id):
            raise InvalidParam("A transaction ID has 1 to 255 bytes.")
        return cls(
            f"{requester.user_id}/{requester.device_id}",
            f"{kind}/{room_id}/{txn_id}",
            f"{requester.device_id}\n{txn_id}",
        )

    @property
    def key(self) -> Key:
        return (ClientTransaction, self.device, self.txn)

    def record(self, event_id: str) -> ClientTransaction:
        """The item that remembers the event of this transaction."""
        expires = now_ms() // 1000 + ClientTransaction.LIFETIME_S
        return ClientTransaction(self.device, self.txn, event_id=event_id, expires=expires)


def keys_for(draft: EventDraft, sender: str) -> list[StateKey]:
    """The state that must be read to authorise an event, whatever the room version, and to replace what it replaces."""
    keys = [
        ("m.room.create", ""),
        *auth_event_keys(draft.type, sender, draft.state_key, draft.content, V11),
    ]
    if draft.state_key is not None:
        keys.append((draft.type, draft.state_key))
    return list(dict.fromkeys(keys))


def send_message_event(
    requester: Requester, room_id: str, draft: EventDraft, txn_id: str | None, *, kind: str = "send"
) -> str:
    """Commit one message event of a local user; returns its ID. Repeating a transaction ID returns the first event's.

    `kind` is the endpoint that the transaction ID belongs to; without an ID each call makes an event.
    Raises Forbidden when the auth rules refuse it or the room is unknown, TooLarge above 65,536 bytes of canonical
    JSON, LimitExceeded when the user sends too fast or the room is too busy.
    """
    if draft.type == "m.room.redaction":
        target = draft.redacts or draft.content.get("redacts")
        if not isinstance(target, str):
            raise BadJson("A redaction must name the event that it redacts.")
        return redact(requester, room_id, target, draft.content, txn_id, kind=kind)
    transaction = Transaction.of(requester, kind, room_id, txn_id) if txn_id is not None else None
    return _commit_one(requester, room_id, draft, transaction).event_id


def send_state_event(requester: Requester, room_id: str, draft: EventDraft) -> str:
    """Commit one state event of a local user; returns its ID.

    Setting what is set already by the same user makes no event: the one there is is returned. Raises as
    `send_message_event` does, and MatrixError with M_BAD_ALIAS for a canonical alias that is not the room's.
    """
    if draft.type == "m.room.redaction":
        raise InvalidParam("A redaction is no state event.")
    if draft.type == "m.room.member" and draft.content.get("membership") == "invite":
        check_can_invite(draft.state_key or "")
    return _commit_one(requester, room_id, draft, None).event_id


def _commit_one(requester: Requester, room_id: str, draft: EventDraft, transaction: Transaction | None) -> Event:
    check_room_id(room_id)
    _check_draft(draft)
    sender = requester.user_id
    keys = keys_for(draft, sender)
    local_users, counters = _members_of(draft)
    extras: list[Key] = [(Counters, user, COUNTERS) for user in counters]
    extras += [(Alias, alias, None) for alias in _resolvable(_aliases_in(draft))]
    if transaction is not None:
        extras.append(transaction.key)
    for attempt in attempts("The room"):
        # In a further try there are more of them, if the parent is known by then.
        wanted = [*extras, *relationships.keys_to_read(room_id, draft, sender)]
        (view, found), _ = in_parallel(
            partial(load_room, room_id, keys, local_users=local_users, extras=wanted),
            # The bucket is emptied once a request, however often the commit is tried.
            (lambda: None) if attempt else (lambda: rate_limits.take_send(sender)),
        )
        if transaction is not None and (earlier := found.get(transaction.key)) is not None:
            return Event(earlier.event_id, room_id, {}, V11)
        if view is None:
            raise Forbidden(NOT_IN_ROOM)
        if draft.state_key is not None and (same := unchanged_state(view, draft, sender)) is not None:
            return same
        _check_aliases(draft, view, found)
        room = RoomDraft(view, view.rules, counters={u: found.get((Counters, u, COUNTERS)) for u in counters})
        event = room.add(draft, sender, client_transaction=transaction.shown if transaction else None)
        relationships.relate(room, event, found)
        if transaction is not None:
            room.client_transaction = transaction.record(event.event_id)
        try:
            room.commit()
        except Raced:
            continue
        relationships.remember(room)
        return event
    raise AssertionError("attempts() never ends by itself")


def _check_draft(draft: EventDraft) -> None:
    """What must be known before anything is looked up under the event's type and state key."""
    if not fits_identifier(draft.type) or not fits_identifier(draft.state_key or ""):
        raise TooLarge(f"The type or the state key has more than {MAX_IDENTIFIER_BYTES} bytes.")
    if draft.type == "m.room.create":
        raise Forbidden("A room is created once.")


def _members_of(draft: EventDraft) -> tuple[list[str], list[str]]:
    """For a membership event: the local users whose rows change, and those who may need an inbox slot."""
    if draft.type != "m.room.member" or draft.state_key is None:
        return [], []
    target = draft.state_key
    if not is_user_id(target) or domain_of(target) != settings().server_name:
        return [], []
    return [target], [target] if draft.content.get("membership") == "join" else []


def unchanged_state(view: RoomView, draft: EventDraft, sender: str) -> Event | None:
    """The current event, where a member only sets again what they set themselves: it makes no other one."""
    current = view.event(draft.type, draft.state_key or "")
    if current is None or current.sender != sender or current.content != draft.content:
        return None
    # To Python, true is 1 and 1.0 is 1; to JSON they are three values.
    if json.dumps(current.content, sort_keys=True) != json.dumps(draft.content, sort_keys=True):
        return None
    return current if view.membership(sender) == "join" else None


def _aliases_in(draft: EventDraft) -> list[str]:
    """The aliases that a canonical alias event lists. Raises InvalidParam where they are no strings."""
    if (draft.type, draft.state_key) != _ALIASES:
        return []
    alias, others = draft.content.get("alias"), draft.content.get("alt_aliases")
    if not isinstance(others, list | None):
        raise InvalidParam("alt_aliases is not an array.")
    listed = [*([] if alias is None or alias == "" else [alias]), *(others or [])]
    if not all(isinstance(entry, str) for entry in listed):
        raise InvalidParam("An alias of the room is not a room alias.")
    return listed


def _resolvable(aliases: Iterable[str]) -> list[str]:
    return [alias for alias in aliases if is_room_alias(alias) and domain_of(alias) == settings().server_name]


def _check_aliases(draft: EventDraft, view: RoomView, found: Mapping[Key, Any]) -> None:
    """New canonical aliases must exist and be this room's. Source: "Send a state event", `M_BAD_ALIAS`."""
    listed = _aliases_in(draft)
    current = view.event(*_ALIASES) if listed else None
    before = [current.content.get("alias"), *_list(current.content.get("alt_aliases"))] if current else []
    for alias in listed:
        # "Servers do not validate aliases which are being removed or are already present in the state event."
        if alias in before:
            continue
        if not is_room_alias(alias):
            raise InvalidParam("An alias of the room is not a room alias.")
        entry = found.get((Alias, alias, None))
        if entry is None or entry.room != view.room_id:
            raise MatrixError(f"{alias} does not point to this room.", errcode="M_BAD_ALIAS")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def redact(
    requester: Requester,
    room_id: str,
    target_id: str,
    content: Mapping[str, Any],
    txn_id: str | None,
    *,
    kind: str = "redact",
) -> str:
    """Redact an event; returns the ID of the redaction. Every copy is pruned in the same commit.

    `kind` and `txn_id` as in `send_message_event`. Raises NotFound for an event that is not in the room,
    Forbidden for someone else's event without the redact level, and for what keeps the room together.
    """
    check_room_id(room_id)
    if not is_event_id(target_id):
        raise NotFound("This event is not in this room.")
    sender = requester.user_id
    transaction = Transaction.of(requester, kind, room_id, txn_id) if txn_id is not None else None
    kept = {key: value for key, value in content.items() if key != "redacts"}
    draft = EventDraft("m.room.redaction", kept, redacts=target_id)
    record_key: Key = (EventRecord, target_id, None)
    extras: list[Key] = [record_key] if transaction is None else [transaction.key, record_key]
    for attempt in attempts("The room"):
        (view, found), _ = in_parallel(
            lambda: load_room(room_id, keys_for(draft, sender), extras=extras),
            (lambda: None) if attempt else (lambda: rate_limits.take_send(sender)),
        )
        if transaction is not None and (earlier := found.get(transaction.key)) is not None:
            return str(earlier.event_id)
        if view is None or view.membership(sender) != "join":
            raise Forbidden(NOT_IN_ROOM)
        record: EventRecord | None = found.get(record_key)
        if record is None or record.room != room_id or record.position is None or record.flags:
            raise NotFound("This event is not in this room.")
        target = read_target(view, record)
        room = RoomDraft(view, view.rules)
        redaction = room.add(draft, sender, client_transaction=transaction.shown if transaction else None)
        check_redaction(redaction, target.event, room.auth_state())
        if not target.is_redacted:
            room.extras += prunings_elsewhere(room, view, target)
            relationships.unrelate(room, target.event, place_number(target.position, target.offset))
            pruned = pruned_event(target.event, redaction)
            room.redact(target.event, target.position, redaction, pruned, offset=target.offset)
        if transaction is not None:
            room.client_transaction = transaction.record(redaction.event_id)
        try:
            room.commit()
        except Raced:
            continue
        return redaction.event_id
    raise AssertionError("attempts() never ends by itself")


def local_users_of(user_ids: Iterable[str]) -> list[str]:
    """Those of the users who are on this server."""
    return [user_id for user_id in user_ids if domain_of(user_id) == settings().server_name]
