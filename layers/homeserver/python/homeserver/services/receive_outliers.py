"""Events that are known without their place in the timeline: the auth events and the state of a room elsewhere.

They are judged by the events that authorise them (check 4), and get their coordinates in the auth graph. When their
parents come later they can be received as any other event.

Source: server-server API v1.19, "Checks performed on receipt of a PDU", "Joining Rooms".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.observability import fault_point, log
from homeserver.services.attempts import attempts
from homeserver.services.receive_events import ACCEPTED, KNOWN, Outcome, Verdict
from homeserver.services.received_batch import check_by_authority, in_order
from homeserver.storage.auth_events import KnownEvent, cover_for, known_events, remember_taken
from homeserver.storage.connection import Transaction, TransactionCancelled, in_parallel
from homeserver.storage.event_records import NewRecord, write_record

_AT_ONCE = 40  # events in one transaction, of two items each
_TRANSACTIONS_AT_ONCE = 8
_LOOK_AHEAD = 64  # transactions among which those are looked for that need not wait for others


def receive_outliers(room_id: str, events: Sequence[Event]) -> dict[str, Outcome]:
    """Store events of a room without a place in it; returns what became of each.

    An event with an auth event that is unknown is not kept: the outcome names it. No event is stored before those that
    authorise it, so that whatever is cut off can be begun again. The room need not exist. Raises LimitExceeded where
    others store the same events all the time.
    """
    ordered = in_order(events)
    chunks = [ordered[start : start + _AT_ONCE] for start in range(0, len(ordered), _AT_ONCE)]
    chunk_of = {event.event_id: number for number, chunk in enumerate(chunks) for event in chunk}
    before = [
        {chunk_of[i] for event in chunk for i in event.auth_event_ids if chunk_of.get(i, number) < number}
        for number, chunk in enumerate(chunks)
    ]
    outcomes: dict[str, Outcome] = {}
    known: dict[str, KnownEvent] = {}
    done: set[int] = set()
    left = list(range(len(chunks)))
    while left:
        wave = [number for number in left[:_LOOK_AHEAD] if before[number] <= done][:_TRANSACTIONS_AT_ONCE]
        for found, learned in in_parallel(*[partial(_store_some, room_id, chunks[number], known) for number in wave]):
            outcomes |= found
            known |= learned
        done.update(wave)
        left = [number for number in left if number not in done]
    for event_id, outcome in outcomes.items():
        if outcome.verdict is Verdict.REJECTED:
            log.info("outlier %s is rejected by rule %s: %s", event_id, outcome.rule or "-", outcome.reason)
    return outcomes


def judge_outliers(
    room_id: str, events: Sequence[Event], stored: Mapping[str, KnownEvent]
) -> tuple[dict[str, Outcome], dict[str, KnownEvent]]:
    """What would become of the events if they were received now, and what would be known then; nothing is stored.

    `stored`: what the store has of the events, and of those that authorise them (`wanted_by`).
    """
    known = dict(stored)
    return {event.event_id: _judge(event, known, room_id) for event in in_order(events)}, known


def wanted_by(events: Iterable[Event], room_id: str) -> set[str]:
    """The IDs of the events, and of what has to be known to judge them."""
    wanted: set[str] = set()
    for event in events:
        wanted.update((event.event_id, *event.auth_event_ids))
        if event.rules.room_id_is_create_hash:
            wanted.add(_create_id(room_id))
    return wanted


Known = dict[str, KnownEvent]


def _store_some(
    room_id: str, events: Sequence[Event], known: Mapping[str, KnownEvent]
) -> tuple[dict[str, Outcome], Known]:
    """Store events, of which those that authorise them are known or stored; what became of them, and is known now."""
    wanted = wanted_by(events, room_id)
    before = {event_id: known[event_id] for event_id in wanted if event_id in known}
    for _ in attempts("The room"):
        found = before | known_events(wanted - before.keys(), events[0].rules)
        outcomes, records = _records(room_id, events, found)
        if not records:
            return outcomes, found
        transaction = Transaction()
        for record in records:
            write_record(transaction, room_id, record)
        fault_point("outliers.before")
        try:
            transaction.commit()
        except TransactionCancelled as error:
            remember_taken(error)
            continue
        fault_point("outliers.after")
        return outcomes, found
    raise AssertionError("attempts() never ends by itself")


def _records(room_id: str, events: Sequence[Event], known: Known) -> tuple[dict[str, Outcome], list[NewRecord]]:
    """The outcomes of the events, and the records that they need; `known` learns what is stored with these."""
    outcomes: dict[str, Outcome] = {}
    records: list[NewRecord] = []
    taken: set[str] = set()
    for event in events:
        outcome = outcomes[event.event_id] = _judge(event, known, room_id)
        if outcome is KNOWN or event.event_id not in known:
            continue
        auth = [known[auth_id] for auth_id in event.auth_event_ids]
        cover, item = cover_for(event, [(k.event, k.cover) for k in auth if k.event is not None], taken)
        if item is not None:
            taken.add(item)
        packed = cover.pack() if cover else None
        judged = known[event.event_id]
        known[event.event_id] = replace(judged, cover=packed)
        records.append(NewRecord(event, judged.flags, cover=packed, chain_item=item, keeps_body=True))
    return outcomes, records


def _judge(event: Event, known: Known, room_id: str) -> Outcome:
    """What becomes of an event; `known` learns it if it is to be kept."""
    if event.event_id in known:
        return KNOWN
    missing = tuple(auth_id for auth_id in event.auth_event_ids if auth_id not in known)
    if missing:
        return Outcome(Verdict.MISSING, auth=missing)
    if event.room_id != room_id:
        return Outcome(Verdict.REJECTED, reason="it is of another room")
    outcome = _verdict(event, known, room_id)
    flags = "o" if outcome is ACCEPTED else "or"
    judged = Event(event.event_id, room_id, event.pdu, event.rules, rejected="r" in flags)
    known[event.event_id] = KnownEvent(room_id, flags, judged, None)
    return outcome


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
