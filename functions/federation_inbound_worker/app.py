"""Queue of what other servers sent: which room, job or gap there is to look at.

A message of a group is read only when those before it are done, so no two workers are at one room. What fails comes
back after a short wait, and with it what came after it in its group.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from homeserver.adapters.queues import bring_back
from homeserver.observability import log
from homeserver.services.inbound_wakes import INBOUND_QUEUE
from homeserver.services.staged_pdus import process_room
from homeserver.services.transaction_gaps import TooEarly, repair_gap

_FIRST_WAIT_S, _LONGEST_WAIT_S = 5, 300  # the wait doubles with each try
_LONGEST_WORK_MS = 170_000  # with less time left nothing further is begun
_pool = ThreadPoolExecutor(max_workers=10, thread_name_prefix="group")  # as many as there are messages in a batch


@dataclass(frozen=True, slots=True)
class _Failed:
    """A message that is to come back after so many seconds."""

    record: dict[str, Any]
    seconds: int


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """SQS event of a FIFO queue -> `batchItemFailures`. Groups are worked off side by side."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in event["Records"]:
        groups.setdefault(record["attributes"]["MessageGroupId"], []).append(record)
    calls = [partial(_work_off, records, context.get_remaining_time_in_millis) for records in groups.values()]
    if len(calls) == 1:
        results = [calls[0]()]
    else:
        results = [future.result() for future in [_pool.submit(copy_context().run, call) for call in calls]]
    failed = [failure for group in results for failure in group]
    if failed:
        bring_back(INBOUND_QUEUE, {f.record["receiptHandle"]: f.seconds for f in failed})
    return {"batchItemFailures": [{"itemIdentifier": f.record["messageId"]} for f in failed]}


def _work_off(records: Sequence[dict[str, Any]], left_ms: Callable[[], int]) -> list[_Failed]:
    """The messages of one group, in order; those that failed, which all are that come after one that did."""
    done: set[str] = set()
    for number, record in enumerate(records):
        body: str = record["body"]
        if body in done:
            continue  # the same wake once more: all of the batch were sent before the first was worked off
        if done and left_ms() < _LONGEST_WORK_MS:
            return _from(records[number:], 0)
        try:
            _work(orjson.loads(body))()
        except TooEarly as error:
            return _from(records[number:], error.seconds)
        except Exception:
            log.exception("%s failed", body)
            tries = int(record["attributes"]["ApproximateReceiveCount"])
            return _from(records[number:], min(_FIRST_WAIT_S * 2 ** (tries - 1), _LONGEST_WAIT_S))
        done.add(body)
    return []


def _from(records: Sequence[dict[str, Any]], seconds: int) -> list[_Failed]:
    return [_Failed(record, seconds) for record in records]


def _work(message: dict[str, str]) -> Callable[[], object]:
    if "pull" in message:
        return partial(repair_gap, message["origin"])
    if "job" in message:
        return partial(_run_job, message["room"], message["job"])
    return partial(process_room, message["room"])


def _run_job(room_id: str, key: str) -> None:
    # Few wakes are jobs, and those that are not start sooner without them.
    from homeserver.services.membership_jobs import run_job  # noqa: PLC0415

    run_job(room_id, key)
