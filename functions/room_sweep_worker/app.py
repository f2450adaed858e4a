"""By schedule, and for whatever stream and queues gave up: let lagging followers catch up.

The queue of failed records holds rooms that the follower could not follow, or that take longer than it has; parts that
the fan-out workers could not move; and Lambda's own notes of batches that it gave up.
"""

from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from homeserver.observability import log
from homeserver.services.inboxes import follow_members, follow_part, follow_room
from homeserver.services.outbound_route import route_room
from homeserver.services.staged_sweep import wake_staged
from homeserver.services.sweep import sweep

_processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def _failed_record(record: SQSRecord) -> None:
    message = record.json_body
    if "moves" in message:
        follow_part(message)
    elif "members" in message:
        follow_members(message["room"], message["members"])
    elif "outbound" in message:
        route_room(message["outbound"])
    elif "room" in message:
        follow_room(message["room"], everything=True)
    else:
        # Lambda's own note of a batch it gave up: it names the shard, not the rooms.
        sweep()


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """A schedule's event -> how many rooms were repaired or woken; an SQS event -> `batchItemFailures`."""
    if "Records" in event:
        answer = process_partial_response(
            event=event, record_handler=_failed_record, processor=_processor, context=context
        )
        return dict(answer)
    if event.get("staged"):
        return {"woken": wake_staged()}
    repaired = sweep()
    if repaired:
        log.warning("%d rooms had lagged behind and were repaired", repaired)
    return {"repaired": repaired}
