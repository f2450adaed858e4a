"""Events as they go to other servers: which of a room's positions concern whom, read as they are now.

An event goes to the servers that are in the room at its position, but not to the one of its sender. What takes somebody
of another server out of the room also goes to that server. Only events of this server go out, and those that joining
and leaving servers handed in here; everything else its own server sends.

Source: server-server API v1.19, "Transactions", "PDUs".
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from homeserver.matrix.identifiers import domain_of, is_server_name
from homeserver.settings import settings
from homeserver.storage.ephemeral import RoomEphemeral
from homeserver.storage.outbound import Span, read_ephemeral_item
from homeserver.storage.timeline import Entry, read_positions

OURS = frozenset({"local", "relay"})
AT_ONCE = 100  # positions that are read at a time
_TORN_READS, _TORN_PAUSE_S = 20, 0.02


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event that other servers are sent. `origin` made it; `removed`: the server of the user whom it takes out."""

    position: int
    event_id: str
    pdu: Mapping[str, Any]
    origin: str
    removed: str | None
    arrived: int

    def goes_to(self, server: str, span: Span | None) -> bool:
        """Whether a server is sent the event; `span` is its time in the room, None if it never was there."""
        if server in {self.origin, settings().server_name}:
            return False
        return server == self.removed or (span is not None and span.covers(self.position))


def read_outgoing(room_id: str, low: int, high: int) -> list[OutgoingEvent]:
    """The events from position low to high that other servers are sent, without what was redacted since.

    All the positions must have been committed. Raises TimeoutError where the store does not show one of them, as it may
    for a moment.
    """
    entries: list[Entry] = []
    if high < low:
        return []
    for _ in range(_TORN_READS):
        entries += read_positions(room_id, low + len(entries), high)
        if len(entries) == high - low + 1:
            break
        time.sleep(_TORN_PAUSE_S)
    else:
        raise TimeoutError(f"position {low + len(entries)} of {room_id} cannot be read")
    return [_outgoing(entry, entry.pdu) for entry in entries if entry.origin in OURS and entry.pdu is not None]


def _outgoing(entry: Entry, pdu: Mapping[str, Any]) -> OutgoingEvent:
    sent = {key: value for key, value in pdu.items() if key != "unsigned"}
    origin = domain_of(pdu["sender"])
    return OutgoingEvent(entry.position, str(entry.event_id), sent, origin, _removed(pdu), entry.arrived)


def _removed(pdu: Mapping[str, Any]) -> str | None:
    if pdu["type"] != "m.room.member" or pdu.get("state_key") in {None, pdu["sender"]}:
        return None
    server = domain_of(pdu["state_key"])
    return server if pdu["content"].get("membership") in {"leave", "ban"} and is_server_name(server) else None


class RoomReader:
    """What one batch reads of rooms, once for all servers it sends to; used by several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._events: dict[tuple[str, int, int], list[OutgoingEvent]] = {}
        self._ephemeral: dict[str, RoomEphemeral] = {}

    def events(self, room_id: str, low: int, high: int) -> list[OutgoingEvent]:
        """As `read_outgoing`; positions are read a hundred at a time."""
        found: list[OutgoingEvent] = []
        for start in range(low, high + 1, AT_ONCE):
            key = (room_id, start, min(high, start + AT_ONCE - 1))
            with self._lock:
                if key not in self._events:
                    self._events[key] = read_outgoing(*key)
                found += self._events[key]
        return found

    def ephemeral(self, room_id: str) -> RoomEphemeral:
        """The room's ephemeral item."""
        with self._lock:
            if room_id not in self._ephemeral:
                self._ephemeral[room_id] = read_ephemeral_item(room_id)
            return self._ephemeral[room_id]
