"""Queue of outbound work: each message says what one server is to be sent, or that it is to be tried again.

The messages of a batch that are for the same server become as few transactions as possible; the servers of a batch are
sent to at the same time.
"""

from typing import Any

import orjson

from homeserver.observability import cost_metered, log
from homeserver.services.federation_sender import Message, send_batch
from homeserver.settings import settings

# Nothing is begun after this; what is under way then may take another two requests, and the function has 60 seconds.
SECONDS = 35.0


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """SQS event -> `batchItemFailures`."""
    messages = []
    for record in event["Records"]:
        attributes = record["attributes"]
        try:
            body = orjson.loads(record["body"])
        except ValueError:
            log.exception("a message of the queue is not JSON")
            body = None
        group, sent_at = attributes["MessageGroupId"], int(attributes["SentTimestamp"])
        messages.append(Message(record["messageId"], group, body if isinstance(body, dict) else {}, sent_at))
    with cost_metered("federation_sender_worker", enabled=settings().cost_meter):
        failed = send_batch(messages, seconds=SECONDS)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}
