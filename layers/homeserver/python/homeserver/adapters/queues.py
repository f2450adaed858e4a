"""Messages to SQS queues, which the template names in the environment."""

import json
import os
from collections.abc import Mapping
from typing import Any

from homeserver.adapters import aws


def send_json(queue_variable: str, message: Mapping[str, Any]) -> None:
    """Put a message into the queue whose URL is in an environment variable. Raises KeyError if that is not set."""
    aws.client("sqs").send_message(QueueUrl=os.environ[queue_variable], MessageBody=json.dumps(message))
