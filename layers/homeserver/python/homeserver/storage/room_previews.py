"""The facts of a room in one item, `preview` in `ROOMS`: for lists of rooms, where reading the state of each costs.

Written by the follower when one of the facts changes, and for published rooms and rooms with members of other servers
also as members come and go. It also says whether the room is published, and where its entry in the directory is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.matrix.room_facts import RoomFacts
from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, Transaction, TransactionCancelled, batch_get, query_range
from homeserver.storage.room_items import FORMAT, Head, RemoteServer

_KEY = "preview"
# What decides who may know of the room: named by the head, so that an old item is never trusted with it.
_DECIDING = "cjh"  # of AUTHORISING: create, join rules, history visibility


class RoomPreview(Item):
    """The facts of a room, cut to a bounded size, as they were at some version of its head."""

    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True, default=_KEY)
    f = NumberAttribute(default=FORMAT)
    revision = NumberAttribute(attr_name="v")  # counts the changes of this item
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    # IDs of the state that decides who may know of the room
    deciding = JSONAttribute(attr_name="au", null=True)
    joined = NumberAttribute(attr_name="jn", null=True)
    remote = NumberAttribute(attr_name="rm", null=True)  # those of them who are of other servers
    written = NumberAttribute(attr_name="t", null=True)  # milliseconds
    published = NumberAttribute(attr_name="pb", null=True)  # 1
    listed = NumberAttribute(attr_name="ls", null=True)  # joined members in its entry of the directory, if it has one
    open = NumberAttribute(attr_name="op", null=True)  # 1 while it is in the list of open rooms

    @property
    def facts(self) -> RoomFacts | None:
        """The facts, if the follower has been here."""
        return RoomFacts.from_json(orjson.loads(self.packed)) if self.packed is not None else None

    def facts_for(self, head: Head) -> RoomFacts | None:
        """The facts, unless who may know of the room has been decided anew since they were written."""
        return self.facts if self.deciding == deciding_ids(head) else None


def preview_key(room_id: str) -> Key:
    return (RoomPreview, room_id, _KEY)


def pack_facts(facts: RoomFacts) -> bytes:
    return orjson.dumps(facts.to_json())


def deciding_ids(head: Head) -> list[str | None]:
    """The event IDs that `deciding` must have to be trusted at this head."""
    return [head.authorising.get(letter) for letter in _DECIDING]


def publish_new(transaction: Transaction, room_id: str) -> None:
    """Add to the transaction that makes a room: it is published (label `published`). Its entry is the follower's."""
    transaction.put("published", RoomPreview(room_id, revision=1, published=1))


def store(
    before: RoomPreview | None,
    room_id: str,
    values: Mapping[str, Any],
    also: Sequence[Callable[[Transaction], None]] = (),
) -> bool:
    """Give attributes these values (None: none), if the item is what was read; `also` writes more, at the same time.

    False if somebody else has changed the item, and then nothing was written.
    """
    names = RoomPreview.get_attributes()
    item = RoomPreview(room_id)
    actions: list[Action] = [
        RoomPreview.revision.set(int(before.revision) + 1 if before else 1),
        RoomPreview.f.set(FORMAT),
        *(names[name].remove() if value is None else names[name].set(value) for name, value in values.items()),
    ]
    unchanged = RoomPreview.revision == int(before.revision) if before else RoomPreview.room.does_not_exist()
    try:
        if not also:  # half as dear as a transaction of one
            item.update(actions, unchanged)
            return True
        transaction = Transaction()
        transaction.update("preview", item, actions, unchanged)
        for write in also:
            write(transaction)
        transaction.commit()
    except TransactionCancelled:
        return False
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True


def remote_members(head: Head) -> int:
    """How many members of other servers are joined; one Query where there are such servers."""
    if not int(head.remote_servers):
        return 0
    servers = query_range(RemoteServer, head.room, "server/", consistent=True)
    return sum(int(server.members) for server in servers if server.left_at is None)


def published_among(room_ids: Iterable[str]) -> set[str]:
    """Those of the rooms that are in the published directory: one round."""
    keys = [preview_key(room_id) for room_id in room_ids]
    return {key[1] for key, preview in (batch_get(keys, consistent=False) if keys else {}).items() if preview.published}
