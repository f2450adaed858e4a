"""Events that are known without their place in the timeline: the auth events and the state of a room elsewhere.

They are judged by the events that authorise them (check 4), and get their coordinates in the auth graph. When their
parents come later they can be received as any other event.

Source: server-server API v1.19, "Checks performed on receipt of a PDU", "Joining Rooms".
"""

from collections.abc import Mapping, Sequence

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.observability import fault_point
from homeserver.services.attempts import attempts
from homeserver.services.receive_events import ACCEPTED, KNOWN, Outcome, Verdict
from homeserver.services.received_batch import check_by_authority, in_order
from homeserver.storage.auth_events import KnownEvent, cover_for, known_events, remember_taken
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.event_records import NewRecord, write_record

_AT_ONCE = 40  # events in one transaction, of two items each


def receive_outliers(room_id: str, events: Sequence[Event]) -> dict[str, Outcome]:
    """Store events of a room without a place in it; returns what became of each.

    An event with an auth event that is unknown is not kept: the outcome names it. The room need not exist. Raises
    LimitExceeded where others store the same events all the time.
    """
    outcomes: dict[str, Outcome] = {}
    left = in_order(events)
    while left:
        outcomes |= _store_some(room_id, left[:_AT_ONCE])
        left = [event for event in left if event.event_id not in outcomes]
    return outcomes


def _store_some(room_id: str, events: Sequence[Event]) -> dict[str, Outcome]:
    for _ in attempts("The room"):
        outcomes, records = _judge(room_id, events)
        if not records:
            return outcomes
        transaction = Transaction()
        for record in records:
            write_record(transaction, room_id, record)
        fault_point("outliers.before")
        try:
            transaction.commit()
        except TransactionCancelled as error:
            remember_taken(error)
            continue
        return outcomes
    raise AssertionError("attempts() never ends by itself")


def _judge(room_id: str, events: Sequence[Event]) -> tuple[dict[str, Outcome], list[NewRecord]]:
    """The outcomes of the events, and the records that they need."""
    ids = {event.event_id for event in events}
    rules = events[0].rules
    wanted = {auth_id for event in events for auth_id in event.auth_event_ids} | ids
    if rules.room_id_is_create_hash:
        wanted.add(_create_id(room_id))
    known = known_events(wanted, rules)
    outcomes: dict[str, Outcome] = {}
    records: list[NewRecord] = []
    taken: set[str] = set()
    for event in events:
        if event.event_id in known:
            outcomes[event.event_id] = KNOWN
            continue
        missing = tuple(auth_id for auth_id in event.auth_event_ids if auth_id not in known)
        if missing:
            outcomes[event.event_id] = Outcome(Verdict.MISSING, auth=missing)
            continue
        if event.room_id != room_id:
            outcomes[event.event_id] = Outcome(Verdict.REJECTED, reason="it is of another room")
            continue
        outcome = outcomes[event.event_id] = _verdict(event, known, room_id)
        flags = "o" if outcome is ACCEPTED else "or"
        auth = [known[auth_id] for auth_id in event.auth_event_ids]
        cover, item = cover_for(event, [(k.event, k.cover) for k in auth if k.event is not None], taken)
        if item is not None:
            taken.add(item)
        packed = cover.pack() if cover else None
        records.append(NewRecord(event, flags, cover=packed, chain_item=item, keeps_body=True))
        judged = Event(event.event_id, room_id, event.pdu, event.rules, rejected="r" in flags)
        known[event.event_id] = KnownEvent(room_id, flags, judged, packed)
    return outcomes, records


def _verdict(event: Event, known: Mapping[str, KnownEvent], room_id: str) -> Outcome:
    create = known.get(_create_id(room_id)) if event.rules.room_id_is_create_hash else None
    try:
        check_by_authority(event, known, create.event if create else None)
    except AuthRuleViolation as violation:
        return Outcome(Verdict.REJECTED, violation.rule, str(violation))
    return ACCEPTED


def _create_id(room_id: str) -> str:
    """The event ID that the ID of a room of version 12 is made of."""
    return "$" + room_id.removeprefix("!")
