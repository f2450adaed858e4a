"""Functions that are invoked without waiting for what they answer."""

import json
import os
from collections.abc import Mapping
from typing import Any

from homeserver.adapters import aws


def invoke_later(function_variable: str, event: Mapping[str, Any]) -> None:
    """Let Lambda invoke the function that an environment variable names; it tries again when the function fails.

    The event is kept by Lambda until then, so it holds no secrets. Raises KeyError if the variable is not set.
    """
    aws.client("lambda").invoke(
        FunctionName=os.environ[function_variable], InvocationType="Event", Payload=json.dumps(event).encode()
    )
