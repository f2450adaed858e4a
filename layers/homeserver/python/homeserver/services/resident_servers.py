"""Which servers are in a room: whom to ask for it.

Source: server-server API v1.19, "Querying for information", `GET /query/directory`.
"""

from homeserver.services.aliases import check_local_alias, room_of_alias
from homeserver.settings import settings
from homeserver.storage.connection import Key, batch_get, query_range
from homeserver.storage.room_items import HEAD, Head, RemoteServer

MOST_SERVERS = 50
_MOST_ROWS = 200  # that are looked at: servers that have left stay among them


def alias_for_server(alias: str) -> dict[str, object]:
    """The body of `GET /query/directory`: the room of an alias of this server, and who has it.

    Raises InvalidParam for what is no alias of this server, NotFound.
    """
    check_local_alias(alias)
    room_id = room_of_alias(alias)
    return {"room_id": room_id, "servers": resident_servers(room_id)}


def resident_servers(room_id: str) -> list[str]:
    """Some servers with members in a room, at most 50, this one first if it is among them.

    One round, of a bounded number of small items, however many servers the room has.
    """
    key: Key = (Head, room_id, HEAD)
    head = batch_get([key], consistent=True).get(key)
    own = [settings().server_name] if head is not None and int(head.local_members) > 0 else []
    if head is None or not int(head.remote_servers):
        return own
    rows = query_range(RemoteServer, room_id, "server/", consistent=True, limit=_MOST_ROWS)
    others = [row.k.removeprefix("server/") for row in rows if int(row.members) > 0]
    return [*own, *others][:MOST_SERVERS]
