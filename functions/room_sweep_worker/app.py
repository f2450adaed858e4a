"""Once a day, and for each record that the stream gave up: let lagging followers catch up."""

from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from homeserver.observability import log
from homeserver.services.inboxes import follow_room
from homeserver.services.sweep import sweep

_processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def _failed_record(record: SQSRecord) -> None:
    message = record.json_body
    if "room" in message:
        follow_room(message["room"])
    else:
        # Lambda's own note of a batch it gave up: it names the shard, not the rooms.
        sweep()


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """A schedule's event -> how many rooms were repaired; an SQS event -> `batchItemFailures`."""
    if "Records" in event:
        answer = process_partial_response(
            event=event, record_handler=_failed_record, processor=_processor, context=context
        )
        return dict(answer)
    repaired = sweep()
    if repaired:
        log.warning("%d rooms had lagged behind and were repaired", repaired)
    return {"repaired": repaired}
