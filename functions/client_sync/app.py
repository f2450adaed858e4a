"""The waiting loop of `/sync` on API Gateway: 128 MB, and neither a web framework nor an AWS library in it."""

import json
import os
from typing import Any

from client_sync.routes import Answer, Handler, router
from homeserver.adapters import slim_aws
from homeserver.matrix.errors import MatrixError, Unrecognized
from homeserver.observability import configure_logging, cost_metered, log
from homeserver.settings import settings
from homeserver.web.token_place import ADDRESS_IS_SECRET, PARAMETER

configure_logging(os.environ.get("LOG_LEVEL") or "INFO")
if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    slim_aws.tls_context()  # at start a function has a whole processor, while it waits only a fraction

_HANDLERS: dict[str, dict[str, Handler]] = {}  # by path and method
for _endpoint in router.endpoints:
    for _path in _endpoint.starlette_paths():
        _HANDLERS.setdefault(_path, {})[_endpoint.method] = _endpoint.handler


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request, an HTTP API event of payload format 2.0; errors look as homeserver.web.routing's do."""
    with cost_metered("client_sync", enabled=settings().cost_meter) as meter:
        try:
            answer = _handler_of(event)(event, context)
        except MatrixError as error:
            answer = _error(error)
        except Exception:
            # The last resort: whatever went wrong must not reach the client as anything but an error.
            log.exception("%s failed", event.get("routeKey", ""))
            answer = _error(MatrixError("The server met an error of its own.", status=500))
        headers = {"content-type": "application/json", **answer.headers}
        if f"{PARAMETER}=" in (event.get("rawQueryString") or ""):
            headers |= {name.lower(): value for name, value in ADDRESS_IS_SECRET.items()}
        if meter is not None:
            headers["server-timing"] = meter.server_timing()
    return {"statusCode": answer.status, "headers": headers, "body": answer.body, "isBase64Encoded": False}


def _handler_of(event: dict[str, Any]) -> Handler:
    methods = _HANDLERS.get(event["rawPath"])
    if methods is None:
        raise Unrecognized("There is no such endpoint.")
    handler = methods.get(event["requestContext"]["http"]["method"])
    if handler is None:
        raise Unrecognized("This endpoint does not know this method.", status=405)
    return handler


def _error(error: MatrixError) -> Answer:
    headers = {name.lower(): value for name, value in error.headers.items()}
    return Answer(error.status, json.dumps(error.body()), headers)
