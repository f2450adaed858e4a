"""What the outbound router keeps in a room, and what it and the senders read of it: the table ROOMS."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, batch_get, query_raw
from homeserver.storage.ephemeral import EPHEMERAL, EphemeralItem, RoomEphemeral, parse
from homeserver.storage.room_items import HEAD, Head, RemoteServer

OUTBOUND_CURSOR = "cursor/outbound"
_SERVER = "server/"


class OutboundCursor(Item):
    """The item `cursor/outbound`: how far the router has worked. Other cursors have the same attribute `p`."""

    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    position = NumberAttribute(attr_name="p")
    # The last number of the ephemeral item that was looked at, and when something of it was sent, in milliseconds
    ephemeral = NumberAttribute(attr_name="e", default=0)
    ephemeral_at = NumberAttribute(attr_name="et", default=0)
    # {user ID: when other servers were told that they type}
    typing = BinaryAttribute(attr_name="ty", legacy_encoding=False, null=True)


@dataclass(frozen=True, slots=True)
class Span:
    """From which position on a server has been in a room, and where it left it."""

    joined_since: int
    left_at: int | None = None

    def covers(self, position: int) -> bool:
        """Whether the event at a position goes to the server; what makes it leave still does."""
        return self.joined_since <= position and (self.left_at is None or position <= self.left_at)


@dataclass(frozen=True, slots=True)
class OutboundRoom:
    """A room as the router reads it."""

    head: Head
    position: int
    ephemeral: RoomEphemeral
    ephemeral_number: int = 0
    ephemeral_at: int = 0
    typing: Mapping[str, int] = field(default_factory=dict)


def read_outbound(room_id: str) -> OutboundRoom | None:
    """The room, consistently, in one round; None for one that does not exist or never concerned another server."""
    head: Head | None = None
    cursor: OutboundCursor | None = None
    ephemeral: EphemeralItem | None = None
    # In the order of sort keys the three lie beside each other.
    for raw in query_raw(Head, room_id, OUTBOUND_CURSOR, HEAD, consistent=True):
        match raw["k"]["S"]:
            case "cursor/outbound":
                cursor = OutboundCursor.from_raw_data(raw)
            case "ephemeral":
                ephemeral = EphemeralItem.from_raw_data(raw)
            case "head":
                head = Head.from_raw_data(raw)
    if head is None or head.federated_since is None:
        return None
    state = parse(room_id, ephemeral)
    if cursor is None:
        return OutboundRoom(head, int(head.federated_since) - 1, state)
    return OutboundRoom(
        head,
        int(cursor.position),
        state,
        int(cursor.ephemeral or 0),
        int(cursor.ephemeral_at or 0),
        orjson.loads(cursor.typing) if cursor.typing else {},
    )


def read_spans(room_id: str) -> dict[str, Span]:
    """All servers that are or were in the room, consistently: one round for each MB."""
    rows = query_raw(RemoteServer, room_id, _SERVER, _SERVER + "\U0010ffff", consistent=True)
    return {row["k"]["S"][len(_SERVER) :]: _span(row) for row in rows}


def _span(row: Mapping[str, Any]) -> Span:
    return Span(int(row["js"]["N"]), int(row["la"]["N"]) if "la" in row else None)


def read_span(room_id: str, server: str) -> Span | None:
    """One server, consistently; None for one that never was in the room."""
    return read_spans_of(server, [room_id]).get(room_id)


def read_spans_of(server: str, room_ids: Iterable[str]) -> dict[str, Span]:
    """One server in several rooms, as far as it ever was in them; consistently, in one round for each hundred."""
    keys: list[Key] = [(RemoteServer, room_id, _SERVER + server) for room_id in room_ids]
    found = batch_get(keys, consistent=True) if keys else {}
    return {
        row.room: Span(int(row.joined_since), int(row.left_at) if row.left_at is not None else None)
        for row in found.values()
    }


def read_ephemeral_item(room_id: str) -> RoomEphemeral:
    """The room's ephemeral item, consistently."""
    return parse(room_id, EphemeralItem.fetch(room_id, EPHEMERAL))


def move_cursor(room_id: str, position: int, ephemeral: int, ephemeral_at: int, typing: Mapping[str, int]) -> None:
    """The router has worked up to here, unless another run of it is further."""
    actions: list[Action] = [
        OutboundCursor.position.set(position),
        OutboundCursor.ephemeral.set(ephemeral),
        OutboundCursor.ephemeral_at.set(ephemeral_at),
        OutboundCursor.typing.set(orjson.dumps(dict(typing))) if typing else OutboundCursor.typing.remove(),
    ]
    behind = OutboundCursor.position.does_not_exist() | (
        (OutboundCursor.position <= position) & (OutboundCursor.ephemeral <= ephemeral)
    )
    try:
        OutboundCursor(room_id, OUTBOUND_CURSOR).update(actions, behind)
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
