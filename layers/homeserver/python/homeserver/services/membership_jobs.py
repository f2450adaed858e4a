"""Memberships in rooms of other servers: what a worker does for the users who asked (`membership_requests`).

The jobs of a room are run one after the other, and each looks first at what the room is by then: where another user's
join has brought this server in, the rest is done here. A job that was cut off at any step is run again from the start.
What another server took of it before is repeated there without harm: it is the same membership once more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homeserver.matrix.errors import MatrixError
from homeserver.observability import fault_point, log
from homeserver.services.access_tokens import Requester
from homeserver.services.clock import now_ms
from homeserver.services.membership import change_membership
from homeserver.services.remote_join import join_elsewhere
from homeserver.services.remote_knock import knock_elsewhere
from homeserver.services.remote_leave import leave_elsewhere
from homeserver.services.residency import NotResident
from homeserver.storage.membership_jobs import GIVEN_UP_MS, MembershipJob, Outcome, finish, load

_TRIES = 3
_ELSEWHERE: Mapping[str, Callable[[str, str, Mapping[str, Any], Sequence[str]], str | None]] = {
    "join": join_elsewhere,
    "knock": knock_elsewhere,
    "leave": leave_elsewhere,
}
_ALREADY = {"join": ("join",), "knock": ("knock",), "leave": ("leave",)}


def run_job(room_id: str, key: str) -> None:
    """Do what a job asks for, and write how it ended. Does nothing for a job that has ended.

    Raises what is no answer to the user, such as an AWS service that fails: then it has to be run again.
    """
    job = load(room_id, key)
    if job is None or job.outcome is not None:
        return
    if int(job.started) < now_ms() - GIVEN_UP_MS:
        outcome = _failure(MatrixError("This took too long, and was given up.", status=504))
    else:
        fault_point("membership_job.begun")
        try:
            outcome = {"event_id": _perform(job)}
        except MatrixError as error:
            outcome = _failure(error)
    fault_point("membership_job.performed")
    if not finish(job, outcome, now=now_ms()):
        log.info("the job %s of %s ended twice", key, room_id)


def _failure(error: MatrixError) -> Outcome:
    return {"status": error.status, "errcode": error.errcode, "error": error.message, "extra": error.extra}


def _perform(job: MembershipJob) -> str:
    room_id, user_id, kind = job.room, job.user, job.kind
    for _ in range(_TRIES):
        try:
            event = change_membership(
                Requester(user_id, "", ""), user_id, room_id, dict(job.content), unless=_ALREADY[kind], in_job=True
            )
        except NotResident:
            event_id = _ELSEWHERE[kind](room_id, user_id, job.content, job.servers)
            if event_id is not None:
                return event_id
        except MatrixError as refusal:
            if kind != "join" or refusal.errcode != "M_UNABLE_TO_GRANT_JOIN" or not job.servers:
                raise
            return join_elsewhere(room_id, user_id, job.content, job.servers)
        else:
            return event.event_id if event is not None else ""
    raise MatrixError("The room changes too fast.", status=503)
