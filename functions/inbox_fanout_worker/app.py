"""Queue of fan-out parts: each message moves some local members of one room forward.

A part that fails five times goes on to the queue of failed records, whose worker tries it again later.
"""

from functools import partial
from typing import Any

import orjson
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from homeserver.services.fanout_batch import without_superseded
from homeserver.services.inboxes import follow_part

_processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def _part(parts: dict[str, dict[str, Any]], record: SQSRecord) -> None:
    follow_part(parts.get(record.message_id) or record.json_body)


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """SQS event -> `batchItemFailures`."""
    handler = partial(_part, _parts_of(event["Records"]))
    return dict(process_partial_response(event=event, record_handler=handler, processor=_processor, context=context))


def _parts_of(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is left to do for each message beside the others; what cannot be read is left to the processor."""
    parts: dict[str, dict[str, Any]] = {}
    for record in records:
        try:
            part = orjson.loads(record["body"])
        except ValueError:
            continue
        if isinstance(part, dict):
            parts[record["messageId"]] = part
    return dict(zip(parts, without_superseded(list(parts.values())), strict=True))
