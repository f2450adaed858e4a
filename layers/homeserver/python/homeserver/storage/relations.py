"""What relates to an event: rows for each child, and the aggregate of the parent.

All in the table of the timelines, so that one Query of a run of positions brings the aggregates along:

    <room>#<n>              position + 0.5     aggregate of the event at that position
    <room>#rel#<parent>     child's position   a child
    <room>#nested#<event>   child's position   a child of a child (down to three levels), for `recurse`
    <room>#ann#<parent>     hash               an annotation by sender, type and key: there is one of them
    <room>#threads          latest reply       a thread

Positions are numbers of places (`matrix.timeline_place`); the aggregate of a backfilled event lies behind its line. And
`thread/<root>/<user>` in the table of the rooms: how often someone replied whom the aggregate does not name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.expressions.update import Action

from homeserver.matrix import timeline_place
from homeserver.matrix.relations import Aggregate, Edit, Parent, Relation, annotation_number
from homeserver.matrix.timeline_place import parse_number, place_of
from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, Transaction, batch_get, in_parallel, query_raw
from homeserver.storage.room_items import FORMAT, line_of

_CACHED_PARENTS = 20_000
_PAGE = 250
_MOST_PAGES = 20


class _TimelineItem(Item):
    class Meta:
        table_name = table_name("TIMELINE")

    bucket = UnicodeAttribute(hash_key=True)
    position = NumberAttribute(range_key=True, attr_name="pos")
    f = NumberAttribute(default=FORMAT)


class AggregateItem(_TimelineItem):
    """An Aggregate, in the bucket of its event; every write is conditional on its version."""

    version = NumberAttribute(attr_name="v")
    edits = NumberAttribute(attr_name="ec", null=True)
    edit_id = UnicodeAttribute(attr_name="ee", null=True)
    edit_position = NumberAttribute(attr_name="ep", null=True)
    edit_timestamp = NumberAttribute(attr_name="et", null=True)
    replies = NumberAttribute(attr_name="tc", null=True)
    reply_id = UnicodeAttribute(attr_name="te", null=True)
    reply_position = NumberAttribute(attr_name="tp", null=True)
    senders = JSONAttribute(attr_name="tu", null=True)
    partial = NumberAttribute(attr_name="tm", null=True)
    references = NumberAttribute(attr_name="rc", null=True)


class ChildItem(_TimelineItem):
    """A child of an event; `links` of a nested one: the rows by which it hangs together with the event."""

    event_id = UnicodeAttribute(attr_name="e")
    rel_type = UnicodeAttribute(attr_name="rt")
    type = UnicodeAttribute(attr_name="ty")
    sender = UnicodeAttribute(attr_name="u")
    # Milliseconds by the sender's clock; only for a valid edit
    timestamp = NumberAttribute(attr_name="ts", null=True)
    # [[parent, position of the child], ...]
    links = JSONAttribute(attr_name="l", null=True)


class AnnotationItem(_TimelineItem):
    """An annotation, under a number that its duplicates would have too."""

    event_id = UnicodeAttribute(attr_name="e")


class ThreadItem(_TimelineItem):
    """A thread, under the position of its latest reply."""

    event_id = UnicodeAttribute(attr_name="e")
    root_position = NumberAttribute(attr_name="rp")


class Participant(Item):
    """How many replies of one user a thread has; only of users whom the aggregate does not name."""

    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    replies = NumberAttribute(attr_name="n")


@dataclass(frozen=True, slots=True)
class Child:
    """A row of the index. `links` as in ChildItem; empty for a direct child."""

    position: float
    event_id: str
    rel_type: str
    type: str
    sender: str
    timestamp: int | None = None
    links: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Thread:
    """A row of a room's list of threads."""

    latest: float
    root: str
    root_position: float


# What never changes of events that this process has committed or read, by event ID.
_parents: dict[str, Parent] = {}


def known_parent(event_id: str) -> Parent | None:
    return _parents.get(event_id)


def remember_parent(event_id: str, parent: Parent) -> None:
    """Keep what never changes of an event: who relates to it next need not read it."""
    _parents[event_id] = parent
    while len(_parents) > _CACHED_PARENTS:
        _parents.pop(next(iter(_parents)), None)


def aggregate_key(room_id: str, position: float) -> Key:
    bucket, line = line_of(room_id, *place_of(position))
    return (AggregateItem, bucket, line + 0.5)


def child_key(room_id: str, parent: str, position: float) -> Key:
    return (ChildItem, _children(room_id, parent), position)


def annotation_key(room_id: str, relation: Relation, sender: str, event_type: str) -> Key | None:
    """Where an annotation would find its duplicate; None for what is no annotation with a key."""
    if relation.key is None:
        return None
    return (AnnotationItem, f"{room_id}#ann#{relation.parent}", annotation_number(sender, event_type, relation.key))


def participant_key(room_id: str, root: str, user_id: str) -> Key:
    return (Participant, room_id, f"thread/{root}/{user_id}")


def _children(room_id: str, parent: str) -> str:
    return f"{room_id}#rel#{parent}"


def _nested(room_id: str, ancestor: str) -> str:
    return f"{room_id}#nested#{ancestor}"


def aggregate_of(item: AggregateItem | None) -> Aggregate:
    """What an item says; an empty aggregate for none."""
    if item is None:
        return Aggregate()
    edit = latest = None
    if item.edit_id is not None:
        edit = Edit(item.edit_id, item.edit_position, int(item.edit_timestamp))
    if item.reply_id is not None:
        latest = (item.reply_id, item.reply_position)
    return Aggregate(
        int(item.version),
        int(item.edits or 0),
        edit,
        int(item.replies or 0),
        latest,
        dict(item.senders or {}),
        bool(item.partial),
        int(item.references or 0),
    )


def parse_aggregate(raw: Mapping[str, Any]) -> Aggregate:
    """The same from DynamoDB's JSON: it comes with timelines, which are what is read most."""
    edit = latest = None
    if "ee" in raw:
        edit = Edit(raw["ee"]["S"], parse_number(raw["ep"]["N"]), int(raw["et"]["N"]))
    if "te" in raw:
        latest = (raw["te"]["S"], parse_number(raw["tp"]["N"]))
    return Aggregate(
        int(raw["v"]["N"]),
        _number(raw, "ec"),
        edit,
        _number(raw, "tc"),
        latest,
        orjson.loads(raw["tu"]["S"]) if "tu" in raw else {},
        "tm" in raw,
        _number(raw, "rc"),
    )


def _number(raw: Mapping[str, Any], name: str) -> int:
    return int(raw[name]["N"]) if name in raw else 0


def write_aggregate(
    transaction: Transaction, room_id: str, position: float, before: Aggregate, after: Aggregate
) -> None:
    """Let the transaction change an aggregate that still is what was read (label `aggregate`)."""
    model = AggregateItem
    edit, latest = after.edit, after.latest_reply
    actions: list[Action] = [model.f.set(FORMAT), model.version.set(before.version + 1)]
    values: tuple[tuple[Any, Any], ...] = (
        (model.edits, after.edits or None),
        (model.edit_id, edit.event_id if edit else None),
        (model.edit_position, edit.position if edit else None),
        (model.edit_timestamp, edit.timestamp if edit else None),
        (model.replies, after.replies or None),
        (model.reply_id, latest[0] if latest else None),
        (model.reply_position, latest[1] if latest else None),
        (model.senders, dict(after.senders) or None),
        (model.partial, 1 if after.is_partial else None),
        (model.references, after.references or None),
    )
    actions += [attribute.remove() if value is None else attribute.set(value) for attribute, value in values]
    unchanged = model.version == before.version if before.version else model.bucket.does_not_exist()
    transaction.update("aggregate", model(*aggregate_key(room_id, position)[1:]), actions, unchanged)


def move_thread(
    transaction: Transaction, room_id: str, root: str, root_position: float, *, before: Aggregate, after: Aggregate
) -> None:
    """Let the transaction bring a thread to where its latest reply is. The condition is the aggregate's."""
    old, new = before.latest_reply, after.latest_reply
    if old == new:
        return
    if old is not None:
        transaction.delete("thread", ThreadItem(f"{room_id}#threads", old[1]))
    if new is not None:
        item = ThreadItem(f"{room_id}#threads", new[1], event_id=root, root_position=root_position)
        transaction.put("thread", item)


def count_participant(transaction: Transaction, room_id: str, root: str, user_id: str, change: int) -> None:
    model, hash_key, range_key = participant_key(room_id, root, user_id)
    transaction.update("participant", model(hash_key, range_key), [Participant.replies.add(change)])


def put_child(transaction: Transaction, room_id: str, parent: str, child: Child) -> None:
    """Add a child to what relates to an event: directly, or nested where it has links."""
    item = ChildItem(
        _nested(room_id, parent) if child.links else _children(room_id, parent),
        child.position,
        event_id=child.event_id,
        rel_type=child.rel_type,
        type=child.type,
        sender=child.sender,
        timestamp=child.timestamp,
    )
    if child.links:
        item.links = [list(link) for link in child.links]
    transaction.put("child", item)


def delete_child(transaction: Transaction, room_id: str, parent: str, position: float, *, nested: bool = False) -> None:
    bucket = _nested(room_id, parent) if nested else _children(room_id, parent)
    transaction.delete("child", ChildItem(bucket, position))


def _child(raw: Mapping[str, Any]) -> Child:
    links = orjson.loads(raw["l"]["S"]) if "l" in raw else ()
    return Child(
        parse_number(raw["pos"]["N"]),
        raw["e"]["S"],
        raw["rt"]["S"],
        raw["ty"]["S"],
        raw["u"]["S"],
        int(raw["ts"]["N"]) if "ts" in raw else None,
        tuple((link[0], link[1]) for link in links),
    )


def read_children(
    room_id: str, parent: str, low: float, high: float, *, descending: bool = True, limit: int, nested: bool = False
) -> list[Child]:
    """The children of an event from position low to high in one round, at most `limit` of each kind.

    With `nested` the children of children too. Only as far as both kinds were read: what comes after the end of one
    that has more is left out.
    """
    buckets = [_children(room_id, parent), *([_nested(room_id, parent)] if nested else [])]
    query = partial(query_raw, ChildItem, consistent=True, descending=descending, limit=limit)
    if high < low:
        return []
    parts = in_parallel(*[partial(query, bucket, low, high) for bucket in buckets])
    found = [[_child(raw) for raw in part] for part in parts]
    ends = [part[-1].position for part in found if len(part) == limit]
    merged = sorted((child for part in found for child in part), key=lambda child: child.position, reverse=descending)
    if not ends:
        return merged
    end = max(ends) if descending else min(ends)
    return [child for child in merged if (child.position >= end if descending else child.position <= end)]


def find_children(room_id: str, parent: str, high: float, wanted: Callable[[Child], bool], most: int) -> list[Child]:
    """Direct children up to a position, newest first: the first `most` that are wanted, among the newest 5,000."""
    found: list[Child] = []
    for _ in range(_MOST_PAGES):
        page = read_children(room_id, parent, 0, high, limit=_PAGE)
        found += [child for child in page if wanted(child)]
        if len(page) < _PAGE or len(found) >= most:
            break
        high = timeline_place.before(page[-1].position)
    return found[:most]


def read_threads(room_id: str, high: float, limit: int) -> list[Thread]:
    """Threads by their latest reply, newest first, from position `high` on: one round."""
    rows = query_raw(ThreadItem, f"{room_id}#threads", 0, high, consistent=True, descending=True, limit=limit)
    return [Thread(parse_number(raw["pos"]["N"]), raw["e"]["S"], parse_number(raw["rp"]["N"])) for raw in rows]


def participates(room_id: str, roots: Sequence[str], user_id: str) -> set[str]:
    """In which of these threads the user has replies that their aggregates do not count by name: one round."""
    keys = {participant_key(room_id, root, user_id): root for root in roots}
    found = batch_get(list(keys), consistent=True) if keys else {}
    return {keys[key] for key, item in found.items() if int(item.replies) > 0}
