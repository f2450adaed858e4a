"""What each function really asks of AWS, recorded so that a test can hold it against the function's policy."""

import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import orjson

# The function that runs in this thread, set at its invocation.
running_function: ContextVar[str] = ContextVar("running_function", default="")

_TRANSACTION_ACTIONS = {
    "Put": "dynamodb:PutItem",
    "Update": "dynamodb:UpdateItem",
    "Delete": "dynamodb:DeleteItem",
    "ConditionCheck": "dynamodb:ConditionCheckItem",
    "Get": "dynamodb:GetItem",
}


def dynamodb_permissions(action: str, request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The IAM (action, resource) pairs that a DynamoDB request needs; a resource is `table` or `table/index/name`."""
    if action in {"TransactWriteItems", "TransactGetItems"}:
        for item in request.get("TransactItems", ()):
            for kind, operation in item.items():
                yield _TRANSACTION_ACTIONS[kind], _table(operation["TableName"])
    elif action in {"BatchGetItem", "BatchWriteItem"}:
        for name in request.get("RequestItems", {}):
            yield f"dynamodb:{action}", _table(name)
    else:
        table = _table(request.get("TableName", "*"))
        index = request.get("IndexName")
        yield f"dynamodb:{action}", f"{table}/index/{index}" if index else table


def _table(name: str) -> str:
    return name.rsplit("table/", 1)[-1]


def states_resource(request: Mapping[str, Any]) -> str:
    """What a request to Step Functions needs a right for."""
    if "executionArn" in request:  # rights are given for all executions of a machine
        return str(request["executionArn"]).rsplit(":", 1)[0] + ":*"
    # SendTaskSuccess and its like know no resources.
    return str(request.get("stateMachineArn", "*"))


def ses_resources(request: Mapping[str, Any]) -> list[str]:
    """The identities that a mail needs a right for: which of them SES knows the sender by is the operator's choice."""
    domain = str(request.get("FromEmailAddress", "")).rpartition("@")[2].rstrip(">")
    return [f"identity/{domain}", f"identity/*@{domain}"]


class Recorder:
    """Collects (function, action, resource) and writes them to a JSON file: {function: [[action, resource], ...]}."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: dict[str, set[tuple[str, str]]] = {}
        self._written = 0

    def add(self, action: str, resource: str, *, function: str | None = None) -> None:
        """Note that this or the running function used an action; calls of the local run itself have no function."""
        function = function or running_function.get()
        if not function:
            return
        if action.startswith("sqs:"):
            action = action.removesuffix("Batch")  # IAM has one action for both
        with self._lock:
            self._seen.setdefault(function, set()).add((action, resource))

    def add_dynamodb(self, action: str, request: Mapping[str, Any]) -> None:
        """Note a DynamoDB request."""
        if running_function.get():
            for permission, resource in dynamodb_permissions(action, request):
                self.add(permission, resource)

    def write(self) -> None:
        """Write the file if anything new was seen."""
        with self._lock:
            count = sum(len(pairs) for pairs in self._seen.values())
            if count == self._written:
                return
            content = {name: sorted(map(list, pairs)) for name, pairs in sorted(self._seen.items())}
            self._written = count
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        temporary.replace(self._path)
