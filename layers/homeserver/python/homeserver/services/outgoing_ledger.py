"""Transactions with `prev_ids`, as the draft of 2014 has them: each names the one before, so that a gap is seen.

Only for servers that understand them: they sent `prev_ids` themselves, or are of this software. Each transaction is in
the ledger before it is sent, as pointers to positions; the last thousand, for seven days. A server that finds a gap
asks for what it missed (GET /_matrix/federation/v1/pull/).

Others do not know `prev_ids`, and ignore it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from homeserver.matrix.errors import Forbidden
from homeserver.observability import fault_point
from homeserver.services.clock import now_ms
from homeserver.services.outgoing_events import OutgoingEvent, RoomReader
from homeserver.settings import settings
from homeserver.storage import destinations as stored
from homeserver.storage.destinations import Destination
from homeserver.storage.outbound import read_spans_of
from homeserver.storage.rooms import load_heads
from homeserver.storage.sent_transactions import put_sent, read_sent

SOFTWARE = "Eigenserver"
MOST_PULLED = 500  # events in one answer


def understands_prev_ids(destination: Destination) -> bool:
    """Whether transactions to this server name the one before."""
    match settings().federation_prev_ids:
        case "always":
            return True
        case "never":
            return False
    return destination.capable or destination.software == SOFTWARE


def enter(destination: Destination, transaction: str, places: Iterable[tuple[str, int]]) -> tuple[Destination, str]:
    """Note a transaction before it is sent. `places`: room and position of its events, in order.

    Returns the destination as it is then, and the ID of the transaction before it (empty: there is none). One that was
    noted last, and comes again, keeps its place.
    """
    for _ in range(3):
        if destination.last == transaction:
            return destination, destination.before
        put_sent(destination.server, destination.sent + 1, transaction, places)
        fault_point("ledger.entered")
        if stored.note_sent(destination, transaction):
            fault_point("ledger.noted")
            entered = replace(destination, last=transaction, before=destination.last, sent=destination.sent + 1)
            return entered, destination.last
        destination = stored.read_destination(destination.server)
    raise TimeoutError(f"the ledger of {destination.server} changes too fast")


def pull(requester: str, origin: str, known: Sequence[str]) -> dict[str, Any]:
    """What a server missed after the latest transaction that it knows: a transaction, as if it were sent now.

    requester: the server that asks; origin: the one it says it is; known: transaction IDs. Where none of them is in the
    ledger, or there is more than one answer has room for, the latest events, and `limited`. Only events that the server
    may still see. Raises Forbidden where origin is not the requester.
    """
    if origin != requester:
        raise Forbidden("A server can only ask for what it was sent itself.")
    sent = read_sent(requester)
    numbers = {transaction.txn: transaction.number for transaction in sent}
    latest = max((numbers[txn] for txn in known if txn in numbers), default=None)
    missed = [transaction for transaction in sent if latest is None or transaction.number > latest]
    places = list(dict.fromkeys(place for transaction in missed for place in transaction.places))
    pdus = _visible(requester, places[-MOST_PULLED:])
    answer = {"origin": settings().server_name, "origin_server_ts": now_ms(), "prev_ids": [], "pdus": pdus}
    if latest is None or len(places) > MOST_PULLED:
        answer["limited"] = True
    return answer


def _visible(server: str, places: Sequence[tuple[str, int]]) -> list[Any]:
    """The events at these places, as they are now, as far as the server was and is entitled to them."""
    reader = RoomReader()
    rooms = list(dict.fromkeys(room_id for room_id, _ in places))
    heads = load_heads(rooms)
    spans = read_spans_of(server, rooms)
    pdus = []
    for room_id, position in places:
        if room_id not in heads or int(heads[room_id].position) < position:
            continue
        found: list[OutgoingEvent] = reader.events(room_id, position, position)
        pdus += [event.pdu for event in found if event.goes_to(server, spans.get(room_id))]
    return pdus
