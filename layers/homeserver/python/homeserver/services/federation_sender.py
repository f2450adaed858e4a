"""The sender: a batch of messages becomes transactions to several servers at once.

A message is done with when the server has taken what it points at, or when a row says that it has not. So a server that
does not answer holds up no message, and nothing that was to be sent is forgotten.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from homeserver.adapters.federation_http import FederationError
from homeserver.observability import Meter, counting_on, current_meter, fault_point, log
from homeserver.services.catch_up import catch_up
from homeserver.services.destinations import continue_later, fall_behind, put_off
from homeserver.services.outbound_messages import RoomWork
from homeserver.services.outgoing_edus import public_receipts, receipt_edus, typing_edus
from homeserver.services.outgoing_events import RoomReader
from homeserver.services.outgoing_transactions import Outgoing, ask_software, send, transactions
from homeserver.storage.destinations import Destination, read_destinations

_SERVERS_AT_ONCE = 10  # a batch has no more messages than this


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the queue: its ID, its message group, what it says, and when it was put there (milliseconds)."""

    message_id: str
    group: str
    body: Mapping[str, Any]
    sent_at: int


@dataclass(slots=True)
class _Work:
    """What one server is to be sent."""

    server: str
    rooms: dict[str, RoomWork] = field(default_factory=dict)
    retry: bool = False
    ts: int = 0

    def add(self, message: Message) -> None:
        self.ts = max(self.ts, message.sent_at)
        if "retry" in message.body:
            self.retry = True
        else:
            self.rooms.setdefault(message.body["room"], RoomWork()).add(message.body)

    @property
    def firsts(self) -> dict[str, int]:
        return {room_id: work.first for room_id, work in self.rooms.items()}


def send_batch(messages: Sequence[Message], *, seconds: float) -> list[str]:
    """Send what the messages point at, beginning nothing after so many seconds.

    Returns the IDs of those that have to come again: all of a group, so that they stay in order.
    """
    end = time.monotonic() + seconds
    failed: set[str] = set()
    groups: dict[str, list[Message]] = {}
    for message in messages:
        groups.setdefault(message.group, []).append(message)
    works: dict[str, _Work] = {}
    for group, of_group in groups.items():
        try:
            works[group] = _work_of(of_group)
        except (KeyError, TypeError, ValueError):
            log.exception("a message of the queue cannot be understood")
            failed.add(group)
    destinations = read_destinations(work.server for work in works.values())
    for group, error in _serve_all(works, destinations, end).items():
        log.error("nothing could be sent to %s", works[group].server, exc_info=error)
        failed.add(group)
    return [message.message_id for message in messages if message.group in failed]


def _work_of(messages: Sequence[Message]) -> _Work:
    work = _Work(str(messages[0].body.get("retry") or messages[0].body["server"]))
    for message in messages:
        work.add(message)
    return work


def _serve_all(
    works: Mapping[str, _Work], destinations: Mapping[str, Destination], end: float
) -> dict[str, BaseException]:
    """Serve several servers at the same time; what went wrong with some, by group."""
    reader = RoomReader()
    calls = {group: partial(_serve, work, destinations[work.server], reader, end) for group, work in works.items()}
    meter, meters = current_meter(), {group: Meter() for group in works}
    with ThreadPoolExecutor(max_workers=_SERVERS_AT_ONCE, thread_name_prefix="send") as pool:
        running = {
            group: pool.submit(copy_context().run, _counted, call, meters[group]) for group, call in calls.items()
        }
    if meter is not None:
        meter.add_parallel(list(meters.values()))
    return {group: error for group, future in running.items() if (error := future.exception()) is not None}


def _counted(call: Callable[[], None], meter: Meter) -> None:
    with counting_on(meter):
        call()


def _serve(work: _Work, destination: Destination, reader: RoomReader, end: float) -> None:
    if work.retry or destination.is_behind:
        # What waits goes first: what is new is kept behind it, and sent with it.
        put_off(destination, work.firsts)
        if work.retry:
            catch_up(work.server, end)
        return
    _deliver(work, destination, reader, end)


def _deliver(work: _Work, destination: Destination, reader: RoomReader, end: float) -> None:
    """Send everything to a server that is well; what it does not take is kept for it."""
    pdus = [
        Outgoing(room_id, event)
        for room_id, room in work.rooms.items()
        for low, high in room.ranges
        for event in reader.events(room_id, low, high)
        if event.origin != work.server
    ]
    receipts = {
        room_id: public_receipts(reader.ephemeral(room_id), room.receipts)
        for room_id, room in work.rooms.items()
        if room.receipts is not None
    }
    edus = receipt_edus(receipts)
    for room_id, room in work.rooms.items():
        edus += typing_edus(room_id, room.typing)
    left = work.firsts
    for transaction in transactions(work.ts, pdus, edus):
        if time.monotonic() > end:
            continue_later(destination, left)
            return
        try:
            destination = send(destination, transaction)
        except FederationError as error:
            fault_point("sender.failed")
            fall_behind(destination, error, left)
            return
        fault_point("sender.sent")
        for pdu in transaction.pdus:
            left[pdu.room_id] = pdu.event.position + 1
    ask_software(destination)
