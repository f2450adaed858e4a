"""The sweep: rooms whose followers lag behind are brought up, whatever made them lag.

Reads every head and cursor (a scan of the rooms table), so it runs once a day and after an outage, never per event.
"""

from dataclasses import dataclass, field

from homeserver.observability import log
from homeserver.services.destinations import retry_stranded
from homeserver.services.inboxes import CURSOR, follow_room
from homeserver.services.outbound_route import route_room
from homeserver.settings import settings
from homeserver.storage.connection import connection
from homeserver.storage.outbound import OUTBOUND_CURSOR
from homeserver.storage.room_items import HEAD, Head


@dataclass(slots=True)
class _Rooms:
    """Positions of heads and cursors by room; rooms whose rows are late; where rooms began to concern other servers."""

    heads: dict[str, int] = field(default_factory=dict)
    cursors: dict[str, dict[str, int]] = field(default_factory=lambda: {CURSOR: {}, OUTBOUND_CURSOR: {}})
    late: set[str] = field(default_factory=set)
    federated: dict[str, int] = field(default_factory=dict)


def _scan() -> _Rooms:
    rooms = _Rooms()
    request = {
        "TableName": Head.Meta.table_name,
        "FilterExpression": "#k = :head OR #k = :inbox OR #k = :outbound",
        "ProjectionExpression": "#r, #k, #p, #root, #rows, #since",
        "ExpressionAttributeNames": {"#r": "room", "#k": "k", "#p": "p", "#root": "r", "#rows": "rr", "#since": "fs"},
        "ExpressionAttributeValues": {
            ":head": {"S": HEAD},
            ":inbox": {"S": CURSOR},
            ":outbound": {"S": OUTBOUND_CURSOR},
        },
    }
    while True:
        answer = connection().dispatch("Scan", dict(request))
        for item in answer["Items"]:
            room, k, position = item["room"]["S"], item["k"]["S"], int(item["p"]["N"])
            if k != HEAD:
                rooms.cursors[k][room] = position
                continue
            rooms.heads[room] = position
            if item["r"] != item["rr"]:
                rooms.late.add(room)
            if "fs" in item:
                rooms.federated[room] = int(item["fs"]["N"])
        if "LastEvaluatedKey" not in answer:
            return rooms
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def lagging_rooms() -> list[str]:
    """The rooms whose head is ahead of the inbox follower's cursor, or whose rows are behind their state."""
    return _lagging(_scan())


def _lagging(rooms: _Rooms) -> list[str]:
    cursors = rooms.cursors[CURSOR]
    return [room for room, head in rooms.heads.items() if cursors.get(room, 0) < head or room in rooms.late]


def unrouted_rooms() -> list[str]:
    """The rooms that concern other servers and whose head is ahead of the outbound router's cursor."""
    return _unrouted(_scan())


def _unrouted(rooms: _Rooms) -> list[str]:
    cursors = rooms.cursors[OUTBOUND_CURSOR]
    return [room for room, since in rooms.federated.items() if cursors.get(room, since - 1) < rooms.heads[room]]


def sweep() -> int:
    """Let the followers catch up in every room that lags; returns how many did. One room's failure stops no other.

    Other servers that nobody would try again are tried again.
    """
    rooms = _scan()
    repaired = 0
    for room_id in _lagging(rooms):
        try:
            follow_room(room_id, everything=True)
            repaired += 1
        except Exception:
            # The next sweep tries again; the others must not wait for this one.
            log.exception("the followers of %s could not catch up", room_id)
    if settings().federation:
        _send_what_was_left(rooms)
    return repaired


def _send_what_was_left(rooms: _Rooms) -> None:
    for room_id in _unrouted(rooms):
        try:
            route_room(room_id)
        except Exception:
            # As above.
            log.exception("the outbound router of %s could not catch up", room_id)
    try:
        retry_stranded()
    except Exception:
        # As above.
        log.exception("servers that nobody tries again could not be found")
