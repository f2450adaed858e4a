"""The threads of a room.

Source: client-server API v1.19, "Threading", `/threads`.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from homeserver.matrix.redaction import redact
from homeserver.matrix.sync_token import RoomToken
from homeserver.matrix.timeline_place import before, place_number, place_of
from homeserver.services.access_tokens import Requester
from homeserver.services.aggregations import show_events
from homeserver.services.ignored_users import ignored_by
from homeserver.services.visibility import Reader, reader_of
from homeserver.storage import relations
from homeserver.storage.connection import in_parallel
from homeserver.storage.relations import Thread
from homeserver.storage.timeline import Entry, read_entries

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
_SMALLEST_PAGE = 20
_MOST_PAGES = 10  # of threads that are hidden or without the user, before an answer goes out nevertheless


def threads(requester: Requester, room_id: str, *, participated: bool, start: str | None, limit: int) -> dict[str, Any]:
    """One page of the roots of a room's threads, by their latest reply, newest first: `chunk`, `next_batch`.

    `participated`: only threads that the requester began or replied in. Raises Forbidden, or InvalidParam for a token
    that is none of this list.
    """
    begin = RoomToken.decode(start) if start is not None else None
    reader, ignored = in_parallel(
        partial(reader_of, requester.user_id, room_id), partial(ignored_by, requester.user_id)
    )
    # The newest of all, whoever may see its latest reply: the roots are what has to be seen.
    last = int(reader.view.head.position)
    high = last if begin is None else min(place_number(begin.live, begin.offset), last)
    chunk: list[Entry] = []
    size = max(limit + 1, _SMALLEST_PAGE)
    rest: float | None = None
    for _ in range(_MOST_PAGES):
        page = relations.read_threads(room_id, high, size)
        roots = _visible_roots(reader, page, participated=participated)
        rest = None
        for thread in page:
            root = roots.get(thread.root)
            if root is not None:
                if len(chunk) == limit:
                    rest = thread.latest
                    break
                chunk.append(root)
        if rest is not None or len(page) < size:
            break
        rest = high = before(page[-1].latest)
    hidden = [_without_content(reader, root) if (root.pdu or {})["sender"] in ignored else root for root in chunk]
    shown = show_events(reader, hidden, requester, room_id, ignored=ignored)
    # A thread in which the reader sees no reply is none to them.
    answer: dict[str, Any] = {"chunk": [r for r in shown if "m.thread" in r["unsigned"].get("m.relations", {})]}
    if rest:
        answer["next_batch"] = RoomToken(*place_of(rest)).encode()
    return answer


def _visible_roots(reader: Reader, page: list[Thread], *, participated: bool) -> dict[str, Entry]:
    room_id, user_id = reader.view.room_id, reader.user_id
    found = read_entries(((room_id, thread.root_position) for thread in page), aggregates=True)
    roots = {entry.event_id: entry for entry in reader.visible(list(found.values())) if entry.event_id is not None}
    if not participated:
        return roots
    own, unsure = {}, []
    for event_id, root in roots.items():
        senders = root.aggregate.senders if root.aggregate is not None else {}
        if user_id in senders or (root.pdu or {})["sender"] == user_id:
            own[event_id] = root
        elif root.aggregate is not None and root.aggregate.is_partial:
            unsure.append(event_id)
    if unsure:
        own |= {event_id: roots[event_id] for event_id in relations.participates(room_id, unsure, user_id)}
    return own


def _without_content(reader: Reader, root: Entry) -> Entry:
    """The root as if it was redacted: "If the thread root event was sent by an ignored user"."""
    pdu = redact(root.pdu or {}, reader.view.rules)
    edited = replace(root.aggregate, edit=None, edits=0) if root.aggregate is not None else None
    return replace(root, pdu=pdu, aggregate=edited, previous=None)
