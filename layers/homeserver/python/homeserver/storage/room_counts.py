"""The counts of a room's members, stored with the state that they are of: `summary` in `ROOMS`.

Written by the follower, now and then; a reader whose head has another state takes the difference of the two from the
tree. So the item may be old, and never wrong.
"""

from collections.abc import Iterable

from pynamodb.attributes import BinaryAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.matrix.room_counts import Party, RoomCounts
from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, batch_get
from homeserver.storage.room_items import FORMAT

_KEY = "summary"
_CACHED_ROOMS = 5000


class RoomSummaryItem(Item):
    """`summary`: counts, first members and the state root that they are of."""

    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    f = NumberAttribute(default=FORMAT)
    root = BinaryAttribute(attr_name="r", legacy_encoding=False)
    # Position of the last change of that state: a later one wins
    position = NumberAttribute(attr_name="p")
    joined = NumberAttribute(attr_name="jn")
    invited = NumberAttribute(attr_name="iv")
    # [how many, [[depth, user], ...]] of those who are there, and of those who are gone
    present = JSONAttribute(attr_name="pm")
    gone = JSONAttribute(attr_name="gm")


_known: dict[str, RoomCounts] = {}


def summary_key(room_id: str) -> Key:
    """Where the counts of a room are: to be read together with other items, and then given to `take_up`."""
    return (RoomSummaryItem, room_id, _KEY)


def take_up(item: RoomSummaryItem | None) -> None:
    """Remember the counts of an item that was read, unless the process knows of the room already."""
    if item is not None and item.room not in _known:
        remember(item.room, _parse(item))


def learn_counts(room_ids: Iterable[str]) -> None:
    """Learn the stored counts of the rooms of which this process knows none: one round, or none."""
    keys = [summary_key(room_id) for room_id in room_ids if room_id not in _known]
    for item in (batch_get(keys, consistent=False) if keys else {}).values():
        take_up(item)


def known_counts(room_id: str) -> RoomCounts | None:
    """The last counts of a room that this process knows; of whatever state."""
    return _known.get(room_id)


def read_counts(room_id: str) -> RoomCounts | None:
    """The stored counts of a room, of whatever state: one round. None where nothing was stored."""
    key = summary_key(room_id)
    item = batch_get([key], consistent=False).get(key)
    return _parse(item) if item is not None else None


def remember(room_id: str, counts: RoomCounts) -> None:
    """Keep counts in this process. They name their state, so they are right for ever."""
    _known.pop(room_id, None)
    _known[room_id] = counts
    while len(_known) > _CACHED_ROOMS:
        _known.pop(next(iter(_known)), None)


def store_counts(room_id: str, counts: RoomCounts, position: int) -> None:
    """Store counts of the state that the room has had since a position, unless those of a later one are there."""
    actions: list[Action] = [
        RoomSummaryItem.f.set(FORMAT),
        RoomSummaryItem.root.set(counts.root),
        RoomSummaryItem.position.set(position),
        RoomSummaryItem.joined.set(counts.joined),
        RoomSummaryItem.invited.set(counts.invited),
        RoomSummaryItem.present.set([counts.present.count, counts.present.first]),
        RoomSummaryItem.gone.set([counts.gone.count, counts.gone.first]),
    ]
    older = RoomSummaryItem.position.does_not_exist() | (RoomSummaryItem.position < position)
    try:
        RoomSummaryItem(room_id, _KEY).update(actions, older)
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise


def _parse(item: RoomSummaryItem) -> RoomCounts:
    return RoomCounts(bytes(item.root), int(item.joined), int(item.invited), _party(*item.present), _party(*item.gone))


def _party(count: int, first: list[tuple[int, str]]) -> Party:
    return Party(count, tuple((depth, user_id) for depth, user_id in first))
