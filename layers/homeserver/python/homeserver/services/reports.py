"""Reports of rooms, events and users to the operator.

Source: client-server API v1.19, "Reporting Content".
"""

from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, NotFound, TooLarge
from homeserver.matrix.identifiers import is_event_id, is_room_id, is_user_id
from homeserver.observability import log
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.clock import now_ms
from homeserver.services.visibility import reader_of
from homeserver.storage.reports import Report, store_report
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import load_heads
from homeserver.storage.timeline import read_entry

# A reason is prose. The specification names no limit; this one is some pages, and an item of three write units or so.
MAX_REASON_BYTES = 10_000
_LOWEST_SCORE = -100
# Somebody who reports a raid marks message after message; a flood of reports would only hide the others.
_PER_SECOND, _BURST = 0.2, 30


def report_room(requester: Requester, room_id: str, reason: str) -> None:
    """Report a room, which the requester need not be in.

    Whether the server knows the room is stored, and not told. Raises InvalidParam for no room ID, TooLarge,
    LimitExceeded.
    """
    if not is_room_id(room_id):
        raise InvalidParam("This is not a room ID.")
    _admit(requester, reason)
    known = room_id in load_heads([room_id])
    _store(Report(reporter=requester.user_id, kind="room", room=room_id, reason=reason, known=known))


def report_event(requester: Requester, room_id: str, event_id: str, *, reason: str | None, score: Any) -> None:
    """Report an event of a room that the requester is in.

    Raises NotFound, the same for all of it: for an unknown room or event, one that the requester may not see, and a
    room that they are not in. BadJson or InvalidParam for a score that is none, TooLarge, LimitExceeded.
    """
    if score is not None:
        _check_score(score)
    _admit(requester, reason)
    not_found = NotFound("The event was not found, or you are not in its room.")
    if not is_room_id(room_id) or not is_event_id(event_id):
        raise not_found
    try:
        reader = reader_of(requester.user_id, room_id)
    except Forbidden as error:
        raise not_found from error
    record = EventRecord.fetch(event_id) if reader.is_joined else None
    if record is None or record.room != room_id or record.position is None or record.flags:
        raise not_found
    entry = read_entry(room_id, int(record.position), int(record.offset or 0))
    if entry is None or entry.event_id != event_id or entry.pdu is None or not reader.visible([entry]):
        raise not_found
    sender = entry.pdu["sender"]
    about = {"room": room_id, "event": event_id, "sender": sender}
    _store(Report(reporter=requester.user_id, kind="event", reason=reason, score=score, **about))


def report_user(requester: Requester, user_id: str, reason: str) -> None:
    """Report a user, of any server. Whether the user exists is not looked up: so nobody learns it.

    Raises InvalidParam for no user ID, TooLarge, LimitExceeded.
    """
    if not is_user_id(user_id):
        raise InvalidParam("This is not a user ID.")
    _admit(requester, reason)
    _store(Report(reporter=requester.user_id, kind="user", user=user_id, reason=reason))


def _check_score(score: Any) -> None:
    if not isinstance(score, int) or isinstance(score, bool):
        raise BadJson("score has the wrong type: it must be an integer.")
    if not _LOWEST_SCORE <= score <= 0:
        raise InvalidParam(f"score must be an integer from {_LOWEST_SCORE} to 0.")


def _admit(requester: Requester, reason: str | None) -> None:
    # A lone surrogate has no bytes, and a report must not fail for the sake of one.
    if reason is not None and len(reason.encode(errors="replace")) > MAX_REASON_BYTES:
        raise TooLarge(f"A reason has at most {MAX_REASON_BYTES} bytes.")
    rate_limits.take(f"report-user/{requester.user_id}", per_second=_PER_SECOND, burst=_BURST)


def _store(report: Report) -> None:
    key = store_report(report, now_ms())
    # What it is about and by whom stands in the table, which fewer people read than logs.
    log.warning("report of %s stored under %s", "an event" if report.kind == "event" else f"a {report.kind}", key)
