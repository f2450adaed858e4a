"""Custom resources: functions of ours that make something once, asked as CloudFormation asks them.

There is no `ResponseURL`: nobody waits at one, so the function answers by what it returns or raises.
"""

import logging
import uuid
from collections.abc import Callable
from typing import Any

from homeserver.matrix.errors import MatrixError
from local.invoke import Functions
from local.resources import CustomResource
from local.template import ACCOUNT, REGION

log = logging.getLogger("local")


class CustomResourceError(Exception):
    """The function refused; the message is the reason it gave."""


class CustomResources:
    """The template's custom resources and what is known of them: {logical ID: {"properties", "physical_id"}}."""

    def __init__(self, resources: list[CustomResource], functions: Functions) -> None:
        self._resources = resources
        self._functions = functions
        self.known: dict[str, dict[str, Any]] = {}

    def apply(self, *, unclean_start: bool, progress: Callable[[str], None]) -> bool:
        """Create what is new and update what changed; whether anything was called.

        After an unclean start every resource is updated with `UncleanStart: "true"` among its properties, because the
        store may have lost its last seconds. Raises CustomResourceError when a function refuses.
        """
        called = False
        for resource in self._resources:
            before = self.known.get(resource.logical_id)
            properties = {key: _as_text(value) for key, value in resource.properties.items()}
            if before is not None and before["properties"] == properties and not unclean_start:
                continue
            event: dict[str, Any] = {
                "RequestType": "Create" if before is None else "Update",
                "RequestId": str(uuid.uuid4()),
                "StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/eigenserver/local",
                "LogicalResourceId": resource.logical_id,
                "ResourceType": resource.kind,
                "ResourceProperties": dict(properties),
            }
            if before is not None:
                event["PhysicalResourceId"] = before["physical_id"]
                event["OldResourceProperties"] = before["properties"]
                if unclean_start:
                    event["ResourceProperties"]["UncleanStart"] = "true"
            progress(f"{resource.logical_id}: {event['RequestType'].lower()}")
            physical_id = self._ask(resource, event)
            self.known[resource.logical_id] = {"properties": properties, "physical_id": physical_id}
            called = True
        return called

    def _ask(self, resource: CustomResource, event: dict[str, Any]) -> str:
        try:
            answer = self._functions.call(resource.function, event)
        except Exception as error:  # whatever it is, the local run cannot start without the resource
            if not isinstance(error, MatrixError):
                log.exception("%s failed", resource.function)
            raise CustomResourceError(f"{resource.logical_id}: {error}") from error
        if not isinstance(answer, dict) or answer.get("Status") != "SUCCESS":
            reason = answer.get("Reason") if isinstance(answer, dict) else None
            raise CustomResourceError(f"{resource.logical_id}: {reason or 'refused without a reason'}")
        return str(answer.get("PhysicalResourceId") or resource.logical_id)


def _as_text(value: Any) -> Any:
    """CloudFormation hands numbers and booleans to functions as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else value
