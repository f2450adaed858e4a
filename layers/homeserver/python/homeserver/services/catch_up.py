"""Sending a server what it missed: from each of its rows to the head of the room.

A server that is dead is tried with the first of what it missed. When it has answered it is taken out of the list of the
dead, and only after that the rows and the rooms' heads are read which count: the router left out what came before, and
sends what comes after.
"""

import time
from collections.abc import Iterator

from homeserver.adapters.federation_http import FederationError
from homeserver.observability import fault_point
from homeserver.services.clock import now_ms
from homeserver.services.destinations import come_alive, continue_later, fall_behind
from homeserver.services.outgoing_edus import public_receipts, receipt_edus
from homeserver.services.outgoing_events import AT_ONCE, OutgoingEvent, read_outgoing
from homeserver.services.outgoing_ledger import understands_prev_ids
from homeserver.services.outgoing_transactions import MOST_PDUS, Outgoing, Transaction, send
from homeserver.storage.destinations import (
    Behind,
    Destination,
    advance_behind,
    drop_behind,
    note_caught_up,
    read_behind,
    read_destination,
)
from homeserver.storage.ephemeral import Receipt
from homeserver.storage.outbound import read_ephemeral_item, read_span
from homeserver.storage.rooms import load_heads

# Of a room of which a server missed more, it is sent the newest ones only: it can ask for the others.
MOST_POSITIONS = 1000
_ROOMS_AT_ONCE = 50  # in one transaction
_ROOMS_TRIED = 20  # among which the first attempt finds something to send


def catch_up(server: str, end: float) -> None:
    """Send everything that a server missed, until `end` (monotonic seconds). Repeating it does no harm."""
    destination = read_destination(server)
    if destination.is_dead:
        tried = _try(destination)
        if tried is None:
            return
        destination = tried
    come_alive(destination)
    destination = read_destination(server)
    run = _Run(destination, end)
    try:
        finished = run.send_all(read_behind(server))
    except FederationError as error:
        fall_behind(run.destination, error, {})
        return
    if not finished:
        continue_later(run.destination, {})
    elif destination.catching_up is not None:
        note_caught_up(server)
        fault_point("catch_up.done")


def _try(destination: Destination) -> Destination | None:
    """Send a dead server one transaction of what it missed; None if it is still dead."""
    server = destination.server
    transaction = Transaction(destination.retry_at or 0)
    tried = read_behind(server, limit=_ROOMS_TRIED)
    for behind in tried:
        for event in _missed(server, behind):
            if len(transaction.pdus) == MOST_PDUS:
                break
            transaction.pdus.append(Outgoing(behind.room_id, event))
        else:
            continue
        break
    if not transaction.pdus and not (destination.last and understands_prev_ids(destination)):
        return destination  # nothing but what comes next can show whether it answers
    try:
        # An empty transaction tells who understands prev_ids where this server stands.
        destination = send(destination, transaction)
    except FederationError as error:
        fall_behind(destination, error, {})
        return None
    fault_point("catch_up.tried")
    sent = {pdu.room_id: pdu.event.position for pdu in transaction.pdus}
    for behind in tried:
        if behind.first <= sent.get(behind.room_id, 0):
            advance_behind(server, behind, sent[behind.room_id] + 1)
    return destination


def _missed(server: str, behind: Behind) -> Iterator[OutgoingEvent]:
    """The events of a room that a server has missed, up to the head as it is now."""
    head = load_heads([behind.room_id]).get(behind.room_id)
    span = read_span(behind.room_id, server)
    if head is None:
        return
    last = int(head.position)
    for low in range(max(behind.first, last - MOST_POSITIONS + 1), last + 1, AT_ONCE):
        for event in read_outgoing(behind.room_id, low, min(last, low + AT_ONCE - 1)):
            if event.goes_to(server, span):
                yield event


class _Run:
    """One run through the rows of a server."""

    def __init__(self, destination: Destination, end: float) -> None:
        self.destination = destination
        self._end = end
        self._transaction = Transaction(0)
        self._receipts: dict[str, list[Receipt]] = {}
        self._finished: list[Behind] = []

    def send_all(self, rows: list[Behind]) -> bool:
        """Send what is behind each of the rows; False if there was no time for all."""
        for row in rows:
            done = self._send_room(row)
            if done is None:
                return False
            self._finished.append(done)
            if len(self._finished) == _ROOMS_AT_ONCE or time.monotonic() > self._end:
                self._flush()
            if time.monotonic() > self._end:
                return row is rows[-1]
        self._flush()
        return True

    def _send_room(self, row: Behind) -> Behind | None:
        """Take up what is behind a row, which may move meanwhile; None if there was no time for all of it."""
        server = self.destination.server
        for event in _missed(server, row):
            if len(self._transaction.pdus) == MOST_PDUS:
                self._flush()
                if row.first < event.position:
                    advance_behind(server, row, event.position)
                    row = Behind(row.room_id, event.position)
                if time.monotonic() > self._end:
                    return None
            self._transaction.pdus.append(Outgoing(row.room_id, event))
            self._transaction.ts = max(self._transaction.ts, event.arrived)
        span = read_span(row.room_id, server)
        if span is not None and span.left_at is None:
            self._receipts[row.room_id] = public_receipts(read_ephemeral_item(row.room_id), 0)
        return row

    def _flush(self) -> None:
        """Send what there is, and drop the rows of rooms that are done with it."""
        self._transaction.edus = list(receipt_edus(self._receipts))
        if self._transaction.pdus or self._transaction.edus:
            self._transaction.ts = self._transaction.ts or now_ms()
            self.destination = send(self.destination, self._transaction)
            fault_point("catch_up.sent")
        for row in self._finished:
            drop_behind(self.destination.server, row)
            fault_point("catch_up.dropped")
        self._transaction, self._receipts, self._finished = Transaction(0), {}, []
