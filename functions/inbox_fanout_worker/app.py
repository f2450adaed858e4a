"""Queue of fan-out parts: each message moves some local members of one room forward.

A part that fails five times goes on to the queue of failed records, whose worker tries it again later.
"""

from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from homeserver.services.inboxes import follow_part

_processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def _part(record: SQSRecord) -> None:
    follow_part(record.json_body)


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """SQS event -> `batchItemFailures`."""
    return dict(process_partial_response(event=event, record_handler=_part, processor=_processor, context=context))
