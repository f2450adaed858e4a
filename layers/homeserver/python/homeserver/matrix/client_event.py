"""Events as clients see them.

Source: client-server API v1.19, "Room event format", "Stripped state".
"""

from collections.abc import Mapping
from typing import Any

_CLIENT_KEYS = ("type", "sender", "content", "origin_server_ts")


def client_event(
    event_id: str,
    room_id: str | None,
    pdu: Mapping[str, Any],
    unsigned: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The event in client format; `room_id` is None where the answer names the room elsewhere (`/sync`).

    A redaction shows `redacts` at the top level and in its content, whatever its room version says: clients of
    either age find it.
    """
    event: dict[str, Any] = {key: pdu[key] for key in _CLIENT_KEYS}
    event["event_id"] = event_id
    if room_id is not None:
        event["room_id"] = room_id
    if "state_key" in pdu:
        event["state_key"] = pdu["state_key"]
    if pdu["type"] == "m.room.redaction":
        redacts = pdu.get("redacts", pdu["content"].get("redacts"))
        if isinstance(redacts, str):
            event["redacts"] = redacts
            event["content"] = {**pdu["content"], "redacts": redacts}
    if unsigned:
        event["unsigned"] = dict(unsigned)
    return event


def stripped_state_event(pdu: Mapping[str, Any]) -> dict[str, Any]:
    """A state event cut down to what someone who is not in the room may see of it."""
    return {key: pdu[key] for key in ("type", "state_key", "sender", "content")}


# What an invitation shows of a room. Source: client-server API v1.19, "Stripped state".
STRIPPED_STATE_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)
