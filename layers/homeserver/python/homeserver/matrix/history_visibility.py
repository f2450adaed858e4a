"""Who may see an event: the history visibility and the reader's membership at that event decide.

Source: client-server API v1.19, "Room History Visibility".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

WORLD_READABLE: Final = "world_readable"
SHARED: Final = "shared"
INVITED: Final = "invited"
JOINED: Final = "joined"
_KNOWN: Final = frozenset({WORLD_READABLE, SHARED, INVITED, JOINED})


def visibility_of(content: Mapping[str, Any] | None) -> str:
    """The visibility that the content of an `m.room.history_visibility` event sets.

    `shared` where the room has no such event (None), or its value is none of the four that are known.
    """
    value = None if content is None else content.get("history_visibility")
    return value if isinstance(value, str) and value in _KNOWN else SHARED


@dataclass(frozen=True, slots=True)
class ReaderState:
    """What one state of the room says about a reader.

    `visibility` is what `visibility_of` made of the state's `m.room.history_visibility`; `membership` is the reader's
    own (`leave` for someone who was never in the room).
    """

    visibility: str
    membership: str

    def allows(self, *, joined_since: bool) -> bool:
        """Whether an event at this state may be seen; `joined_since` as in `can_see_event`."""
        # Anyone may read while the room is open to the world.
        if self.visibility == WORLD_READABLE:
            return True
        # Who was in the room when it happened may always read it.
        if self.membership == "join":
            return True
        # Under `shared`, joining later opens what was said before, from any earlier time.
        if self.visibility == SHARED and joined_since:
            return True
        # Under `invited`, what happens between invitation and join is open to the invited.
        return self.visibility == INVITED and self.membership == "invite"


def can_see_event(before: ReaderState, after: ReaderState, *, joined_since: bool) -> bool:
    """Whether a user may see an event.

    before, after: the event's own state before it and after it, as far as the reader is concerned. For a message they
        are the same. They differ for exactly two events: an `m.room.history_visibility` event and the reader's own
        `m.room.member` event; for both, the specification lets either state open the event.
    joined_since: whether the reader is joined now, or was at any time after the event. That the event is itself
        the reader's join needs no mention: `after` says so.
    """
    return before.allows(joined_since=joined_since) or after.allows(joined_since=joined_since)
