"""An event (PDU): the JSON exactly as it was signed, with its ID and room beside it.

Source: server-server API v1.19, "PDUs", and "Event format" of each room version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.room_versions import RoomVersionRules


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event of a room.

    `pdu` is the federation format with `hashes` and `signatures`; it must not be changed. `unsigned` is in it only
    where a state event was redacted: the redaction, with its ID, as `redacted_because`.
    `room_id` and `event_id` stand beside it because from room version 3 the ID, and for the create event of
    version 12 the room, are computed from the event and are not part of it. Two events are equal when their
    IDs are. `rejected` says that the authorisation rules refused it: it then counts for no state.
    """

    event_id: str
    room_id: str
    pdu: Mapping[str, Any]
    rules: RoomVersionRules
    rejected: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and other.event_id == self.event_id

    def __hash__(self) -> int:
        return hash(self.event_id)

    @property
    def type(self) -> str:
        return self.pdu["type"]  # type: ignore[no-any-return]

    @property
    def sender(self) -> str:
        return self.pdu["sender"]  # type: ignore[no-any-return]

    @property
    def content(self) -> Mapping[str, Any]:
        return self.pdu["content"]  # type: ignore[no-any-return]

    @property
    def state_key(self) -> str | None:
        """The state key, or None for a message event."""
        return self.pdu.get("state_key")

    @property
    def is_state(self) -> bool:
        return "state_key" in self.pdu

    @property
    def key(self) -> tuple[str, str]:
        """`(type, state_key)`; only for state events."""
        return self.pdu["type"], self.pdu["state_key"]

    @property
    def origin_server_ts(self) -> int:
        """Milliseconds since 1970 by the clock of the sender's server."""
        return self.pdu["origin_server_ts"]  # type: ignore[no-any-return]

    @property
    def depth(self) -> int:
        return self.pdu["depth"]  # type: ignore[no-any-return]

    @property
    def prev_event_ids(self) -> list[str]:
        return _edge_ids(self.pdu["prev_events"])

    @property
    def auth_event_ids(self) -> list[str]:
        return _edge_ids(self.pdu["auth_events"])

    @property
    def redacts(self) -> str | None:
        """The event that this redaction redacts, wherever its room version puts it."""
        value = self.content.get("redacts") if self.rules.redacts_in_content else self.pdu.get("redacts")
        return value if isinstance(value, str) else None


def _edge_ids(edges: list[Any]) -> list[str]:
    # Room versions 1 and 2 name an edge as [event_id, {"sha256": hash}].
    return [edge if isinstance(edge, str) else edge[0] for edge in edges]
