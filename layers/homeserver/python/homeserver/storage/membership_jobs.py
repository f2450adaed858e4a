"""Memberships in rooms of other servers, asked for by local users and under way: `job/<user>/<kind>` in STAGING.

A job is one item from when it is asked for until long after it ended. Who asks for the same while it runs finds it, and
waits for it too. It is named by a random number: so nobody takes the end of an earlier job for that of a later one.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import PutError, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from homeserver.settings import table_name
from homeserver.storage.connection import Item

FORMAT = 1
GIVEN_UP_MS = 3600 * 1000  # after which nobody waits for a job, and another one may take its place
_MISSED_MS = 5 * 60 * 1000  # for so long who asks again is told of a failure that nobody was there to hear
_KEPT_S = 7 * 24 * 3600
_TRIES = 8

# {"event_id": ...}, empty where nothing had to be done; or {"status", "errcode", "error", "extra"}
Outcome = Mapping[str, Any]


class MembershipJob(Item):
    """One job. Times in milliseconds, `expires` in seconds."""

    class Meta:
        table_name = table_name("STAGING")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    f = NumberAttribute(default=FORMAT)
    number = UnicodeAttribute(attr_name="i")
    user = UnicodeAttribute(attr_name="u")
    # "join", "knock" or "leave"
    kind = UnicodeAttribute(attr_name="w")
    # Of the membership event; and the servers to ask, in this order
    content = JSONAttribute(attr_name="c")
    servers = JSONAttribute(attr_name="sv")
    started = NumberAttribute(attr_name="t")
    outcome = JSONAttribute(attr_name="o", null=True)  # absent while it runs
    ended = NumberAttribute(attr_name="te", null=True)
    # 1 if somebody went away without the outcome
    missed = NumberAttribute(attr_name="m", null=True)
    expires = NumberAttribute()


def new_job(
    room_id: str, user_id: str, kind: str, content: Mapping[str, Any], servers: Sequence[str], *, now: int
) -> MembershipJob:
    """A job that is not written yet."""
    return MembershipJob(
        room_id,
        f"job/{user_id}/{kind}",
        number=secrets.token_hex(8),
        user=user_id,
        kind=kind,
        content=dict(content),
        servers=list(servers),
        started=now,
        expires=now // 1000 + _KEPT_S,
    )


def begin(job: MembershipJob) -> MembershipJob:
    """Write a new job, unless one for the same is there that counts: then that one is returned.

    It counts while it runs, and for a while after it failed when nobody was told. One write; a read where one counts.
    """
    for _ in range(_TRIES):
        if begin_unseen(job):
            return job
        there = load(job.room, job.k)
        if there is None or (there.outcome is not None and not _is_told_now(there)):
            continue
        return there
    raise TimeoutError(f"the jobs of {job.user} in {job.room} change too fast")


def begin_unseen(job: MembershipJob) -> bool:
    """Write a new job that nobody waits for; false if one for the same is there that counts."""
    try:
        job.save(_nothing_counts(int(job.started)))
    except PutError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True


def _nothing_counts(now: int) -> Condition:
    is_over = MembershipJob.outcome.exists() & MembershipJob.missed.does_not_exist()
    is_late = MembershipJob.outcome.exists() & (MembershipJob.ended < now - _MISSED_MS)
    is_lost = MembershipJob.started < now - GIVEN_UP_MS
    condition: Condition = MembershipJob.k.does_not_exist() | is_over | is_late | is_lost
    return condition


def _is_told_now(job: MembershipJob) -> bool:
    """Whether this is who is told of an outcome that was missed: one of those who ask."""
    return _changed(job, [MembershipJob.missed.remove()], MembershipJob.missed.exists())


def load(room_id: str, key: str) -> MembershipJob | None:
    """A job by its key, as it stands now; one read unit."""
    return MembershipJob.fetch(room_id, key)


def finish(job: MembershipJob, outcome: Outcome, *, now: int) -> bool:
    """Write how a job ended; false if that is written already, or another one took its place."""
    actions: list[Action] = [MembershipJob.outcome.set(dict(outcome)), MembershipJob.ended.set(now)]
    if "errcode" not in outcome:
        actions.append(MembershipJob.missed.remove())  # what was done shows by itself
    return _changed(job, actions, MembershipJob.outcome.does_not_exist())


def miss(job: MembershipJob) -> bool:
    """Nobody waits for a job any more; false if it has just ended."""
    return _changed(job, [MembershipJob.missed.set(1)], MembershipJob.outcome.does_not_exist())


def _changed(job: MembershipJob, actions: Sequence[Action], condition: Condition) -> bool:
    try:
        MembershipJob(job.room, job.k).update(list(actions), (MembershipJob.number == job.number) & condition)
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True
