"""Inner routing: which endpoint of a function answers a path, and how its errors become answers.

API Gateway hands over the path percent-decoded, so an ID with a slash in it has become several segments. A
parameter written `{name}` is one segment; `{name...}` at the end takes the rest, slashes included.
"""

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from mangum import Mangum
from mangum.handlers.api_gateway import HTTPGateway
from mangum.types import Scope
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import InvalidParam, MatrixError, Unrecognized
from homeserver.observability import cost_metered, log
from homeserver.settings import settings
from homeserver.web import endpoints
from homeserver.web.endpoints import LEGACY, V1, V2, V3, Endpoint
from homeserver.web.known_endpoints import methods_at
from homeserver.web.requests import json_response
from homeserver.web.token_place import ADDRESS_IS_SECRET, PARAMETER

__all__ = ["LEGACY", "V1", "V2", "V3", "Handler", "Router", "error_response", "lambda_handler_for"]

Handler = Callable[..., Response]
Router = endpoints.Router[Response]


def error_response(error: MatrixError) -> Response:
    """The answer that a Matrix error is."""
    return json_response(error.body(), error.status, error.headers)


def _handled(endpoint: Endpoint[Response], request: Request) -> Response:
    if endpoint.federation and not settings().federation:
        raise Unrecognized("This server does not take part in federation.")
    return endpoint.handler(request, **request.path_params)


def _answer(endpoint: Endpoint[Response], request: Request) -> Response:
    with cost_metered(endpoint.handler.__module__.partition(".")[0], enabled=settings().cost_meter) as meter:
        try:
            response = _handled(endpoint, request)
        except MatrixError as error:
            response = error_response(error)
        except Exception:
            # The last resort: whatever went wrong must not reach the client as anything but an error.
            log.exception("%s %s failed", request.method, request.scope["aws.event"].get("routeKey", ""))
            response = error_response(MatrixError("The server met an error of its own.", status=500))
        if PARAMETER in request.query_params:
            response.headers.update(ADDRESS_IS_SECRET)
        if meter is not None:
            response.headers["Server-Timing"] = meter.server_timing()
    return response


_CUT_ROOM_ID = re.compile(r"/rooms/![^/:]*(/|\Z)")
_HASH_ROOM_ID = re.compile(r"/rooms/![A-Za-z0-9_-]{43}(/|\Z)")
_CUT_USER_ID = re.compile(r"/(user|profile)/@[^/:]*(/|\Z)")


def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    path = request.scope["path"]
    if (_CUT_ROOM_ID.search(path) and not _HASH_ROOM_ID.search(path)) or _CUT_USER_ID.search(path):
        # "!a/b:server" arrives as two segments, and what follows a "?" is lost before it reaches us.
        return error_response(InvalidParam("An ID with a slash or a question mark cannot be used in this address."))
    methods = methods_at(path)  # also what other functions answer: unknown methods of theirs come to server_discovery
    if status == 405 or methods:
        allow = {"Allow": ", ".join(sorted(methods))}
        return error_response(Unrecognized("This endpoint does not know this method.", status=405, headers=allow))
    return error_response(Unrecognized("There is no such endpoint."))


class _DecodedPath(HTTPGateway):
    """API Gateway's v2 event, whose path is decoded already: Mangum would decode it a second time."""

    @property
    def scope(self) -> Scope:
        event = self.event
        context = event["requestContext"]["http"]
        return {
            "type": "http",
            "method": context["method"],
            "http_version": "1.1",
            "headers": [[k.lower().encode("latin-1"), v.encode("latin-1")] for k, v in event["headers"].items()],
            "path": event["rawPath"],
            "raw_path": None,
            "root_path": "",
            "scheme": event["headers"].get("x-forwarded-proto", "https"),
            "query_string": event.get("rawQueryString", "").encode(),
            "server": (event["headers"].get("host", ""), None),
            "client": (context["sourceIp"], 0),
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "aws.event": event,
            "aws.context": self.context,
        }


def lambda_handler_for(router: Router) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """The Lambda handler of a function that answers these endpoints."""
    logging.getLogger("mangum").setLevel(logging.ERROR)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    for endpoint in router.endpoints:

        async def call(request: Request, endpoint: Endpoint[Response] = endpoint) -> Response:
            # One invocation answers one request: blocking here blocks nobody, and a thread would only cost.
            return _answer(endpoint, request)

        for path in endpoint.starlette_paths():
            app.add_route(path, call, methods=[endpoint.method])
    app.add_exception_handler(404, _no_route)
    app.add_exception_handler(405, _no_route)
    _ensure_event_loop()
    mangum = Mangum(app, lifespan="off", custom_handlers=[_DecodedPath])

    def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        _ensure_event_loop()
        return dict(mangum(event, context))

    return lambda_handler


def _ensure_event_loop() -> None:
    """Give the thread the event loop on which Mangum runs the application.

    No thread has one by itself since Python 3.12, and one that ``asyncio.run`` was used on has none any more: so the
    loop of this thread is kept here and set again before each request.
    """
    if getattr(_loops, "loop", None) is None:
        _loops.loop = asyncio.new_event_loop()
    asyncio.set_event_loop(_loops.loop)


_loops = threading.local()
