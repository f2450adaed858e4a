"""Where events stand in a room's graph: what they refer to, and the states before and after them."""

from collections.abc import Iterable
from dataclasses import dataclass

from homeserver.matrix.event_ids import unpack_event_ids
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.room_items import EventRecord


@dataclass(frozen=True, slots=True)
class EventPlace:
    """An event in the graph of its room. An outlier has neither position nor states, a rejected one no position."""

    event_id: str
    room_id: str
    flags: str
    prev: tuple[str, ...]
    position: int | None
    before: bytes | None
    after: bytes | None

    @property
    def is_outlier(self) -> bool:
        """Whether nothing but the event itself and its authority are known."""
        return self.before is None

    @property
    def is_referable(self) -> bool:
        """Whether it was accepted: only then can it be a forward extremity."""
        return not self.flags.strip("h")

    @classmethod
    def of_record(cls, record: EventRecord) -> "EventPlace":
        """From a record; the state after a message is that before it."""
        before = bytes(record.state_before) if record.state_before is not None else None
        after = bytes(record.state_after) if record.state_after is not None else before
        return cls(
            record.event_id,
            record.room or "",
            record.flags or "",
            tuple(unpack_event_ids(bytes(record.prev))) if record.prev is not None else (),
            int(record.position) if record.position is not None else None,
            before,
            after,
        )


def read_places(event_ids: Iterable[str]) -> dict[str, EventPlace]:
    """The places of those of the events that are known, consistently: one round, or none."""
    keys: list[Key] = [(EventRecord, event_id, None) for event_id in event_ids]
    found = batch_get(keys, consistent=True).values() if keys else ()
    return {record.event_id: EventPlace.of_record(record) for record in found if record.room is not None}


def states_after(event_ids: Iterable[str]) -> dict[str, bytes]:
    """The root of the state after each of the events, which must have one. Raises LookupError."""
    wanted = list(event_ids)
    found = read_places(wanted)
    roots = {event_id: place.after for event_id, place in found.items() if place.after is not None}
    missing = [event_id for event_id in wanted if event_id not in roots]
    if missing:
        raise LookupError(f"the state after {missing[0]} is not known")
    return roots
