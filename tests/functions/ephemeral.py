"""What function tests of receipts and typing do again and again: requests, and what readers are told of a room."""

from threading import Lock
from typing import Any

import pytest

from functions.harness import Answer, User
from functions.rooms import path, request
from homeserver.services.ephemeral import EphemeralNews, read_ephemeral
from homeserver.storage.connection import StoreConnection
from homeserver.storage.ephemeral import EPHEMERAL, EphemeralItem, RoomEphemeral, parse
from homeserver.storage.inbox import read_inbox
from homeserver.storage.room_items import LocalMember

FUNCTION = "client_ephemeral"
Told = dict[tuple[str, str, str], str]  # (user ID, kind, thread) -> event ID


def one_call_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads take turns at the store: unlike DynamoDB, moto shows an item while another thread writes it."""
    lock, call = Lock(), StoreConnection._make_api_call

    def locked(self: StoreConnection, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        with lock:
            return call(self, operation, request)

    monkeypatch.setattr(StoreConnection, "_make_api_call", locked)


def mark_read(
    user: User, room_id: str, event_id: str, kind: str = "m.read", *, thread: Any = None, body: Any = None
) -> Answer:
    """POST /rooms/{roomId}/receipt/..., with `thread_id` if one is given."""
    content = body if body is not None else {} if thread is None else {"thread_id": thread}
    where = path("rooms", room_id, "receipt", kind, event_id)
    return request(FUNCTION, "POST", where, content, token=user.token)


def mark(user: User, room_id: str, **markers: Any) -> Answer:
    """POST /rooms/{roomId}/read_markers; `fully_read`, `read`, `private`."""
    names = {"fully_read": "m.fully_read", "read": "m.read", "private": "m.read.private"}
    body = {names[kind]: event_id for kind, event_id in markers.items()}
    return request(FUNCTION, "POST", path("rooms", room_id, "read_markers"), body, token=user.token)


def type_in(user: User, room_id: str, typing: Any = True, *, of: User | None = None, **body: Any) -> Answer:
    """PUT /rooms/{roomId}/typing/{userId}."""
    where = path("rooms", room_id, "typing", (of or user).user_id)
    return request(FUNCTION, "PUT", where, {"typing": typing, **body}, token=user.token)


def news(user: User, room_id: str, told: int = 0, typing_until: int = 0) -> EphemeralNews:
    """What a reader who was told up to a number is told now."""
    until = {room_id: typing_until} if typing_until else {}
    return read_ephemeral(user.user_id, {room_id: (told, 0)}, typing_until=until)[room_id]


def receipts_in(found: EphemeralNews) -> Told:
    """The receipts among news, each of which must be there once."""
    receipts: Told = {}
    for event in found.events:
        if event["type"] != "m.receipt":
            continue
        for event_id, kinds in event["content"].items():
            for kind, users in kinds.items():
                for user_id, receipt in users.items():
                    key = (user_id, kind, receipt.get("thread_id", ""))
                    assert key not in receipts
                    receipts[key] = event_id
    return receipts


def typing_in(found: EphemeralNews) -> list[str] | None:
    """The typing users among news; None if nothing is said of them."""
    lists = [event["content"]["user_ids"] for event in found.events if event["type"] == "m.typing"]
    assert len(lists) <= 1
    return lists[0] if lists else None


def item_of(room_id: str) -> RoomEphemeral:
    return parse(room_id, EphemeralItem.fetch(room_id, EPHEMERAL))


def announced(user: User, room_id: str) -> int:
    """The ephemeral number in the user's inbox."""
    row = LocalMember.fetch(room_id, f"local/{user.user_id}")
    assert row is not None
    assert row.slot is not None
    inbox = read_inbox(user.user_id, consistent=True)
    return inbox.slots[int(row.slot)].ephemeral if int(row.slot) in inbox.slots else 0


def say_in_thread(user: User, room_id: str, root: str, txn: str, rel_type: str = "m.thread") -> str:
    """A message with a relation to an event; its event ID."""
    content = {"msgtype": "m.text", "body": txn, "m.relates_to": {"rel_type": rel_type, "event_id": root}}
    where = path("rooms", room_id, "send", "m.room.message", txn)
    answer = request("client_events", "PUT", where, content, token=user.token)
    assert answer.status == 200, answer
    event_id: str = answer.json["event_id"]
    return event_id
