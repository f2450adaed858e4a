"""Which server asks: the `Authorization: X-Matrix` header of a request.

Source: Matrix v1.19, server-server API, "Request Authentication".

The signature is over the address as it was sent, of which API Gateway leaves the decoded path: `sent_uris` has the
spellings that are tried. All of them decode to the path that was routed, so what was verified is what is answered.
"""

from typing import Any

from starlette.requests import Request

from homeserver.matrix.canonical_json import NotCanonical, parse_json
from homeserver.matrix.errors import BadJson, Unauthorized
from homeserver.matrix.request_signing import verify_request
from homeserver.matrix.signing import SignatureError
from homeserver.matrix.x_matrix import parse_x_matrix
from homeserver.observability import log
from homeserver.services.clock import now_ms
from homeserver.services.server_keys import verify_keys
from homeserver.settings import settings
from homeserver.web.requests import raw_body
from homeserver.web.sent_uris import sent_uris


def authenticate_server(request: Request) -> str:
    """The name of the server that signed this request. May ask that server for its keys.

    Raises Unauthorized (401) for a request that is not signed, not signed for this server, or wrongly signed; NotJson
    for a body that is none, BadJson for one that nobody can have signed.
    """
    claimed = parse_x_matrix(request.headers.get("authorization", ""))
    own = settings().server_name
    # Servers from before v1.3 do not name the destination in the header; it is signed all the same.
    if claimed.destination is not None and claimed.destination != own:
        raise Unauthorized("The request is meant for another server.")
    if claimed.origin == own:
        raise Unauthorized("This server does not ask itself.")
    content = _content(request)
    keys = verify_keys(claimed.origin, claimed.signatures, valid_at_ms=now_ms(), rules=None)
    if not keys:
        raise _refused(request, claimed.origin, f"no key of {claimed.origin} that signed the request can be had")
    reason = ""
    for uri in sent_uris(request.scope["path"], request.scope["query_string"].decode("latin-1"), _tail(request)):
        try:
            verify_request(
                request.method,
                uri,
                origin=claimed.origin,
                destination=own,
                signatures=claimed.signatures,
                verify_keys=keys,
                content=content,
            )
        except SignatureError as error:
            reason = error.message
        except NotCanonical as error:
            raise BadJson(f"The body cannot be signed: {error}.") from None
        else:
            return claimed.origin
    raise _refused(request, claimed.origin, reason)


def _content(request: Request) -> Any:
    """The JSON that was signed; None where there is no body."""
    body = raw_body(request)
    return parse_json(body) if body.strip() else None


def _tail(request: Request) -> str:
    """The ID at the end of the path that has slashes in it, if there is one."""
    return next((value for value in reversed(request.path_params.values()) if "/" in value), "")


def _refused(request: Request, origin: str, reason: str) -> Unauthorized:
    log.info("refused a request that claims to be from %s: %s", origin, reason)
    return Unauthorized(f"The request is not signed as it must be: {reason}.")
