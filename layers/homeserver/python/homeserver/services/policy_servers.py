"""Asking a room's policy server about events: those of this server before they are sent, others when they come.

Source: Matrix v1.19, server-server API, "Policy Servers"; `POST /_matrix/policy/v1/sign`.
"""

import time
from collections.abc import Mapping

from homeserver.adapters.federation_http import FederationClient, FederationError, HttpError
from homeserver.matrix.errors import Forbidden, LimitExceeded, MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.policy_server import (
    PolicyServer,
    is_signed_by,
    needs_signature,
    policy_server_of,
    with_signature,
)
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.observability import log
from homeserver.settings import settings
from homeserver.storage.connection import batch_get
from homeserver.storage.room_items import AUTHORISING, Head, RemoteServer
from homeserver.storage.rooms import fetch_state_events

_LETTER = next(letter for letter, key in AUTHORISING.items() if key[0] == "m.room.policy")
_SECONDS = 10.0
_RETRY_AFTER_MS = 5_000
_MOST_REMEMBERED = 1_000
_REFUSED_FOR_S = 300.0
_MOST_BYTES = 64 * 1024
# Events of other servers that a policy server did not sign, by ID, and until when nobody asks again (monotonic).
_refused: dict[str, float] = {}


def policy_server(head: Head, authorising: Mapping[str, str] | None = None) -> PolicyServer | None:
    """The policy server that a room uses at this head; None at once for a room that names none, else in two rounds.

    `authorising`: the room's authorising state where a commit has changed it already.
    """
    named = (head.authorising if authorising is None else authorising).get(_LETTER)
    if named is None:
        return None
    found = fetch_state_events(head.room, [named], ROOM_VERSIONS[head.room_version])
    server = policy_server_of(found[named].event.content if named in found else None)
    if server is None:
        return None
    if server.name == settings().server_name:
        return server if head.local_members else None
    key = (RemoteServer, head.room, f"server/{server.name}")
    row = batch_get([key], consistent=True).get(key)
    return server if row is not None and row.members else None


def signed_for_sending(event: Event, server: PolicyServer) -> Event:
    """The event of a local user with the policy server's signature, which is asked for.

    Raises Forbidden with what the policy server said where it refuses, LimitExceeded where it is asked too often, and
    503 M_UNKNOWN where it cannot be asked: the event is not sent then, and may be tried again.
    """
    if not needs_signature(event) or is_signed_by(event, server):
        return event
    try:
        _, answer = _ask(event, server)
    except HttpError as error:
        if error.status == LimitExceeded.status:
            raise LimitExceeded(
                "The room's policy server is asked too often.", retry_after_ms=error.retry_after_ms or _RETRY_AFTER_MS
            ) from error
        if error.status in {400, 403}:
            raise Forbidden(error.error or "The room's policy server refuses this.", errcode=error.errcode) from error
        raise _unavailable(server, str(error)) from error
    except FederationError as error:
        raise _unavailable(server, str(error)) from error
    signed = with_signature(event, server, answer)
    if signed is None:
        raise _unavailable(server, "its answer has no signature that is valid by the room's key")
    return signed


def signed_on_receipt(event: Event, server: PolicyServer) -> Event | None:
    """The event of another server with the policy server's signature, asked for once where it has none; None without.

    Source: "Checks performed on receipt of a PDU", 7.
    """
    if not needs_signature(event) or is_signed_by(event, server):
        return event
    if _refused.get(event.event_id, 0.0) > time.monotonic():
        return None
    try:
        _, answer = _ask(event, server)
        signed = with_signature(event, server, answer)
        reason = "its answer has no valid signature"
    except FederationError as error:
        signed, reason = None, str(error)
    if signed is None:
        log.info("the policy server %s did not sign %s: %s", server.name, event.event_id, reason)
        _refused[event.event_id] = time.monotonic() + _REFUSED_FOR_S
        while len(_refused) > _MOST_REMEMBERED:
            _refused.pop(next(iter(_refused)), None)
    return signed


def _ask(event: Event, server: PolicyServer) -> tuple[int, object]:
    return FederationClient().request(
        "POST",
        server.name,
        "/_matrix/policy/v1/sign",
        content=dict(event.pdu),
        timeout_s=_SECONDS,
        max_bytes=_MOST_BYTES,
    )


def _unavailable(server: PolicyServer, reason: str) -> MatrixError:
    log.warning("the policy server %s cannot be asked: %s", server.name, reason)
    return MatrixError(
        "The room's policy server cannot be asked at the moment.",
        status=503,
        extra={"retry_after_ms": _RETRY_AFTER_MS},
        headers={"Retry-After": str(_RETRY_AFTER_MS // 1000)},
    )
