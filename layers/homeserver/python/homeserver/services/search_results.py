"""What a search tells of its results: context, profiles, the state of rooms, groups.

Source: client-server API v1.19, "Server Side Search".
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.search_cursor import SearchCursor, room_hash
from homeserver.matrix.search_terms import Match
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.aggregations import show_events
from homeserver.services.event_view import show
from homeserver.services.room_state import room_state
from homeserver.services.visibility import Reader
from homeserver.storage.connection import in_parallel
from homeserver.storage.rooms import fetch_state_events
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import Entry, read_entries, read_positions

MAX_CONTEXT = 10
DEFAULT_CONTEXT = 5
_MOST_BYTES = 3_000_000  # of an answer
_SHOWN_PROFILE = ("displayname", "avatar_url")


@dataclass(frozen=True, slots=True)
class EventContext:
    """How many events around a result are wanted, and whether the profiles of all senders are."""

    before: int = DEFAULT_CONTEXT
    after: int = DEFAULT_CONTEXT
    include_profile: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A result in the room of a reader.

    `order` is when it arrived (milliseconds), but within a room it falls with the position, whatever clocks said.
    """

    reader: Reader
    entry: Entry
    match: Match
    order: int

    @property
    def room_id(self) -> str:
        return self.reader.view.room_id

    @property
    def place(self) -> tuple[str, int]:
        """Room and position."""
        return self.room_id, self.entry.position


def show_results(
    requester: Requester, page: Sequence[Found], wanted: EventContext | None, ignored: AbstractSet[str]
) -> tuple[list[dict[str, Any]], list[Found]]:
    """The results of a page, newest first, and which of the page there was room for."""
    shown = _shown(requester, page, ignored)
    contexts: list[dict[str, Any] | None] = [None] * len(page)
    if wanted is not None:
        contexts = in_parallel(*[partial(_context, requester, found, wanted) for found in page])
    results: list[dict[str, Any]] = []
    size = 0
    for found, context in zip(page, contexts, strict=True):
        event = shown[found.place]
        result = {"rank": found.match.rank, "result": event, **({} if context is None else {"context": context})}
        size += _size(result)
        if results and size > _MOST_BYTES:
            break
        results.append(result)
    return results, list(page[: len(results)])


def _shown(
    requester: Requester, page: Sequence[Found], ignored: AbstractSet[str]
) -> dict[tuple[str, int], dict[str, Any]]:
    """The results in client format by place, with what relates to them: one round, then the rooms at the same time."""
    # Only what lies before the last change of an aggregate can have one.
    related = [found.place for found in page if found.place[1] < int(found.reader.view.head.aggregate_position)]
    read = read_entries(related, aggregates=True) if related else {}
    rooms: dict[str, list[Found]] = {}
    for found in page:
        rooms.setdefault(found.room_id, []).append(found)

    def show_room(results: Sequence[Found]) -> list[dict[str, Any]]:
        entries = [read.get(found.place, found.entry) for found in results]
        return show_events(results[0].reader, entries, requester, results[0].room_id, ignored=ignored)

    told = in_parallel(*[partial(show_room, results) for results in rooms.values()])
    return {
        found.place: event
        for results, events in zip(rooms.values(), told, strict=True)
        for found, event in zip(results, events, strict=True)
    }


def _size(value: Any) -> int:
    """About how many bytes a value has as JSON."""
    return len(repr(value).encode(errors="replace"))


def _context(requester: Requester, found: Found, context: EventContext) -> dict[str, Any]:
    """What is around a result, as far as the user may see it."""
    room_id, reader, entry = found.room_id, found.reader, found.entry
    at = entry.position
    # Twice as much as is wanted, because markers and what is hidden take positions too.
    low = max(1, at - 2 * context.before)
    high = min(reader.last_position, at + 2 * context.after)
    around = reader.visible([other for other in read_positions(room_id, low, high) if other.position != at])
    before = [other for other in around if other.position < at][::-1][: context.before]
    after = [other for other in around if other.position > at][: context.after]
    shown: dict[str, Any] = {
        "start": RoomToken.before(before[-1].position if before else at).encode(),
        "end": RoomToken(after[-1].position if after else at).encode(),
        "events_before": [show(other, room_id, requester) for other in before],
        "events_after": [show(other, room_id, requester) for other in after],
    }
    if context.include_profile:
        shown["profile_info"] = _profiles(reader, [*before, entry, *after], entry)
    return shown


def _profiles(reader: Reader, entries: Iterable[Entry], at: Entry) -> dict[str, dict[str, str]]:
    """The profiles that the senders had in the room when an entry was sent."""
    room_id = reader.view.room_id
    senders = {entry.pdu["sender"] for entry in entries if entry.pdu is not None}
    keys = [("m.room.member", sender) for sender in sorted(senders)]
    ids = state_tree.get_many(StateNodes(room_id), at.room_root, keys)
    profiles: dict[str, dict[str, str]] = {}
    for member in fetch_state_events(room_id, ids.values(), reader.view.rules).values():
        content, user_id = member.event.content, member.event.state_key or ""
        profiles[user_id] = {name: content[name] for name in _SHOWN_PROFILE if isinstance(content.get(name), str)}
    return profiles


def states_of(requester: Requester, page: Sequence[Found]) -> dict[str, list[dict[str, Any]]]:
    """The state of the results' rooms as the user may see it, until there is too much of it."""
    states: dict[str, list[dict[str, Any]]] = {}
    size = 0
    for room_id in dict.fromkeys(found.room_id for found in page):
        state = room_state(requester, room_id)
        size += _size(state)
        if states and size > _MOST_BYTES:
            break
        states[room_id] = state
    return states


def group_results(key: str, page: Sequence[Found], after: SearchCursor | None) -> dict[str, Any]:
    """The results by room or by sender: groups in the order of their newest result."""
    groups: dict[str, Any] = {}
    for found in page:
        room_id, pdu = found.room_id, found.entry.pdu
        value = room_id if key == "room_id" else str(pdu["sender"] if pdu is not None else "")
        group = groups.setdefault(value, {"order": len(groups), "results": []})
        group["results"].append(found.entry.event_id)
    for value, group in groups.items():
        more = _cursor_of_group(key, value, after)
        if more is not None:
            group["next_batch"] = more.encode()
    return groups


def _cursor_of_group(key: str, value: str, after: SearchCursor | None) -> SearchCursor | None:
    if after is None or after.group[0]:
        return after  # only one group is paged through at a time
    if key == "sender":
        return SearchCursor(after.told, (key, value), after.places)
    place = after.place(value)
    if place is None or place.position == 0:
        return None
    return SearchCursor(after.told, (key, value), {room_hash(value): place})
