"""Batches of the stream of the rooms table: each record wakes a follower for one room.

The records of a batch that name the same room are one piece of work. A room that fails does not hold up its shard: it
goes into the queue of failed records, from where the sweep takes it up.
"""

from collections.abc import Callable
from typing import Any

from homeserver.adapters.queues import send_json
from homeserver.observability import cost_metered, log
from homeserver.settings import settings


def follow_rooms(
    event: dict[str, Any], function: str, follow: Callable[[str], object], *, given_up: str
) -> dict[str, Any]:
    """Let `follow` work on each room of a DynamoDB stream event; returns `batchItemFailures`, what has to be repeated.

    `function` is the name for meter and log; `given_up` the key under which the queue's message names a failed room.
    """
    last_record: dict[str, str] = {}
    for record in event["Records"]:
        change = record["dynamodb"]
        last_record[change["Keys"]["room"]["S"]] = change["SequenceNumber"]
    failures = []
    with cost_metered(function, enabled=settings().cost_meter):
        for room_id, sequence_number in last_record.items():
            try:
                follow(room_id)
            except Exception:
                # A poison record must not block the rooms behind it.
                log.exception("%s failed for %s", function, room_id)
                try:
                    send_json("FAILED_RECORDS_QUEUE", {given_up: room_id})
                except Exception:
                    # Without the queue the stream itself has to repeat the record.
                    log.exception("%s could not be put aside", room_id)
                    failures.append({"itemIdentifier": sequence_number})
    return {"batchItemFailures": failures}
