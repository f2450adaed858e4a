"""What relates to an event.

Source: client-server API v1.19, "Forming relationships between events", `/relations`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.identifiers import is_event_id
from homeserver.matrix.relations import RECURSION_DEPTH
from homeserver.matrix.sync_token import RoomToken
from homeserver.matrix.timeline_place import after, before, place_number, place_of
from homeserver.services.access_tokens import Requester
from homeserver.services.aggregations import show_events
from homeserver.services.history import entry_of
from homeserver.services.room_state import timeline_token
from homeserver.services.visibility import Reader, reader_of
from homeserver.storage.connection import batch_get, in_parallel
from homeserver.storage.relations import Child, child_key, read_children
from homeserver.storage.timeline import Entry, read_entries

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
_SMALLEST_PAGE = 20
_MOST_PAGES = 10  # of children that are hidden or of other types, before an answer goes out nevertheless


@dataclass(frozen=True, slots=True)
class RelationsQuestion:
    """Which children of an event are asked for; None stands for all types, and for no bound."""

    event_id: str
    rel_type: str | None = None
    event_type: str | None = None
    backwards: bool = True
    start: str | None = None
    stop: str | None = None
    limit: int = DEFAULT_LIMIT
    recurse: bool | None = None


def relations(requester: Requester, room_id: str, question: RelationsQuestion) -> dict[str, Any]:
    """One page of an event's children: `chunk`, `next_batch` unless it is the last, `prev_batch` unless the first.

    Raises NotFound for an event that does not exist or that the requester may not see, InvalidParam for a token that
    is none.
    """
    if not is_event_id(question.event_id):
        raise NotFound("There is no such event in this room.")
    try:
        reader = reader_of(requester.user_id, room_id)
    except Forbidden as error:
        raise NotFound("There is no such event in this room.") from error
    last = reader.last_position
    begin = _number(timeline_token(question.start, reader, requester)) if question.start is not None else None
    until = _number(timeline_token(question.stop, reader, requester)) if question.stop is not None else None
    if question.backwards:
        low, high = after(until or 0), last if begin is None else min(begin, last)
    else:
        low, high = after(begin or 0), last if until is None else min(until, last)
    # The children are found by the event's ID alone: whether it may be seen is looked up beside it.
    _, (chunk, rest) = in_parallel(
        partial(entry_of, reader, question.event_id), partial(_page, reader, question, low, high)
    )
    answer: dict[str, Any] = {"chunk": show_events(reader, chunk, requester, room_id)}
    if rest is not None:
        answer["next_batch"] = rest.encode()
    if question.start is not None:
        answer["prev_batch"] = question.start
    if question.recurse is not None:
        answer["recursion_depth"] = RECURSION_DEPTH if question.recurse else 1
    return answer


def _number(token: RoomToken) -> float:
    return place_number(token.live, token.offset)


def _page(reader: Reader, question: RelationsQuestion, low: float, high: float) -> tuple[list[Entry], RoomToken | None]:
    """The entries of one page, and the place from which there may be more (None: there are none)."""
    room_id, backwards = reader.view.room_id, question.backwards
    shown: list[Entry] = []
    size = max(question.limit + 1, _SMALLEST_PAGE)
    for _ in range(_MOST_PAGES):
        children = read_children(
            room_id,
            question.event_id,
            low,
            high,
            descending=backwards,
            limit=size,
            nested=bool(question.recurse),
        )
        visible = _visible(reader, [child for child in children if _is_wanted(child, question)])
        for child in children:
            if child.event_id in visible:
                if len(shown) == question.limit:
                    place = place_of(child.position)
                    return shown, RoomToken(*place) if backwards else RoomToken.before(*place)
                shown.append(visible[child.event_id])
        if not children or len(children) < size:
            return shown, None
        # As many as the limit may still come from further pages, so that an empty page is never the last one told.
        end = children[-1].position
        low, high = (low, before(end)) if backwards else (after(end), high)
    return shown, RoomToken(*place_of(high if backwards else before(low)))


def _is_wanted(child: Child, question: RelationsQuestion) -> bool:
    return question.rel_type in {None, child.rel_type} and question.event_type in {None, child.type}


def _visible(reader: Reader, children: Iterable[Child]) -> dict[str, Entry]:
    """The children that the reader may see, by ID: one round. Of a nested one every link must still be there."""
    room_id = reader.view.room_id
    wanted = list(children)
    if not wanted:
        return {}
    links = {child_key(room_id, parent, position) for child in wanted for parent, position in child.links}
    read, linked = in_parallel(
        partial(read_entries, [(room_id, child.position) for child in wanted], aggregates=True),
        partial(batch_get, list(links), consistent=True) if links else dict,
    )
    found = [
        read[room_id, child.position]
        for child in wanted
        if (room_id, child.position) in read
        and read[room_id, child.position].event_id == child.event_id
        and all(child_key(room_id, *link) in linked for link in child.links)
    ]
    return {entry.event_id: entry for entry in reader.visible(found) if entry.event_id is not None}
