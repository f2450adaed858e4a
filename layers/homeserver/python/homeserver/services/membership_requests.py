"""Asking for a membership in a room that this server is not in, and waiting for it.

The work is done by a worker (`membership_jobs`), so that it does not end with the request: other servers may take
minutes for the answer to a join. Who waited too long asks again, and finds it done or still under way.

Source: client-server API v1.19, "Joining rooms", "Knocking on rooms", "Leaving rooms".
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix.canonical_json import NotCanonical, encode_lenient
from homeserver.matrix.errors import BadJson, MatrixError, TooLarge
from homeserver.observability import fault_point
from homeserver.services import rate_limits
from homeserver.services.clock import now_ms
from homeserver.services.inbound_wakes import wake_job
from homeserver.storage.membership_jobs import MembershipJob, Outcome, begin, begin_unseen, load, miss, new_job

WAIT_S = 25.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.05, 1.5, 1.4
_MOST_CONTENT_BYTES = 48 * 1024  # the rest of an event is for what another server puts into it
# Each is a series of requests to other servers.
_PER_SECOND, _BURST = 0.2, 20


def _in_a_while() -> float:
    return time.monotonic() + WAIT_S


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Who may know a room that this server is not in, and until when (monotonic seconds) the requester waits."""

    servers: Sequence[str] = ()
    until: float = field(default_factory=_in_a_while)


def have_done(
    room_id: str, user_id: str, kind: str, content: Mapping[str, Any], servers: Sequence[str], *, until: float
) -> str:
    """Let a worker join, knock or leave (`kind`) for a user; the ID of the event, empty if nothing had to be done.

    Who asks for what is under way waits for that, whatever servers they name. Raises what the job ended with; a
    MatrixError (504) if it has not ended at `until` (monotonic seconds): it goes on.
    """
    rate_limits.take(f"remote-membership/{user_id}", per_second=_PER_SECOND, burst=_BURST)
    _check_content(content)
    job = begin(new_job(room_id, user_id, kind, content, servers, now=now_ms()))
    if job.outcome is None:
        fault_point("membership_job.written")
        # Also for a job that was there: who wrote it may not have come so far.
        wake_job(room_id, job.k)
        job = _waited(job, until)
    return _result(job)


def begin_leaving(room_id: str, user_id: str, content: Mapping[str, Any], servers: Sequence[str]) -> None:
    """Let a worker leave for a user, and do not wait for it."""
    job = new_job(room_id, user_id, "leave", content, servers, now=now_ms())
    begin_unseen(job)
    fault_point("membership_job.written")
    wake_job(room_id, job.k)


def _check_content(content: Mapping[str, Any]) -> None:
    try:
        size = len(encode_lenient(dict(content)))
    except NotCanonical as error:
        raise BadJson(f"The content is not canonical JSON: {error}") from None
    if size > _MOST_CONTENT_BYTES:
        raise TooLarge(f"The content has more than {_MOST_CONTENT_BYTES} bytes.")


def _waited(job: MembershipJob, until: float) -> MembershipJob:
    pause = _FIRST_PAUSE_S
    while job.outcome is None:
        left = until - time.monotonic()
        if left <= 0 and miss(job):
            raise _still_running(job.kind)
        time.sleep(max(0.0, min(pause, left)))
        pause = min(pause * _GROWTH, _LONGEST_PAUSE_S)
        now = load(job.room, job.k)
        if now is None or now.number != job.number:
            raise _still_running(job.kind)  # another request took its end, and began anew
        job = now
    return job


def _still_running(kind: str) -> MatrixError:
    return MatrixError(
        f"Other servers take long to let you {kind}. It goes on: to repeat the request is safe, and tells the end.",
        status=504,
    )


def _result(job: MembershipJob) -> str:
    outcome: Outcome = job.outcome or {}
    if "errcode" in outcome:
        raise MatrixError(
            outcome["error"], errcode=outcome["errcode"], status=outcome["status"], extra=outcome.get("extra")
        )
    return str(outcome["event_id"])
