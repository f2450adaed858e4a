"""Endpoints that need no signature, because signatures begin with them: keys, and what software this is."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import BadJson, InvalidParam, TooLarge
from homeserver.matrix.identifiers import is_server_name
from homeserver.services import discovery, rate_limits
from homeserver.services.clock import now_ms
from homeserver.services.server_keys import KeyQuery, notary_answers, own_answer, seed_answer
from homeserver.web.requests import field, json_object, json_response, query_integer, source_address
from homeserver.web.routing import V1, Router

router = Router(federation=True)
ANY = ("",)  # the version of these paths is not among those of the client API
MOST_SERVERS = 100  # in one question
_MOST_TIME = 2**53 - 1


@router.get("/_matrix/federation/{version}/version", V1)
def get_version(request: Request) -> Response:
    """GET /version — "Get the implementation name and version of this homeserver"."""
    return json_response(discovery.software())


@router.get("/_matrix/key/v2/server", ANY)
def get_server_keys(request: Request) -> Response:
    """GET /_matrix/key/v2/server — "Gets the homeserver's published signing keys"."""
    return json_response(own_answer(), headers={"Cache-Control": "public, max-age=3600"})


@router.get("/_matrix/key/v1", ANY)
def get_seed_keys(request: Request) -> Response:
    """GET /_matrix/key/v1 — of the draft: the key in use."""
    return json_response(seed_answer(), headers={"Cache-Control": "public, max-age=3600"})


@router.get("/_matrix/key/v2/query/{server_name}", ANY)
def query_keys_of_server(request: Request, server_name: str) -> Response:
    """GET /_matrix/key/v2/query/{serverName} — "Query for another server's keys"."""
    if not is_server_name(server_name):
        raise InvalidParam("This is not a server name.")
    minimum = query_integer(request, "minimum_valid_until_ts", now_ms(), maximum=_MOST_TIME)
    rate_limits.take_key_query(source_address(request))
    return json_response({"server_keys": notary_answers({server_name: KeyQuery(frozenset(), minimum)})})


@router.post("/_matrix/key/v2/query", ANY)
def query_keys(request: Request) -> Response:
    """POST /_matrix/key/v2/query — "Query for keys from multiple servers in a batch format"."""
    wanted = field(json_object(request), "server_keys", dict, required=True)
    if len(wanted) > MOST_SERVERS:
        raise TooLarge(f"One question may be about {MOST_SERVERS} servers.")
    now = now_ms()
    queries = {server: _criteria(server, keys, now) for server, keys in wanted.items()}
    rate_limits.take_key_query(source_address(request))
    return json_response({"server_keys": notary_answers(queries)})


def _criteria(server: str, keys: object, now: int) -> KeyQuery:
    if not isinstance(keys, Mapping):
        raise BadJson(f"What is wanted of {server} must be an object.")
    minimum = 0 if keys else now
    for criteria in keys.values():
        if not isinstance(criteria, Mapping):
            raise BadJson("The criteria of a key must be an object.")
        asked = field(criteria, "minimum_valid_until_ts", int)
        minimum = max(minimum, now if asked is None else asked)
    return KeyQuery(frozenset(keys), minimum)
