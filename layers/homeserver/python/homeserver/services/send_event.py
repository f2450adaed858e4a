"""Sending events: messages, state, redactions.

Source: client-server API v1.19, "Sending events to a room", "Redactions"; server-server API, "Redactions".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import auth_event_keys, may_redact
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.identifiers import domain_of, is_room_alias, is_user_id
from homeserver.matrix.redaction import redact_event
from homeserver.matrix.room_versions import V11
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.room_draft import Raced, RoomDraft, now_ms
from homeserver.settings import settings
from homeserver.storage.connection import Key, batch_get, in_parallel
from homeserver.storage.inbox import Counters
from homeserver.storage.inbox_shards import COUNTERS
from homeserver.storage.room_items import Alias, ClientTransaction, EventRecord, TimelineEntry, bucket_of
from homeserver.storage.rooms import RoomView, StateKey, load_room

NOT_IN_ROOM = "You are not in this room."


@dataclass(frozen=True, slots=True)
class Transaction:
    """A client's transaction ID, scoped to its device and to one room's endpoint."""

    device: str
    txn: str
    shown: str  # "<device>\n<transaction ID>": told back to that device as `unsigned.transaction_id`

    @classmethod
    def of(cls, requester: Requester, kind: str, room_id: str, txn_id: str) -> "Transaction":
        """Raises InvalidParam for an ID that is too long to be kept."""
        if len(txn_id.encode()) > 255:
            raise InvalidParam("The transaction ID is longer than 255 bytes.")
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


def send_message_event(requester: Requester, room_id: str, draft: EventDraft, txn_id: str) -> str:
    """Commit one message event of a local user; returns its ID. Repeating a transaction ID returns the first event's.

    Raises Forbidden when the auth rules refuse it or the room is unknown, TooLarge above 65,536 bytes of canonical
    JSON, LimitExceeded when the user sends too fast or the room is too busy.
    """
    if draft.type == "m.room.redaction":
        target = draft.redacts or draft.content.get("redacts")
        if not isinstance(target, str):
            raise BadJson("A redaction must name the event that it redacts.")
        content = {key: value for key, value in draft.content.items() if key != "redacts"}
        return redact(requester, room_id, target, content, txn_id)
    transaction = Transaction.of(requester, "send", room_id, txn_id)
    return _commit_one(requester, room_id, draft, transaction).event_id


def send_state_event(requester: Requester, room_id: str, draft: EventDraft) -> str:
    """Commit one state event of a local user; returns its ID.

    Setting what is set already by the same user makes no event: the one there is is returned.
    """
    if draft.type == "m.room.canonical_alias":
        _check_aliases(room_id, draft.content)
    return _commit_one(requester, room_id, draft, None).event_id


def _commit_one(requester: Requester, room_id: str, draft: EventDraft, transaction: Transaction | None) -> Event:
    sender = requester.user_id
    keys = keys_for(draft, sender)
    local_users, counters = _members_of(draft)
    extras: list[Key] = [(Counters, user, COUNTERS) for user in counters]
    if transaction is not None:
        extras.append(transaction.key)
    for attempt in attempts("The room"):
        (view, found), _ = in_parallel(
            lambda: load_room(room_id, keys, local_users=local_users, extras=extras),
            # The bucket is emptied once a request, however often the commit is tried.
            (lambda: None) if attempt else (lambda: rate_limits.take_send(sender)),
        )
        if transaction is not None and (earlier := found.get(transaction.key)) is not None:
            return Event(earlier.event_id, room_id, {}, V11)
        if view is None:
            raise Forbidden(NOT_IN_ROOM)
        if draft.state_key is not None and (same := _unchanged(view, draft, sender)) is not None:
            return same
        room = RoomDraft(view, view.rules, counters={u: found.get((Counters, u, COUNTERS)) for u in counters})
        event = room.add(draft, sender, client_transaction=transaction.shown if transaction else None)
        if transaction is not None:
            room.client_transaction = transaction.record(event.event_id)
        try:
            room.commit()
        except Raced:
            continue
        return event
    raise AssertionError("attempts() never ends by itself")


def _members_of(draft: EventDraft) -> tuple[list[str], list[str]]:
    """For a membership event: the local users whose rows change, and those who may need an inbox slot."""
    if draft.type != "m.room.member" or draft.state_key is None:
        return [], []
    target = draft.state_key
    if not is_user_id(target) or domain_of(target) != settings().server_name:
        return [], []
    return [target], [target] if draft.content.get("membership") == "join" else []


def _unchanged(view: RoomView, draft: EventDraft, sender: str) -> Event | None:
    current = view.event(draft.type, draft.state_key or "")
    if current is None or current.sender != sender or current.content != draft.content:
        return None
    return current if view.membership(sender) == "join" else None


def _check_aliases(room_id: str, content: Mapping[str, Any]) -> None:
    """A canonical alias must exist and be this room's. Source: "m.room.canonical_alias", `M_BAD_ALIAS`."""
    others = content.get("alt_aliases")
    aliases: list[Any] = [content.get("alias"), *(others if isinstance(others, list) else [])]
    wanted = [alias for alias in aliases if alias is not None and alias != ""]
    if not all(isinstance(alias, str) and is_room_alias(alias) for alias in wanted):
        raise InvalidParam("An alias of the room is not a room alias.")
    local = [alias for alias in wanted if domain_of(alias) == settings().server_name]
    found = batch_get([(Alias, alias, None) for alias in local], consistent=True) if local else {}
    for alias in local:
        entry = found.get((Alias, alias, None))
        if entry is None or entry.room != room_id:
            raise MatrixError(f"{alias} does not point to this room.", errcode="M_BAD_ALIAS")


def redact(requester: Requester, room_id: str, target_id: str, content: Mapping[str, Any], txn_id: str) -> str:
    """Redact an event; returns the ID of the redaction. Every copy is pruned in the same commit.

    Raises NotFound for an event that is not in the room, Forbidden for someone else's event without the redact level.
    """
    sender = requester.user_id
    transaction = Transaction.of(requester, "redact", room_id, txn_id)
    draft = EventDraft("m.room.redaction", dict(content), redacts=target_id)
    record_key: Key = (EventRecord, target_id, None)
    for attempt in attempts("The room"):
        (view, found), _ = in_parallel(
            lambda: load_room(room_id, keys_for(draft, sender), extras=[transaction.key, record_key]),
            (lambda: None) if attempt else (lambda: rate_limits.take_send(sender)),
        )
        if (earlier := found.get(transaction.key)) is not None:
            return str(earlier.event_id)
        if view is None or view.membership(sender) != "join":
            raise Forbidden(NOT_IN_ROOM)
        record: EventRecord | None = found.get(record_key)
        if record is None or record.room != room_id or record.position is None or record.flags:
            raise NotFound("This event is not in this room.")
        position = int(record.position)
        line_key: Key = (TimelineEntry, bucket_of(room_id, position), position)
        line: TimelineEntry = batch_get([line_key], consistent=True)[line_key]
        target = Event(target_id, room_id, unpack(line.packed), view.rules)
        if target.is_state:
            # Whether the event is in the current state decides if its row has to be pruned too.
            view, found = load_room(room_id, [*keys_for(draft, sender), target.key], extras=[transaction.key])
            if view is None:
                raise Forbidden(NOT_IN_ROOM)
        room = RoomDraft(view, view.rules)
        redaction = room.add(draft, sender, client_transaction=transaction.shown)
        if not may_redact(redaction, target, room.auth_state()):
            raise Forbidden("You may not redact this event.")
        if line.redacted_because is None:
            room.redact(target, position, redaction, redact_event(target))
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
