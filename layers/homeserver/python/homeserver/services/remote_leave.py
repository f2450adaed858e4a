"""Rejecting an invitation to, or taking back a knock at, a room that this server is not in.

A worker does it, as it does joins: the room's other servers are told even if the request ends before they answer, and
who joins and leaves at once is taken one after the other. If nobody can be told, the user is rid of the invitation
nevertheless: then the leave is an event that only this server has.

Source: Matrix v1.19, server-server API, "Leaving Rooms (Rejecting Invites)"; client-server API, "Leaving rooms".
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.adapters.federation_http import FederationError
from homeserver.adapters.signing_key import signing_key
from homeserver.matrix.errors import Forbidden, MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.event_format import MAX_AUTH_EVENTS
from homeserver.observability import fault_point, log
from homeserver.services.clock import now_ms
from homeserver.services.remote_handshake import Asked, make, membership_event, send
from homeserver.services.send_event import NOT_IN_ROOM
from homeserver.services.stub_rooms import PENDING, record_out_of_band, stub_of
from homeserver.settings import settings

# Short of what the request waits: who declines an invitation from a dead server is not to be told of a time-out.
_LEAVE_S, _SEND_S = 18.0, 10.0
_MOST_BYTES = 64 * 1024


def leave_elsewhere(room_id: str, user_id: str, content: Mapping[str, Any], servers: Sequence[str]) -> str | None:
    """End the invitation or the knock of a local user; returns the ID of the leave, also of one that was made before.

    None where this server came into the room meanwhile: then the user has to leave it here. Raises Forbidden for a user
    who is neither invited nor knocking.
    """
    stub = stub_of(room_id, user_id)
    if stub is None or stub.membership not in {*PENDING, "leave"}:
        raise Forbidden(NOT_IN_ROOM)
    if stub.membership == "leave":
        return stub.event.event_id
    taken = _leave_through(room_id, user_id, content, servers)
    event, server = taken or (_local_leave(stub.event, user_id, content), "")
    fault_point("remote_leave.answered")
    return event.event_id if record_out_of_band(event, (), invite_from=server) else None


def _leave_through(
    room_id: str, user_id: str, content: Mapping[str, Any], servers: Sequence[str]
) -> tuple[Event, str] | None:
    """The leave that one of the servers has taken, and which; None if none has."""
    asked = Asked("leave", seconds=_LEAVE_S)
    for server in servers:
        if not asked.has_time():
            break
        try:
            template = make("leave", server, room_id, user_id, asked)
            event = membership_event(template, room_id, user_id, content)
            fault_point("remote_leave.signed")
            send("leave", server, event, asked, timeout_s=_SEND_S, max_bytes=_MOST_BYTES)
        except (FederationError, MatrixError) as error:
            log.info("%s does not let %s leave %s: %s", server, user_id, room_id, error)
            continue
        return event, server
    return None


def _local_leave(pending: Event, user_id: str, content: Mapping[str, Any]) -> Event:
    """A leave after the invitation or the knock itself, which is all that is known of the room."""
    hashes = {edge[0]: edge[1].get("sha256") for edge in pending.pdu["auth_events"] if not isinstance(edge, str)}
    others = [Edge(event_id, 0, hashes.get(event_id)) for event_id in pending.auth_event_ids]
    return build_event(
        EventDraft("m.room.member", content, user_id),
        rules=pending.rules,
        room_id=pending.room_id,
        sender=user_id,
        prev_events=[Edge.to(pending)],
        auth_events=[Edge.to(pending), *others][:MAX_AUTH_EVENTS],
        origin_server_ts=now_ms(),
        server_name=settings().server_name,
        key=signing_key(),
        opaque_id=secrets.token_urlsafe(18) if pending.rules.hashed_edges else None,
    )
