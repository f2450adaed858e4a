"""The sweep: rooms whose followers lag behind are brought up, whatever made them lag.

Reads every head and cursor (a scan of the rooms table), so it runs once a day and after an outage, never per event.
"""

from homeserver.observability import log
from homeserver.services.inboxes import CURSOR, follow_room
from homeserver.storage.connection import connection
from homeserver.storage.room_items import HEAD, Head


def lagging_rooms() -> list[str]:
    """The rooms whose head is ahead of the inbox follower's cursor, or whose rows are behind their state."""
    heads: dict[str, int] = {}
    late: set[str] = set()
    cursors: dict[str, int] = {}
    request = {
        "TableName": Head.Meta.table_name,
        "FilterExpression": "#k = :head OR #k = :cursor",
        "ProjectionExpression": "#r, #k, #p, #root, #rows",
        "ExpressionAttributeNames": {"#r": "room", "#k": "k", "#p": "p", "#root": "r", "#rows": "rr"},
        "ExpressionAttributeValues": {":head": {"S": HEAD}, ":cursor": {"S": CURSOR}},
    }
    while True:
        answer = connection().dispatch("Scan", dict(request))
        for item in answer["Items"]:
            positions = heads if item["k"]["S"] == HEAD else cursors
            positions[item["room"]["S"]] = int(item["p"]["N"])
            if item["k"]["S"] == HEAD and item["r"] != item["rr"]:
                late.add(item["room"]["S"])
        if "LastEvaluatedKey" not in answer:
            return [room for room, position in heads.items() if cursors.get(room, 0) < position or room in late]
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def sweep() -> int:
    """Let the followers catch up in every room that lags; returns how many did. One room's failure stops no other."""
    repaired = 0
    for room_id in lagging_rooms():
        try:
            follow_room(room_id, everything=True)
            repaired += 1
        except Exception:
            # The next sweep tries again; the others must not wait for this one.
            log.exception("the followers of %s could not catch up", room_id)
    return repaired
