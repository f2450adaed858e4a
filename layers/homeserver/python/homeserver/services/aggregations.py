"""Bundled aggregations: what relates to an event, told with the event.

The aggregates came with the timeline, at no cost; what they name and the window does not have is one batch read. A
further round is taken only where the latest reply of a thread has aggregations of its own, and where someone may see
less than others: users who left the room, and users who ignore somebody who took part.

Source: client-server API v1.19, "Aggregations of child events", and "Server-side aggregation" of each relationship
type. Annotations are not aggregated.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from homeserver.matrix.relations import REFERENCE, REPLACE, THREAD, Aggregate, Edit
from homeserver.services.access_tokens import Requester
from homeserver.services.event_view import show
from homeserver.services.ignored_users import ignored_by
from homeserver.services.visibility import Reader
from homeserver.storage import relations
from homeserver.storage.connection import in_parallel
from homeserver.storage.timeline import Entry, read_entries

_MOST_REFERENCES = 1000
_MOST_REPLIES = 1000  # that are counted where the number in the aggregate is not the reader's
_TRIED_REPLIES = 10  # which may be hidden, until a thread counts as one without a reply that can be seen


@dataclass(slots=True)
class _Bundling:
    """What the aggregations of some events are made of, as far as it was read."""

    reader: Reader
    requester: Requester
    room_id: str | None  # as the answer names it
    ignored: AbstractSet[str] | None
    entries: dict[float, Entry] = field(default_factory=dict)  # that the reader may see
    references: dict[str, list[str]] = field(default_factory=dict)
    participated: set[str] = field(default_factory=set)


def show_events(
    reader: Reader,
    entries: Iterable[Entry],
    requester: Requester,
    room_id: str | None,
    *,
    ignored: AbstractSet[str] | None = None,
) -> list[dict[str, Any]]:
    """Entries that the reader may see in client format, with the reader's membership and bundled aggregations.

    Parameters as of `bundles`; the entries' aggregates are shown as they are (`timeline_cache.with_aggregates`).
    """
    entries = list(entries)
    bundled = bundles(reader, entries, requester, room_id, ignored=ignored)
    return [_shown(reader, entry, requester, room_id, bundled.get(entry.number)) for entry in entries]


def _shown(
    reader: Reader, entry: Entry, requester: Requester, room_id: str | None, bundle: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return show(entry, room_id, requester, membership=reader.membership_at(entry), relations=bundle)


def bundles(
    reader: Reader,
    entries: Sequence[Entry],
    requester: Requester,
    room_id: str | None,
    *,
    ignored: AbstractSet[str] | None = None,
) -> dict[float, dict[str, Any]]:
    """`m.relations` of those of the entries that have any, by `Entry.number`: one round, none where there is nothing.

    `room_id` is None where the answer names the room elsewhere. `ignored` are the users whom the requester ignores;
    None: they are looked up if it matters.
    """
    parents = [entry for entry in entries if entry.aggregate is not None and entry.pdu is not None]
    if not parents:
        return {}
    work = _Bundling(reader, requester, room_id, ignored, {entry.number: entry for entry in entries})
    _read(work, parents)
    found = {parent.number: _own_bundle(work, parent) for parent in parents}
    _add_threads(work, parents, found)
    return {position: bundle for position, bundle in found.items() if bundle}


def _own_bundle(work: _Bundling, parent: Entry) -> dict[str, Any]:
    """What an event that is no thread has."""
    bundle: dict[str, Any] = {}
    if (edit := _edit_of(work, parent)) is not None:
        bundle[REPLACE] = _shown(work.reader, edit, work.requester, work.room_id)
    if references := work.references.get(parent.event_id or ""):
        bundle[REFERENCE] = {"chunk": [{"event_id": event_id} for event_id in references]}
    return bundle


def _read(work: _Bundling, parents: Sequence[Entry]) -> None:
    """Everything that the aggregates name, at once."""
    reader = work.reader
    room_id = reader.view.room_id
    needed: set[float] = set()
    calls, partial_threads = [], []
    asks_ignored = False
    for parent in parents:
        aggregate = parent.aggregate or Aggregate()
        if aggregate.edit is not None and parent.redacted_because is None:
            needed.add(aggregate.edit.position)
        if aggregate.latest_reply is not None:
            needed.add(aggregate.latest_reply[1])
            if aggregate.is_partial and reader.user_id not in aggregate.senders:
                partial_threads.append(parent.event_id or "")
        if aggregate.references:
            calls.append(partial(_read_references, work, parent.event_id or ""))
        asks_ignored = asks_ignored or bool(aggregate.references or aggregate.replies)
    missing = [(room_id, position) for position in sorted(needed - work.entries.keys())]
    ignored, read, participated, *references = in_parallel(
        partial(ignored_by, reader.user_id) if asks_ignored and work.ignored is None else lambda: work.ignored,
        partial(read_entries, missing, aggregates=True) if missing else dict,
        partial(relations.participates, room_id, partial_threads, reader.user_id) if partial_threads else set,
        *calls,
    )
    work.ignored = ignored or frozenset()
    work.participated |= participated
    work.entries |= {entry.number: entry for entry in reader.visible(list(read.values()))}
    for event_id, children in references:
        work.references[event_id] = [child.event_id for child in children if child.sender not in work.ignored][::-1]


def _read_references(work: _Bundling, event_id: str) -> tuple[str, list[relations.Child]]:
    view, last = work.reader.view, work.reader.last_position
    return event_id, relations.find_children(
        view.room_id, event_id, last, lambda child: child.rel_type == REFERENCE, most=_MOST_REFERENCES
    )


def _edit_of(work: _Bundling, parent: Entry) -> Entry | None:
    """The most recent valid edit that the reader may see. What was redacted is not edited any more."""
    aggregate = parent.aggregate
    if aggregate is None or aggregate.edit is None or parent.redacted_because is not None:
        return None
    reader = work.reader
    if aggregate.edit.position <= reader.last_position:
        return work.entries.get(aggregate.edit.position)
    # The reader has left the room before it was edited so.
    earlier = relations.find_children(
        reader.view.room_id,
        parent.event_id or "",
        reader.last_position,
        lambda child: child.timestamp is not None,
        most=aggregate.edits,
    )
    edits = [Edit(child.event_id, child.position, child.timestamp or 0) for child in earlier]
    newest = max(edits, key=lambda edit: edit.age, default=None)
    return _first_visible(work, [newest.position]) if newest is not None else None


def _first_visible(work: _Bundling, positions: Sequence[float]) -> Entry | None:
    room_id = work.reader.view.room_id
    read = read_entries(((room_id, position) for position in positions), aggregates=True)
    visible = {entry.number: entry for entry in work.reader.visible(list(read.values()))}
    return next((visible[position] for position in positions if position in visible), None)


def _latest_reply(work: _Bundling, root: Entry, aggregate: Aggregate) -> tuple[Entry, int] | None:
    """The latest reply in a thread that the reader may see, and how many there are; none by users who are ignored."""
    reader, ignored = work.reader, work.ignored or frozenset()
    latest = work.entries.get(aggregate.latest_reply[1]) if aggregate.latest_reply is not None else None
    is_common = not ignored or not (aggregate.is_partial or any(sender in ignored for sender in aggregate.senders))
    if latest is not None and is_common:
        return latest, aggregate.replies
    replies = relations.find_children(
        reader.view.room_id,
        root.event_id or "",
        reader.last_position,
        lambda child: child.rel_type == THREAD and child.sender not in ignored,
        most=_MOST_REPLIES,
    )
    latest = _first_visible(work, [child.position for child in replies[:_TRIED_REPLIES]]) if replies else None
    return (latest, len(replies)) if latest is not None else None


def _add_threads(work: _Bundling, roots: Sequence[Entry], found: Mapping[float, dict[str, Any]]) -> None:
    threads = []
    for root in roots:
        aggregate = root.aggregate
        if aggregate is not None and aggregate.replies:
            reply = _latest_reply(work, root, aggregate)
            if reply is not None:
                threads.append((root, aggregate, *reply))
    if not threads:
        return
    # The latest event has aggregations too. Replies are no threads: it ends there.
    parents = [latest for _, _, latest, _ in threads if latest.aggregate is not None]
    if parents:
        work.entries |= {latest.number: latest for latest in parents}
        _read(work, parents)
    bundled = {parent.number: _own_bundle(work, parent) for parent in parents}
    user_id = work.reader.user_id
    for root, aggregate, latest, count in threads:
        sender = root.pdu["sender"] if root.pdu is not None else None
        found[root.number][THREAD] = {
            "latest_event": _shown(work.reader, latest, work.requester, work.room_id, bundled.get(latest.number)),
            "count": count,
            "current_user_participated": user_id == sender
            or user_id in aggregate.senders
            or root.event_id in work.participated,
        }
