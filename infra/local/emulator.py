"""AWS in this process: ministack without a port, reached through botocore's before-send event.

One lock stands around the store. The emulator is also entered from its own threads (TTL, Step Functions), so the
functions that touch items take the lock themselves, whoever calls them. ministack's version is pinned because the names
replaced here are its private ones.
"""

import asyncio
import copy
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

from local.expressions import speed_up
from local.permissions import Recorder, states_resource
from local.unkind import Answer, Operation, Unkind

_SETTINGS = {
    "IOT_MTLS_ENABLED": "0",
    "SFTP_ENABLED": "0",
    "MINISTACK_TEST_NO_AUTOSTART": "1",
    "LOG_LEVEL": "ERROR",
    "MINISTACK_HOST": "localhost",
    "GATEWAY_PORT": "4566",
}
_OPERATIONS = {
    "PutItem": "_put_item",
    "GetItem": "_get_item",
    "DeleteItem": "_delete_item",
    "UpdateItem": "_update_item",
    "Query": "_query",
    "Scan": "_scan",
    "BatchGetItem": "_batch_get_item",
    "BatchWriteItem": "_batch_write_item",
    "TransactWriteItems": "_transact_write_items",
    "TransactGetItems": "_transact_get_items",
}
# Services whose handlers never wait: called in the caller's thread, under the store lock.
_DIRECT = {"ssm", "sqs", "secretsmanager", "kms"}
_SERVICES = {"secrets-manager": "secretsmanager", "sfn": "states"}  # botocore's name -> ministack's
_SMALL = "application/x-amz-json-1.0"


# The partition key's condition is the one equality that comes first in the expressions of the homeserver.
_PARTITION = re.compile(r"\A\s*[#\w]+\s*=\s*(:\w+)")
_MOST_KEPT, _LONGEST_KEPT = 4096, 1024


class Emulator:
    """The one store of this process.

    `changes` counts the writes to each table; `on_record[table]` gets each stream record, under the lock;
    `on_message` is called when a queue may have something to read.
    """

    def __init__(self, directory: Path, *, unkind_seed: int | None = None, recorder: Recorder | None = None) -> None:
        self.lock = threading.RLock()
        self.changes: dict[str, int] = {}
        self.other_changes = 0
        self._partition_changes: dict[tuple[str, str], int] = {}
        # Polls ask the same again and again: by request, the answer and how often the partition had changed by then.
        self._answers: dict[bytes, tuple[tuple[str, str], int, Answer]] = {}
        self.on_record: dict[str, list[Callable[[dict[str, Any]], None]]] = {}
        self.on_message: list[Callable[[], None]] = []
        self.prepare: dict[str, Callable[[], None]] = {}  # before each call of a service, by ministack's name of it
        self.ses: Callable[[str, str, dict[str, str], bytes], Answer] | None = None
        self.invoke: Callable[[str, dict[str, str], bytes], Answer] | None = None
        self.recorder = recorder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._app, self.dynamodb, self.sqs = _import_ministack(directory)
        self.unkind = Unkind(unkind_seed, self.lock, self) if unkind_seed is not None else None
        self._operations: dict[str, Operation] = {
            action: getattr(self.dynamodb, name) for action, name in _OPERATIONS.items()
        }
        self._originals = SimpleNamespace(
            handle_request=self.dynamodb.handle_request,
            set_item=self.dynamodb._set_item,
            remove_item=self.dynamodb._remove_item,
        )
        self._wrap_dynamodb()
        self._wrap_sqs()

    # ── wrapping ───────────────────────────────────────────────────────────────────────────────────

    def _locked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def locked(*args: Any, **kwargs: Any) -> Any:
            with self.lock:
                return function(*args, **kwargs)

        return locked

    def _wrap_dynamodb(self) -> None:
        module = self.dynamodb
        for name in _OPERATIONS.values():
            setattr(module, name, self._locked(getattr(module, name)))
        # The TTL sweeper takes the module's own lock around its work: let it be the store lock.
        module._lock = self.lock
        # Items are plain JSON: orjson and a plain copy do the same for a fraction of the time.
        module.json_response = _json_response
        module.json = SimpleNamespace(
            loads=module.json.loads,
            dumps=_dumps(module.json.dumps),
            JSONDecodeError=module.json.JSONDecodeError,
        )
        module.copy = SimpleNamespace(copy=copy.copy, deepcopy=copied)
        speed_up(module)

        # Idempotency tokens last ten minutes; the emulator would keep each whole transaction with its token.
        store_token = module._txn_token_store
        module._txn_token_store = lambda token, entry: store_token(
            token, entry | {"signature": _Digest(entry["signature"])}
        )

        set_item, remove_item, emit = module._set_item, module._remove_item, module._emit_stream_event
        missing: dict[str, Any] = {}

        def put(table: dict[str, Any], pk: str, sk: str, item: dict[str, Any]) -> Any:
            self._changed(table, pk, sk, table["items"].get(pk, missing).get(sk))
            return set_item(table, pk, sk, item)

        def remove(table: dict[str, Any], pk: str, sk: str) -> Any:
            self._changed(table, pk, sk, table["items"].get(pk, missing).get(sk))
            return remove_item(table, pk, sk)

        def emitted(table: str, event: str, old: Any, new: Any, replicate: bool = True) -> None:
            listeners = self.on_record.get(table)
            if not listeners:
                return
            records = module._stream_records
            emit(table, event, old, new, replicate)
            # The listeners keep what they want; the emulator would keep every record for a day.
            for record in records.pop(table, ()):
                for listener in listeners:
                    listener(record)

        module._set_item = put
        module._remove_item = remove
        module._emit_stream_event = emitted

        async def handle_request(
            method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, str]
        ) -> Answer:
            return self.call_dynamodb(headers.get("x-amz-target", ""), body)

        module.handle_request = handle_request

    def _changed(self, table: dict[str, Any], pk: str, sk: str, old: dict[str, Any] | None) -> None:
        name = table["TableName"]
        self.changes[name] = self.changes.get(name, 0) + 1
        self._partition_changes[name, pk] = self._partition_changes.get((name, pk), 0) + 1
        if self.unkind is not None:
            self.unkind.overwritten(name, pk, sk, old)

    def _wrap_sqs(self) -> None:
        for name in ("_collect_msgs", "_dlq_sweep", "_expire_retained", "_refresh_counts"):
            setattr(self.sqs, name, self._locked(getattr(self.sqs, name)))
        for action, handler in self.sqs._HANDLERS.items():
            if action != "ReceiveMessage":  # it waits; the parts of it that touch messages are locked above
                self.sqs._HANDLERS[action] = self._locked(handler)
        self.sqs.esm_wake = SimpleNamespace(set=self._message_arrived)

    def _message_arrived(self) -> None:
        self.other_changes += 1
        for listener in self.on_message:
            listener()

    # ── calls ──────────────────────────────────────────────────────────────────────────────────────

    def call_dynamodb(self, target: str, body: bytes) -> Answer:
        """One DynamoDB request; `target` is the X-Amz-Target header."""
        action = target.rpartition(".")[2]
        if action == "Query" and (known := self._answers.get(body)) is not None:
            partition, changes, answered = known
            if self._partition_changes.get(partition, 0) == changes:
                return answered
        operation = self._operations.get(action)
        if operation is None:
            self.other_changes += 1
            with self.lock:
                answer: Answer = _driven(
                    self._originals.handle_request("POST", "/", {"x-amz-target": target}, body, {})
                )
                return answer
        try:
            request = orjson.loads(body)
        except orjson.JSONDecodeError:
            return 400, {"Content-Type": _SMALL}, b'{"__type":"SerializationException"}'
        if self.recorder is not None:
            self.recorder.add_dynamodb(action, request)
        if self.unkind is not None:
            return self.unkind.call(action, operation, request)
        with self.lock:
            result = operation(request)
            if action == "Query" and self.recorder is None:
                self._keep(body, request, result)
            return result

    def _keep(self, body: bytes, request: dict[str, Any], answer: Answer) -> None:
        """Remember the answer to a Query of one partition for as long as nothing in it changes."""
        equals = _PARTITION.search(request.get("KeyConditionExpression", ""))
        value = request.get("ExpressionAttributeValues", {}).get(equals[1]) if equals else None
        if not value or "S" not in value or len(body) > _LONGEST_KEPT:
            return
        if len(self._answers) >= _MOST_KEPT:
            self._answers.clear()
        partition = (request["TableName"], value["S"])
        self._answers[body] = (partition, self._partition_changes.get(partition, 0), answer)

    def call(self, service: str, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One request to any service; header names are lower case."""
        target = headers.get("x-amz-target", "")
        if service == "dynamodb":
            return self.call_dynamodb(target, body)
        if service == "lambda" and path.endswith("/invocations") and self.invoke is not None:
            if self.recorder is not None:
                name = path.split("/functions/", 1)[-1].split("/", 1)[0]
                self.recorder.add("lambda:InvokeFunction", name)
            return self.invoke(path, dict(headers), body)
        if service == "sesv2" and self.ses is not None:
            return self.ses(method, path, dict(headers), body)
        name = _SERVICES.get(service, service)
        if (prepare := self.prepare.get(name)) is not None:
            prepare()
        if self.recorder is not None:
            self._record(name, target.rpartition(".")[2] or method, path, body)
        self.other_changes += 1
        handler = self._app.SERVICE_HANDLERS.get(name)
        if handler is None:
            raise LookupError(f"the local run has no {service}")
        bare, _, query = path.partition("?")
        call = handler(method, bare, dict(headers), body, _query(query))
        if name in _DIRECT and not target.endswith(".ReceiveMessage"):
            with self.lock:
                answer: Answer = _driven(call)
                return answer
        waited: Answer = asyncio.run_coroutine_threadsafe(call, self.loop).result()
        return waited

    def _record(self, service: str, action: str, path: str, body: bytes) -> None:
        assert self.recorder is not None
        if service not in {"scheduler", "states"}:
            self.recorder.add(f"{service}:{action}", _resource(body))
            return
        request = orjson.loads(body or b"{}")
        if service == "states":
            self.recorder.add(f"states:{action}", states_resource(request))
            return
        group = request.get("GroupName") or _query(path.partition("?")[2]).get("groupName", ["default"])[0]
        verb = {"POST": "Create", "PUT": "Update", "GET": "Get", "DELETE": "Delete"}[action]
        self.recorder.add(f"scheduler:{verb}Schedule", f"schedule/{group}/*")
        if "Target" in request:
            self.recorder.add("iam:PassRole", request["Target"]["RoleArn"])

    def schedules(self) -> dict[Any, dict[str, Any]]:
        """The schedules of EventBridge Scheduler, as the emulator keeps them. Only under the store lock."""
        kept: dict[Any, dict[str, Any]] = self._app._get_module("scheduler")._schedules._data
        return kept

    @property
    def step_functions(self) -> Any:
        """Step Functions, imported when first needed: that takes a tenth of a second."""
        return self._app._get_module("stepfunctions")

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of services that wait; started when first needed."""
        with self.lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="emulator", daemon=True).start()
                self._app._MAIN_LOOP = self._loop
            return self._loop

    def request(self, service: str, action: str, **parameters: Any) -> Any:
        """A JSON request of the local run itself. Raises RuntimeError with the service's answer when it is refused."""
        prefix = {"dynamodb": "DynamoDB_20120810", "sqs": "AmazonSQS", "ssm": "AmazonSSM"}[service]
        headers = {"x-amz-target": f"{prefix}.{action}", "content-type": "application/x-amz-json-1.0"}
        status, _, body = self.call(service, "POST", "/", headers, orjson.dumps(parameters))
        if status != 200:
            raise RuntimeError(f"{action}: {body.decode()}")
        return orjson.loads(body or b"{}")

    # ── items, for the unkind mode ─────────────────────────────────────────────────────────────────

    def put(self, table: str, pk: str, sk: str, item: dict[str, Any] | None) -> None:
        """Make this the item under the key without a trace; None removes it."""
        if item is None:
            self._originals.remove_item(self.dynamodb._tables[table], pk, sk)
        else:
            self._originals.set_item(self.dynamodb._tables[table], pk, sk, item)

    def get(self, table: str, pk: str, sk: str) -> dict[str, Any] | None:
        """The item under the key now."""
        found: dict[str, Any] | None = self.dynamodb._tables[table]["items"].get(pk, {}).get(sk)
        return found


def _import_ministack(directory: Path) -> tuple[Any, Any, Any]:
    """Import the emulator with its settings: it reads them from the environment, and it sets up the root logger."""
    settings = _SETTINGS | {"STATE_DIR": str(directory / "emulator"), "S3_DATA_DIR": str(directory / "s3")}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    temporary = tempfile.tempdir
    level = logging.getLogger().level
    try:
        from ministack import app  # noqa: PLC0415 - it reads its settings when it is imported
        from ministack.services import dynamodb, sqs  # noqa: PLC0415
    finally:
        logging.getLogger().setLevel(level)
        tempfile.tempdir = temporary
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    app._loaded_modules.update({"dynamodb": dynamodb, "sqs": sqs})
    return app, dynamodb, sqs


def copied(value: Any) -> Any:
    """A deep copy of plain JSON; anything else is copied by the standard library."""
    kind = type(value)
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    if kind is list:
        return [copied(item) for item in value]
    if kind is str or value is None or kind is int or kind is bool or kind is float:
        return value
    return copy.deepcopy(value)


class _Digest:
    """Stands for a request: equal to any that has the same content."""

    __slots__ = ("_digest",)
    __hash__ = None  # type: ignore[assignment]  # compared only

    def __init__(self, request: Any) -> None:
        self._digest = blake2b(orjson.dumps(request), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        return self._digest == blake2b(orjson.dumps(other), digest_size=16).digest()


def _json_response(data: Any, status: int = 200, *, content_type: str = _SMALL) -> Answer:
    return status, {"Content-Type": content_type}, orjson.dumps(data)


def _dumps(slow: Callable[..., str]) -> Callable[..., str]:
    def dumps(data: Any, **options: Any) -> str:
        if options and set(options) != {"ensure_ascii"}:
            return slow(data, **options)
        return orjson.dumps(data).decode()

    return dumps


def _driven(call: Any) -> Any:
    """The result of a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    call.close()
    raise RuntimeError("the emulator's handler waits and must run on its loop")


def _query(text: str) -> dict[str, list[str]]:
    from urllib.parse import parse_qs  # noqa: PLC0415 - only services with paths need it

    return parse_qs(text, keep_blank_values=True)


def _resource(body: bytes) -> str:
    """What a JSON request of another service is about: its queue or parameter name."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "*"
    name = request.get("QueueUrl") or request.get("Name") or request.get("SecretId") or "*"
    return str(name).rsplit("/", 1)[-1] if request.get("QueueUrl") else str(name)
