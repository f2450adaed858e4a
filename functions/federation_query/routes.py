"""Endpoints at which other servers ask about users of this one."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import InvalidParam, MissingParam
from homeserver.matrix.identifiers import domain_of
from homeserver.services import profile
from homeserver.settings import settings
from homeserver.web.federation_authentication import authenticate_server
from homeserver.web.requests import json_response, query
from homeserver.web.routing import V1, Router

router = Router(federation=True)


@router.get("/_matrix/federation/{version}/query/profile", V1)
def query_profile(request: Request) -> Response:
    """GET /query/profile — "Performs a query to get profile information ... for a given user"."""
    authenticate_server(request)
    user_id = query(request, "user_id")
    if not user_id:
        raise MissingParam("user_id is required.")
    if domain_of(user_id) != settings().server_name:
        raise InvalidParam("This server answers for its own users only.")
    fields = profile.get_profile(user_id)
    wanted = query(request, "field")
    if wanted is not None:
        fields = {wanted: fields[wanted]} if wanted in fields else {}
    return json_response(fields)
