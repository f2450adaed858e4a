"""What is staged for a room goes into it: the worker's part of a transaction, one worker a room.

Oldest first, in batches: checks 1 to 3, then everything goes to the room at once, whichever server sent it. Of what
then still needs an event that nobody here knows, the server that sent it is asked. What even that does not bring is
parked, and tried again when the event comes, when more comes for the room and its time is due, and by the sweep. What
is done is deleted last; so whoever is stopped in between does it again, and finds what is stored known.

Source: server-server API v1.19, "Checks performed on receipt of a PDU", "Retrieving event".
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from homeserver.matrix.errors import LimitExceeded, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.state_resolution import MissingAuthEvents
from homeserver.observability import fault_point, log
from homeserver.services.clock import now_ms
from homeserver.services.inbound_wakes import wake_room
from homeserver.services.pdu_checks import check_pdus
from homeserver.services.receive_events import Outcome, Verdict, receive_events
from homeserver.services.received_ephemeral import RemoteReceipt, show_in_room
from homeserver.services.stub_rooms import may_be_out_of_band, receive_out_of_band
from homeserver.storage.staging import (
    LateReceipt,
    Parked,
    StagedPdu,
    note_parked,
    park,
    parked_key,
    parked_pdus,
    staged,
    unstage,
)

# How long a parked PDU is left alone after each try; after the last one it is given up.
BACKOFF_S = (15, 60, 300, 1800, 7200, 6 * 3600, 12 * 3600, 24 * 3600)
MOST_PARKED = 300  # of a room, beyond which the oldest are given up
_AT_ONCE = 100
_MOST_NEEDS = 200  # events that parked PDUs are known to wait for
_SECONDS = 120.0  # after which what is left is another wake's
_FETCH_SECONDS = 60.0
_LEAST_SECONDS = 2.0  # with less time left other servers are not asked for events any more


@dataclass(slots=True)
class _Round:
    """PDUs that are worked off together: `waiting` is what was parked before, as far as it `was_read`."""

    room_id: str
    pdus: Sequence[StagedPdu]
    waiting: Sequence[StagedPdu]
    was_read: bool
    started_ms: int
    end: float  # by the monotonic clock: when other servers are asked no longer
    done: set[str] = field(default_factory=set)  # keys of those that need nothing more
    needs: dict[str, frozenset[str]] = field(default_factory=dict)  # of the others: which events
    arrived: set[str] = field(default_factory=set)  # events that the room knows now

    def seconds(self) -> float:
        """How long others may be asked for something."""
        return min(_FETCH_SECONDS, self.end - time.monotonic())

    def is_due(self, pdu: StagedPdu) -> bool:
        """Whether this is a try that counts: others are asked for what a new PDU needs, or one whose time has come."""
        return pdu.due_ms <= self.started_ms


def process_room(room_id: str) -> None:
    """Work off what is staged for a room; where that takes long, wake the next worker for what is left.

    Raises LimitExceeded where the room is too busy, and whatever the store raises: then it is to be repeated.
    """
    end = time.monotonic() + _SECONDS
    while True:
        found = staged(room_id, most=_AT_ONCE)
        is_due = 0 < found.parked.due_ms <= now_ms()
        if found.pdus or is_due:
            _work_off(room_id, found.pdus, found.parked, is_due=is_due, end=end)
        if found.is_all or not found.pdus:
            _show_late(room_id, found.late)  # they wait for what was staged before them, which is done
        if found.is_all:
            return
        if time.monotonic() > end:
            wake_room(room_id)
            return


def _work_off(room_id: str, pdus: Sequence[StagedPdu], parked: Parked, *, is_due: bool, end: float) -> None:
    waiting = parked_pdus(room_id, most=2 * MOST_PARKED) if is_due else []
    work = _Round(room_id, pdus, waiting, is_due, now_ms(), end)
    _try(work, [*waiting, *pdus])
    if not is_due and parked.needs & work.arrived:
        # What came is what others wait for.
        work.waiting, work.was_read = parked_pdus(room_id, most=2 * MOST_PARKED), True
        _try(work, work.waiting)
    fault_point("staged.received")
    after = _park(work, parked)
    fault_point("staged.parked")
    unstage(room_id, [*(pdu.key for pdu in work.pdus), *(pdu.key for pdu in work.waiting if pdu.key in work.done)])
    fault_point("staged.deleted")
    if after is not None and after != parked:
        note_parked(room_id, after, now_ms=now_ms())


def _try(work: _Round, pdus: Sequence[StagedPdu]) -> None:
    """Bring PDUs into the room. One that breaks what should take it is parked, so that it stops no other."""
    if not pdus:
        return
    try:
        _receive(work, pdus)
    except NotFound:
        log.info("dropped %d PDUs: this server is not in %s any more", len(pdus), work.room_id)
        work.done |= {pdu.key for pdu in pdus}
    except LimitExceeded:
        raise
    except Exception:
        if len(pdus) == 1:
            log.exception("a PDU of %s in %s cannot be taken: parked", pdus[0].origin, work.room_id)
            work.needs[pdus[0].key] = frozenset()
            return
        log.exception("%d PDUs of %s cannot be taken together: one by one", len(pdus), work.room_id)
        for pdu in pdus:
            _try(work, [pdu])


def _receive(work: _Round, pdus: Sequence[StagedPdu]) -> None:
    rules = ROOM_VERSIONS[pdus[0].room_version]  # a room has one version
    seconds = max(_LEAST_SECONDS, work.seconds())
    checked = check_pdus([pdu.pdu for pdu in pdus], rules, work.room_id, seconds=seconds)
    sources: dict[str, list[StagedPdu]] = {}
    events: dict[str, Event] = {}
    for pdu, check in zip(pdus, checked, strict=True):
        if check.event is not None and may_be_out_of_band(pdu.pdu) and receive_out_of_band(check.event):
            work.done.add(pdu.key)
        elif check.event is not None:
            events[check.event_id] = check.event
            sources.setdefault(check.event_id, []).append(pdu)
        elif check.retry:
            work.needs[pdu.key] = frozenset()
        else:
            work.done.add(pdu.key)
    try:
        outcomes = dict(receive_events(work.room_id, list(events.values()))) if events else {}
    except MissingAuthEvents:
        outcomes = dict.fromkeys(events, Outcome(Verdict.MISSING))  # whose states need events that are not here
    outcomes |= _with_missing(work, sources, events, outcomes)
    for event_id, outcome in outcomes.items():
        _settle(work, event_id, outcome, sources.get(event_id, ()))


def _with_missing(
    work: _Round,
    sources: Mapping[str, Sequence[StagedPdu]],
    events: Mapping[str, Event],
    outcomes: Mapping[str, Outcome],
) -> dict[str, Outcome]:
    """Those that need events which nobody here knows, with what the servers that sent them tell of these."""
    # Few events miss any: the worker starts sooner without what fetches them.
    from homeserver.services.missing_events import receive_with_missing  # noqa: PLC0415

    found: dict[str, Outcome] = {}
    by_origin: dict[str, list[Event]] = {}
    for event_id, outcome in outcomes.items():
        if outcome.verdict is Verdict.MISSING and any(map(work.is_due, sources[event_id])):
            by_origin.setdefault(sources[event_id][0].origin, []).append(events[event_id])
    for origin, some in by_origin.items():
        if work.seconds() < _LEAST_SECONDS:
            break
        fault_point("staged.before_missing")
        found |= receive_with_missing(work.room_id, some, origin, seconds=work.seconds())
    return found


def _settle(work: _Round, event_id: str, outcome: Outcome, pdus: Iterable[StagedPdu]) -> None:
    keys = {pdu.key for pdu in pdus}
    if outcome.verdict is Verdict.MISSING:
        work.needs |= dict.fromkeys(keys, frozenset((*outcome.prev, *outcome.auth)))
        return
    for key in keys:
        work.needs.pop(key, None)
    work.done |= keys
    work.arrived.add(event_id)


# ── Parking ──────────────────────────────────────────────────────────────────────────────────────────────


def _park(work: _Round, before: Parked) -> Parked | None:
    """Store what has to wait, after it is said that something waits: so it is never forgotten.

    Returns what is to be said when everything that is done is deleted; None if that was said already.
    """
    now = now_ms()
    tried = {pdu.key: pdu for pdu in (*work.pdus, *work.waiting)}
    parked: list[StagedPdu] = []
    for key, pdu in tried.items():
        if key not in work.needs:
            continue
        if not work.is_due(pdu):
            parked.append(pdu)  # it was only looked at because something came
            continue
        if pdu.tries >= len(BACKOFF_S):
            log.warning("gave up a PDU of %s in %s: it needs %s", pdu.origin, work.room_id, sorted(work.needs[key]))
            work.done.add(key)
            continue
        due = now + BACKOFF_S[pdu.tries] * 1000
        parked.append(replace(pdu, tries=pdu.tries + 1, due_ms=due))
    if work.was_read and len(parked) > MOST_PARKED:
        parked.sort(key=lambda pdu: parked_key(pdu.key))
        for pdu in parked[: len(parked) - MOST_PARKED]:
            log.warning("gave up a PDU of %s in %s: too many wait there", pdu.origin, work.room_id)
            work.done.add(pdu.key)
        parked = parked[len(parked) - MOST_PARKED :]
    after = Parked(
        min((pdu.due_ms for pdu in parked), default=0),
        frozenset(sorted(frozenset().union(*(work.needs[pdu.key] for pdu in parked)))[:_MOST_NEEDS]),
    )
    if parked:
        # Until those that were parked before are seen to, and where they were not read, they wait for what they did.
        note_parked(work.room_id, _both(before, after), now_ms=now)
        fault_point("staged.noted")
        park(work.room_id, parked, now_ms=now)
    return after if work.was_read else None


def _both(one: Parked, other: Parked) -> Parked:
    due = min(filter(None, (one.due_ms, other.due_ms)), default=0)
    return Parked(due, frozenset(sorted(one.needs | other.needs)[:_MOST_NEEDS]))


def _show_late(room_id: str, late: Sequence[LateReceipt]) -> None:
    """Show receipts whose events may have come by now; who reads what never came has not read it."""
    if not late:
        return
    receipts = [RemoteReceipt(room_id, *receipt.receipt) for receipt in late]
    for missed in show_in_room(room_id, {}, receipts):
        log.info("dropped a receipt of %s in %s: event %s is unknown", missed.user_id, room_id, missed.event_id)
    fault_point("staged.receipts_shown")
    unstage(room_id, [receipt.key for receipt in late])
