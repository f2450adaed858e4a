"""Calls of administrators: a function of its own, because it makes accounts and writes to whom it likes."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import InvalidParam
from homeserver.services.server_notices import send_server_notice
from homeserver.web.authentication import authenticate
from homeserver.web.requests import field, json_object, json_response
from homeserver.web.routing import V1, Router

router = Router()
_NOTICE = "/_synapse/admin/v1/send_server_notice"


@router.post(_NOTICE, V1)
@router.put(_NOTICE + "/{txn_id...}", V1)
def post_server_notice(request: Request, txn_id: str | None = None) -> Response:
    """POST /_synapse/admin/v1/send_server_notice, and PUT with a transaction ID that makes it safe to repeat."""
    requester = authenticate(request)
    body = json_object(request)
    if field(body, "type", str) not in {None, "m.room.message"} or body.get("state_key") is not None:
        raise InvalidParam("A notice is an event of type m.room.message, and no state event.")
    user_id: str = field(body, "user_id", str, required=True)
    content = field(body, "content", dict, required=True)
    return json_response({"event_id": send_server_notice(requester, user_id, content, txn_id=txn_id)})
