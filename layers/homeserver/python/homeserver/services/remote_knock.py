"""Knocking at a room through another server.

A worker does it, as it does joins: what is written is the same as for an invitation, and who knocks and joins at once
is taken one after the other.

Source: Matrix v1.19, server-server API, "Knocking upon a room"; client-server API, "Knocking on rooms".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.adapters.federation_http import BadAnswer, FederationError
from homeserver.matrix.errors import MatrixError
from homeserver.observability import fault_point
from homeserver.services.remote_handshake import Asked, make, membership_event, send
from homeserver.services.stub_rooms import record_out_of_band, stub_of

_KNOCK_S, _SEND_S = 60.0, 20.0
_MOST_BYTES = 1024 * 1024
_MOST_STATE_EVENTS = 100


def knock_elsewhere(room_id: str, user_id: str, content: Mapping[str, Any], servers: Sequence[str]) -> str | None:
    """Knock through the first of some servers that lets a local user; returns the ID of the knock.

    Of who knocks already the ID of that knock. None where this server came into the room meanwhile: then the knock has
    to be made here. Raises what `Asked` says ends it; MatrixError (502) or NotFound where no server helps.
    """
    stub = stub_of(room_id, user_id)
    if stub is not None and stub.membership == "knock":
        return stub.event.event_id
    asked = Asked("knock", seconds=_KNOCK_S)
    for server in servers:
        if not asked.has_time():
            break
        try:
            template = make("knock", server, room_id, user_id, asked)
            if not template.rules.knocking:
                raise BadAnswer(server, "its template is for a room version without knocks")
            event = membership_event(template, room_id, user_id, content)
            fault_point("remote_knock.signed")
            answer = send("knock", server, event, asked, versions=["v1"], timeout_s=_SEND_S, max_bytes=_MOST_BYTES)
            state = answer.get("knock_room_state") if isinstance(answer, dict) else None
            if not isinstance(state, list):
                raise BadAnswer(server, "its answer to the knock has no room state")
        except (FederationError, MatrixError) as error:
            asked.failed(server, error)
            continue
        fault_point("remote_knock.answered")
        shown = [told for told in state[:_MOST_STATE_EVENTS] if isinstance(told, dict)]
        return event.event_id if record_out_of_band(event, shown, invite_from=server) else None
    raise asked.verdict()
