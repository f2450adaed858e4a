"""Stream of the rooms table: what happened in a room goes to the senders, for each of the other servers in it.

The records of a batch that name the same room are one piece of work. A room that fails does not hold up its shard: it
goes into the queue of failed records, from where the sweep takes it up.
"""

from typing import Any

from homeserver.adapters.queues import send_json
from homeserver.observability import cost_metered, log
from homeserver.services.outbound_route import route_room
from homeserver.settings import settings


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """DynamoDB stream event -> `batchItemFailures`."""
    last_record: dict[str, str] = {}
    for record in event["Records"]:
        change = record["dynamodb"]
        last_record[change["Keys"]["room"]["S"]] = change["SequenceNumber"]
    with cost_metered("outbound_router", enabled=settings().cost_meter):
        return {"batchItemFailures": _route(last_record)}


def _route(last_record: dict[str, str]) -> list[dict[str, str]]:
    """Route each room; returns the records that the stream has to repeat."""
    failures = []
    for room_id, sequence_number in last_record.items():
        try:
            route_room(room_id)
        except Exception:
            # A poison record must not block the rooms behind it.
            log.exception("the outbound router failed for %s", room_id)
            try:
                send_json("FAILED_RECORDS_QUEUE", {"outbound": room_id})
            except Exception:
                # Without the queue the stream itself has to repeat the record.
                log.exception("%s could not be put aside", room_id)
                failures.append({"itemIdentifier": sequence_number})
    return failures
