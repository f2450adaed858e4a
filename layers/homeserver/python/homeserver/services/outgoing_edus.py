"""Typing users and public receipts of this server's users, as EDUs.

The room's ephemeral item has the latest ones; what left it before it was read here goes to nobody, as a later receipt
of the same user will. Nothing of users of other servers goes out: their servers tell of them.

Source: server-server API v1.19, "Typing Notifications", "Receipts".
"""

from collections.abc import Iterable, Mapping
from typing import Any

from homeserver.matrix.identifiers import domain_of
from homeserver.settings import settings
from homeserver.storage.ephemeral import DELIVERED, PRIVATE, Receipt, RoomEphemeral

TYPING_AGAIN_MS = 30_000  # other servers believe that somebody types for a time only: after this they are told again


def public_receipts(state: RoomEphemeral, after: int) -> list[Receipt]:
    """The public receipts of local users that changed after a number."""
    name = settings().server_name
    return [
        receipt
        for receipt in state.receipts
        if receipt.number > after and receipt.kind not in {PRIVATE, DELIVERED} and domain_of(receipt.user_id) == name
    ]


def typing_changes(state: RoomEphemeral, told: Mapping[str, int], now: int) -> dict[str, bool]:
    """Which local users other servers are to be told of: True for who types, False for who stopped.

    `told`: whom they believe to type, and when they were told, in milliseconds.
    """
    name = settings().server_name
    typing = {typer.user_id for typer in state.typing if typer.until > now and domain_of(typer.user_id) == name}
    changes = {user: True for user in sorted(typing) if now - told.get(user, 0) >= TYPING_AGAIN_MS}
    return changes | dict.fromkeys(sorted(told.keys() - typing), False)


def typing_edus(room_id: str, changes: Mapping[str, bool]) -> list[dict[str, Any]]:
    """An m.typing EDU for each user."""
    return [
        {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": user, "typing": typing}}
        for user, typing in changes.items()
    ]


def receipt_edus(receipts: Mapping[str, Iterable[Receipt]]) -> list[dict[str, Any]]:
    """Receipts by room as m.receipt EDUs: one, unless a user has several in one room, for threads."""
    contents: list[dict[str, Any]] = []
    for room_id, of_room in receipts.items():
        for receipt in of_room:
            data: dict[str, Any] = {"ts": receipt.ts}
            if receipt.thread:
                data["thread_id"] = receipt.thread
            told = {"data": data, "event_ids": [receipt.event_id]}
            for content in contents:
                users = content.setdefault(room_id, {}).setdefault("m.read", {})
                if receipt.user_id not in users:
                    users[receipt.user_id] = told
                    break
            else:
                contents.append({room_id: {"m.read": {receipt.user_id: told}}})
    return [{"edu_type": "m.receipt", "content": content} for content in contents]
