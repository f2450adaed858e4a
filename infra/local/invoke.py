"""Lambda functions, loaded once and called in this process."""

import importlib
import logging
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from local.permissions import running_function
from local.resources import Function, handlers
from local.template import ACCOUNT, REGION, TemplateError

log = logging.getLogger("local")
Handler = Callable[[Any, Any], Any]
PAYLOAD_LIMIT = 6 * 1024 * 1024


class LambdaContext:
    """What AWS passes as the second argument of a handler."""

    __slots__ = ("_deadline", "aws_request_id", "function_name", "invoked_function_arn", "memory_limit_in_mb")
    function_version = "$LATEST"
    log_group_name = "local"
    log_stream_name = "local"
    client_context = None
    identity = None

    def __init__(self, function: Function, request_id: str) -> None:
        self.function_name = function.name
        self.aws_request_id = request_id
        self.memory_limit_in_mb = str(function.memory)
        self.invoked_function_arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function.name}"
        self._deadline = time.monotonic() + function.timeout

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until AWS would stop this invocation; nothing stops it here."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


class Functions:
    """The template's functions by name."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self._functions = {function.name: function for function in functions}
        self._handlers: dict[str, Handler] = {}
        self._later_ones: set[threading.Thread] = set()
        self._stopping = threading.Event()

    def names(self) -> list[str]:
        """The functions' names, in the template's order."""
        return list(self._functions)

    def load(self, progress: Callable[[str], None]) -> None:
        """Import every handler. Raises TemplateError for one that does not exist; errors of modules come through."""
        for function, module, attribute in handlers(list(self._functions.values())):
            if str(function.code) not in sys.path:
                sys.path.insert(0, str(function.code))
            progress(module.partition(".")[0])
            token = running_function.set(function.name)
            try:
                self._handlers[function.name] = getattr(importlib.import_module(module), attribute)
            except (ModuleNotFoundError, AttributeError) as error:
                raise TemplateError(f"{function.logical_id}: {function.handler}: {error}") from error
            finally:
                running_function.reset(token)

    def call(self, name: str, event: Any, request_id: str | None = None) -> Any:
        """Run a function with this event and return what its handler returns; its exceptions come through."""
        function = self._functions[name]
        token = running_function.set(name)
        try:
            return self._handlers[name](event, LambdaContext(function, request_id or str(uuid.uuid4())))
        finally:
            running_function.reset(token)

    def answer(self, path: str, headers: dict[str, str], payload: bytes) -> tuple[int, dict[str, str], bytes]:
        """The Invoke operation of the Lambda API: `/2015-03-31/functions/{name}/invocations`."""
        name = path.split("/functions/", 1)[-1].split("/", 1)[0].replace("%3A", ":").rsplit(":", 1)[-1]
        if name not in self._functions:
            message = orjson.dumps({"Type": "User", "Message": f"Function not found: {name}"})
            return 404, {"Content-Type": "application/json", "x-amzn-errortype": "ResourceNotFoundException"}, message
        event = orjson.loads(payload or b"{}")
        kind = headers.get("x-amz-invocation-type", "RequestResponse")
        if kind == "DryRun":
            return 204, {}, b""
        if kind == "Event":
            thread = threading.Thread(target=self._later, args=(name, event), name=f"event-{name}", daemon=True)
            self._later_ones.add(thread)
            thread.start()
            return 202, {}, b""
        try:
            return 200, {"Content-Type": "application/json"}, encoded(self.call(name, event))
        except Exception as error:  # AWS reports whatever a handler raises to the caller
            log.exception("%s failed", name)
            return 200, {"Content-Type": "application/json", "X-Amz-Function-Error": "Unhandled"}, failure(error)

    def _later(self, name: str, event: Any) -> None:
        """An asynchronous invocation: AWS waits a minute and then two before it tries again, here it is seconds."""
        tries = self._functions[name].retries + 1
        try:
            for attempt in range(1, tries + 1):
                try:
                    self.call(name, event)
                except Exception:  # an asynchronous invocation has nobody to tell
                    log.exception("%s failed, try %d of %d", name, attempt, tries)
                    if attempt == tries or self._stopping.wait(attempt):
                        return
                else:
                    return
        finally:
            self._later_ones.discard(threading.current_thread())

    def stop(self, seconds: float) -> None:
        """Try nothing again; wait so long for asynchronous invocations that run, and leave behind those that go on."""
        self._stopping.set()
        end = time.monotonic() + seconds
        for thread in list(self._later_ones):
            thread.join(max(0.0, end - time.monotonic()))


def encoded(result: Any) -> bytes:
    """A handler's result as JSON. Raises TypeError when it cannot be."""
    return orjson.dumps(result)


def failure(error: BaseException) -> bytes:
    """The payload that AWS makes of a handler's exception."""
    return orjson.dumps(
        {
            "errorMessage": str(error),
            "errorType": type(error).__name__,
            "stackTrace": traceback.format_tb(error.__traceback__),
        }
    )
