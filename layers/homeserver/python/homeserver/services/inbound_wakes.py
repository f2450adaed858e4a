"""Waking the worker of what other servers send: one room at a time, one worker a room.

The messages of a room have one group of the FIFO queue, so that nobody else works on the room at the same time. A
message only says where to look; what there is to do lies in the table STAGING.
"""

import hashlib
import secrets
from collections.abc import Iterable

from homeserver.adapters.queues import FifoMessage, send_fifo

INBOUND_QUEUE = "FEDERATION_INBOUND_QUEUE"


def inbound_group(room_id: str) -> str:
    """The message group of a room: 32 hex digits, as room IDs may be longer than a group's name may be."""
    return hashlib.sha256(room_id.encode()).hexdigest()[:32]


def wake_room(room_id: str) -> None:
    """Let the worker look at what is staged for a room: to be called after it was written.

    Every wake counts, however soon it follows the last one: that one may have been worked off already.
    """
    _wake(room_id, {"room": room_id})


def wake_job(room_id: str, key: str) -> None:
    """Let the worker run a job of a room: `key` is its item's key in STAGING (`job/<user>/<kind>`)."""
    _wake(room_id, {"room": room_id, "job": key})


def _wake(room_id: str, body: dict[str, str]) -> None:
    send_fifo(INBOUND_QUEUE, [FifoMessage(body, inbound_group(room_id), secrets.token_hex(16))])


def wake_rooms(room_ids: Iterable[str]) -> None:
    """The same as `wake_room` for several rooms: one request for each ten."""
    _send([(room_id, {"room": room_id}) for room_id in room_ids])


def wake_gap(origin: str, txn_id: str) -> None:
    """Let the worker look whether transactions of a server are missing: `txn_id` is the one that says so."""
    _send([(f"gap {origin}", {"origin": origin, "pull": txn_id})])


def _send(wakes: Iterable[tuple[str, dict[str, str]]]) -> None:
    messages = [FifoMessage(body, inbound_group(name), secrets.token_hex(16)) for name, body in wakes]
    if messages:
        send_fifo(INBOUND_QUEUE, messages)
