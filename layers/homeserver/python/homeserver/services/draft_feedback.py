"""Feedback as the 2014 draft compresses it: with each message who has got and who has read it.

A receipt says how far somebody is, so the latest of each user covers the messages before it. Receipts that others keep
private stay so, and nobody gives feedback to themselves.

Source: the draft, "m.room.message.feedback", the compressed format; client-server API v1.19, "Receipts".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.storage.connection import batch_get
from homeserver.storage.ephemeral import (
    DELIVERED,
    PRIVATE,
    Receipt,
    ReceiptKey,
    ephemeral_key,
    parse,
    row_of,
    rows_of,
)

MESSAGE = "m.room.message"
MOST_ENTRIES = 50  # of one message
_LETTERS = {"m.read": "r", PRIVATE: "r", DELIVERED: "d"}


@dataclass(frozen=True, slots=True)
class Feedback:
    """The latest receipts of a room that one user may know, each with its letter; lowest positions first."""

    receipts: Sequence[tuple[str, Receipt]] = ()

    @classmethod
    def of(cls, receipts: Iterable[Receipt], reader: str) -> "Feedback":
        """The receipts of all a room's users as `reader` may know them; those for threads say nothing of the room."""
        latest: dict[tuple[str, str], Receipt] = {}
        for receipt in receipts:
            letter = _LETTERS.get(receipt.kind)
            if letter is None or receipt.thread not in {"", "main"}:
                continue
            if receipt.kind == PRIVATE and receipt.user_id != reader:
                continue
            key = (receipt.user_id, letter)
            if key not in latest or latest[key].position < receipt.position:
                latest[key] = receipt
        pairs = [(letter, receipt) for (_, letter), receipt in latest.items()]
        return cls(sorted(pairs, key=lambda pair: (pair[1].position, pair[1].ts, pair[1].user_id)))

    def at(self, position: float, sender: str) -> list[dict[str, Any]]:
        """What is told of a message at a position, the earliest receipts first, up to 50."""
        told = [
            {"from": receipt.user_id, "feedback": letter, "content": {}, "hs_ts": receipt.ts}
            for letter, receipt in self.receipts
            if receipt.position >= position and receipt.user_id != sender
        ]
        return told[:MOST_ENTRIES]


def read_feedback(room_id: str, reader: str) -> Feedback:
    """The feedback of a room: one round, and one more where receipts have left the room's item.

    Of a large room only the item is read, and the reader's own row.
    """
    key = ephemeral_key(room_id)
    state = parse(room_id, batch_get([key], consistent=True).get(key))
    latest: dict[ReceiptKey, Receipt] = {}
    if state.low:
        rows = row_of(room_id, reader).values() if state.large else rows_of(room_id)
        latest = {receipt.key: receipt for receipt in rows}
    latest |= {receipt.key: receipt for receipt in state.receipts}  # what the item has is never older
    return Feedback.of(latest.values(), reader)


def with_feedback(event: Mapping[str, Any], position: float, feedback: Feedback | None) -> dict[str, Any]:
    """An event with its feedback, if it is a message; as it is where no feedback was asked for."""
    if feedback is None or event["type"] != MESSAGE:
        return dict(event)
    return {**event, "feedback": feedback.at(position, event["sender"])}
