"""Redaction: what is left of an event when everything the protocol does not need is taken away.

Source: Matrix v1.19, client-server API, "Redactions", and "Redactions" of each room version.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RedactionRules, RoomVersionRules

_NOTHING: frozenset[str] = frozenset()


def redact(pdu: Mapping[str, Any], rules: RoomVersionRules) -> dict[str, Any]:
    """A redacted copy of an event: only the top-level and content keys that its room version protects.

    Values are shared with the original, not copied. Takes any JSON object, well formed or not.
    """
    redaction = rules.redaction
    top_level = redaction.top_level
    redacted = {key: value for key, value in pdu.items() if key in top_level}
    if "content" in redacted:
        redacted["content"] = _redact_content(redacted.get("type"), redacted["content"], redaction)
    return redacted


def redact_event(event: Event) -> Event:
    """The same event with a redacted PDU; its ID stays, since the ID is computed from what redaction leaves."""
    return replace(event, pdu=redact(event.pdu, event.rules))


def _redact_content(event_type: Any, content: Any, redaction: RedactionRules) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {}
    kept_keys = redaction.content.get(event_type, _NOTHING) if isinstance(event_type, str) else _NOTHING
    if kept_keys is None:
        return content
    kept = {key: content[key] for key in kept_keys if key in content}
    if redaction.member_third_party_signed and event_type == "m.room.member":
        third_party = content.get("third_party_invite")
        if isinstance(third_party, dict):
            # An object without `signed` is left as an empty object: other servers compute event IDs so.
            kept["third_party_invite"] = {key: third_party[key] for key in ("signed",) if key in third_party}
    return kept
