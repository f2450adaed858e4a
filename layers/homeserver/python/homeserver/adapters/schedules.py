"""One-shot schedules: a message that a FIFO queue gets at a time, once. EventBridge Scheduler.

The template names the schedules' group, the role that may send to the queue (and to nothing else), and the queue.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from homeserver.adapters import aws


def schedule_message(name: str, at_ms: int, message: Mapping[str, Any], group: str) -> None:
    """Let the queue of outbound messages get a message at a time; a schedule of the same name gives way to it.

    The schedule removes itself afterwards. `name`: at most 64 letters, digits, `-` and `_`. The queue has to
    deduplicate by content: a schedule has no ID for it, so the message must name its time. Raises ClientError.
    """
    at = datetime.fromtimestamp(-(-at_ms // 1000), UTC)
    request = {
        "Name": name,
        "GroupName": os.environ["FEDERATION_SCHEDULES"],
        "ScheduleExpression": f"at({at:%Y-%m-%dT%H:%M:%S})",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": os.environ["FEDERATION_OUTBOUND_QUEUE_ARN"],
            "RoleArn": os.environ["FEDERATION_SCHEDULES_ROLE"],
            "Input": json.dumps(message),
            "SqsParameters": {"MessageGroupId": group},
        },
    }
    scheduler = aws.client("scheduler")
    try:
        scheduler.create_schedule(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConflictException":
            raise
        # One that has fired a moment ago may still be there: replaced, not changed, as it may go away meanwhile.
        remove_schedule(name)
        scheduler.create_schedule(**request)


def remove_schedule(name: str) -> None:
    """Take a schedule back, if there is one. Raises ClientError."""
    try:
        aws.client("scheduler").delete_schedule(Name=name, GroupName=os.environ["FEDERATION_SCHEDULES"])
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
