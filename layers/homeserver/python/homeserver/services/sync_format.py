"""Events as a sync filter wants them: for clients or as they came over federation, whole or in parts.

Source: client-server API v1.19, "Filtering", `event_format` and `event_fields`.
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.event import Event
from homeserver.matrix.filters import Filter, project_event_fields
from homeserver.services.access_tokens import Requester
from homeserver.services.event_view import show, show_state
from homeserver.storage.timeline import Entry


def timeline_event(
    entry: Entry,
    requester: Requester,
    wanted: Filter,
    *,
    membership: str | None = None,
    relations: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A timeline entry without its room ID, or the PDU of it. Not for markers. `membership`, `relations`: as `show`."""
    shown = show(entry, None, requester, membership=membership, relations=relations)
    return formatted(shown, entry.pdu or {}, wanted)


def state_event(event: Event, wanted: Filter) -> dict[str, Any]:
    """A state event without its room ID, or the PDU of it."""
    return formatted(show_state(event, None), event.pdu, wanted)


def formatted(shown: dict[str, Any], pdu: Mapping[str, Any], wanted: Filter) -> dict[str, Any]:
    """The event that is `shown` to clients in the format of the filter, projected to its fields.

    The PDU is the raw event with the two things that no client can do without: its ID and `unsigned`.
    """
    if wanted.event_format == "federation":
        shown = {**pdu, "event_id": shown["event_id"], "unsigned": shown.get("unsigned", {})}
    return shown if wanted.event_fields is None else project_event_fields(shown, wanted.event_fields)
