"""Endpoints for transactions of other servers."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import BadJson
from homeserver.services.outgoing_ledger import pull
from homeserver.services.received_transaction import receive_transaction
from homeserver.web.federation_authentication import authenticate_server
from homeserver.web.requests import json_object, json_response, query, raw_body
from homeserver.web.routing import V1, Router

router = Router(federation=True)


@router.put("/_matrix/federation/{version}/send/{txn_id...}", V1)
def send_transaction(request: Request, txn_id: str) -> Response:
    """PUT /send/{txnId} — "Push messages representing live activity to another server"."""
    origin = authenticate_server(request)
    if not raw_body(request).strip():
        raise BadJson("The body must be a JSON object.")
    # Servers of the draft's time end the address with a slash.
    answer = receive_transaction(origin, txn_id.removesuffix("/"), json_object(request))
    return json_response(answer)


@router.get("/_matrix/federation/{version}/pull", V1)
@router.get("/_matrix/federation/{version}/pull/", V1)
def pull_transactions(request: Request) -> Response:
    """GET /pull/ — of the draft: everything that was sent to a server after the latest transaction that it knows."""
    requester = authenticate_server(request)
    known = request.query_params.getlist("v")
    return json_response(pull(requester, query(request, "origin") or requester, known))
