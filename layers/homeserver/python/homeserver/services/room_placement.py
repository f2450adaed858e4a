"""Where an event stands in a room, and what that changes there: what receiving, entering and drafting share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import Edge
from homeserver.storage.room_items import AUTHORISING, Head
from homeserver.storage.rooms import StateKey

Changes = Mapping[StateKey, tuple[str | None, str | None]]  # event IDs before and after
LETTERS = {key: letter for letter, key in AUTHORISING.items()}
# Events that move a room up in a list, as sliding sync's `bump_stamp` counts them.
BUMPING_TYPES = frozenset(
    {
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
    }
)


class Raced(Exception):
    """Somebody else changed the room first; nothing was written. Wait, read the room again, and try again."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an event of another server stands: its own state before and after it, and the room's state with it.

    `extremities` are the room's forward extremities with the event, the newest last. `gap`: its parents that have no
    place here, which makes it an anchor. `origin`: "remote", or "relay" if this server has to send it on.
    """

    before: bytes
    after: bytes
    room_root: bytes
    extremities: Sequence[Edge]
    cover: bytes | None = None
    chain_item: str | None = None
    was_outlier: bool = False
    is_hidden: bool = False
    redacted_because: Event | None = None
    gap: Sequence[str] = ()
    origin: str = "remote"


def edges_of(head: Head) -> list[Edge]:
    """The forward extremities of a room, the newest last."""
    depth = int(head.depth)
    return [Edge(e, depth) if isinstance(e, str) else Edge(e[0], depth, e[1]) for e in head.extremities]
