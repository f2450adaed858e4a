"""Messages to SQS queues, which the template names in the environment."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.adapters import aws

_AT_ONCE = 10  # messages in one request: the most that SQS takes


@dataclass(frozen=True, slots=True)
class FifoMessage:
    """A message of a FIFO queue: messages of a `group` are read in order, and never two batches of it at once.

    A message with the `deduplication` ID of another is dropped for five minutes after that one, in silence; so the ID
    names what happened, never what the message says.
    """

    body: Mapping[str, Any]
    group: str
    deduplication: str


class QueueFailed(Exception):
    """Some messages were not taken by a queue."""


def send_json(queue_variable: str, message: Mapping[str, Any]) -> None:
    """Put a message into the queue whose URL is in an environment variable. Raises KeyError if that is not set."""
    aws.client("sqs").send_message(QueueUrl=os.environ[queue_variable], MessageBody=json.dumps(message))


def send_fifo(queue_variable: str, messages: Sequence[FifoMessage]) -> None:
    """Put messages into a FIFO queue, ten a request, in their order.

    `group` and `deduplication` are cut to what SQS takes by whoever makes them (128 characters of ASCII without
    spaces): server names and room IDs may be longer, so hash them. Raises KeyError if the variable is not set,
    QueueFailed if a message was not taken; others may have been.
    """
    sqs, url = aws.client("sqs"), os.environ[queue_variable]
    for start in range(0, len(messages), _AT_ONCE):
        entries = [
            {
                "Id": str(number),
                "MessageBody": json.dumps(message.body),
                "MessageGroupId": message.group,
                "MessageDeduplicationId": message.deduplication,
            }
            for number, message in enumerate(messages[start : start + _AT_ONCE])
        ]
        failed = sqs.send_message_batch(QueueUrl=url, Entries=entries).get("Failed", ())
        if failed:
            raise QueueFailed(f"{queue_variable}: {failed[0].get('Code')}: {failed[0].get('Message')}")


def bring_back(queue_variable: str, seconds: Mapping[str, int]) -> None:
    """Let messages that were received, by receipt handle, be read again after so many seconds from now.

    A handler reports them as failed as well; without this they come back when the queue's visibility timeout is over.
    A message that is visible already, or gone, is passed over. Raises KeyError if the variable is not set.
    """
    sqs, url = aws.client("sqs"), os.environ[queue_variable]
    handles = list(seconds)
    for start in range(0, len(handles), _AT_ONCE):
        entries = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": seconds[handle]}
            for number, handle in enumerate(handles[start : start + _AT_ONCE])
        ]
        sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
