"""Events as the draft of 2014 would have shown them: "PDUs" with `context`, `pdu_type`, `prev_pdus`.

A view to look at: it has neither hashes nor signatures, so nothing takes it for an event, and there is no way back.

| The draft | Today |
|---|---|
| `pdu_id`, `origin` | the event's ID; the server of its sender |
| `context`, `pdu_type`, `user_id`, `ts` | `room_id`, `type`, `sender`, `origin_server_ts` |
| `prev_pdus` | `prev_events`, each with the server of that event's sender |
| `is_state`, `state_key` | whether there is a `state_key` |
| `power_level`, `required_power_level` | of the sender, and to send such an event, before it (state only) |
| `prev_state_id`, `prev_state_origin` | the event that had the state's key before (state only) |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.power_levels import INFINITE_POWER, PowerLevel, PowerLevels

# The power of a creator in room version 12 has no number; this is the greatest integer of JSON as Matrix has it.
GREATEST_LEVEL = 2**53 - 1


@dataclass(frozen=True, slots=True)
class SeedState:
    """What the draft's view says of a state event beside the event: levels in force before it, and what it replaced."""

    power_level: PowerLevel
    required_power_level: int
    replaced: Event | None = None

    @classmethod
    def before(cls, event: Event, levels: PowerLevels, replaced: Event | None) -> "SeedState":
        """By the power levels of the state before the event, and the event that had its key there."""
        return cls(levels.user_level(event.sender), levels.event_level(event.type, is_state=True), replaced)


def to_seed_view(event: Event, origins: Mapping[str, str], state: SeedState | None = None) -> dict[str, Any]:
    """The view of an event. `origins`: the servers of its parents' senders, by event ID; `state`: of a state event.

    A parent whose server is not known has an empty name there. Without `state`, where what was before a state event is
    not known, its levels and what it replaced are left out.
    """
    view: dict[str, Any] = {
        "pdu_id": event.event_id,
        "origin": domain_of(event.sender),
        "context": event.room_id,
        "pdu_type": event.type,
        "ts": event.origin_server_ts,
        "prev_pdus": [[parent, origins.get(parent, "")] for parent in event.prev_event_ids],
        "depth": event.depth,
        "is_state": event.is_state,
        "user_id": event.sender,
        "content": dict(event.content),
    }
    if event.is_state:
        view["state_key"] = event.state_key
    if state is None:
        return view
    view |= {
        "power_level": GREATEST_LEVEL if state.power_level == INFINITE_POWER else state.power_level,
        "required_power_level": state.required_power_level,
    }
    if state.replaced is not None:
        view |= {"prev_state_id": state.replaced.event_id, "prev_state_origin": domain_of(state.replaced.sender)}
    return view


def seed_transaction(origin: str, ts: int, views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the draft answers with views in: a transaction that follows on none. `ts`: milliseconds."""
    return {"origin": origin, "ts": ts, "pdus": list(views), "prev_ids": []}
