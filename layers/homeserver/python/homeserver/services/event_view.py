"""Stored events as the user who asks sees them.

Source: client-server API v1.19, "Room event format", `unsigned`.
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.client_event import client_event
from homeserver.matrix.event import Event
from homeserver.services.access_tokens import Requester
from homeserver.services.clock import now_ms
from homeserver.storage.timeline import Entry


def show(
    entry: Entry,
    room_id: str | None,
    requester: Requester,
    *,
    membership: str | None = None,
    relations: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A timeline entry in client format; `room_id` None leaves it out, as `/sync` does. Not for markers.

    `membership` is the requester's at the event (`Reader.membership_at`), `relations` its bundled aggregations
    (`services.aggregations`).
    """
    pdu = entry.pdu
    if pdu is None or entry.event_id is None:
        raise ValueError("a marker is not an event")
    unsigned: dict[str, Any] = {"age": max(0, now_ms() - pdu["origin_server_ts"])}
    if entry.transaction is not None and pdu["sender"] == requester.user_id:
        device, _, txn = entry.transaction.partition("\n")
        if device == requester.device_id:
            unsigned["transaction_id"] = txn
    if entry.replaces is not None:
        unsigned["replaces_state"] = entry.replaces
        # It is removed when the event that was replaced is redacted.
        if entry.redacted_because is None and entry.previous is not None:
            unsigned["prev_content"] = entry.previous
    if entry.redacted_because is not None:
        because = entry.redacted_because
        unsigned["redacted_because"] = client_event(because["event_id"], room_id, because)
    if membership is not None:
        unsigned["membership"] = membership
    if relations:
        unsigned["m.relations"] = dict(relations)
    return client_event(entry.event_id, room_id, pdu, unsigned)


def show_state(event: Event, room_id: str | None) -> dict[str, Any]:
    """A state event in client format."""
    pdu: Mapping[str, Any] = event.pdu
    unsigned: dict[str, Any] = {"age": max(0, now_ms() - event.origin_server_ts)}
    because = pdu.get("unsigned", {}).get("redacted_because")
    if because is not None:
        unsigned["redacted_because"] = client_event(because["event_id"], room_id, because)
    return client_event(event.event_id, room_id, pdu, unsigned)
