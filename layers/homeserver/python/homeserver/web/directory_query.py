"""What a request asks of the published directory: clients and servers ask in the same words."""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import BadJson
from homeserver.services.public_rooms import DEFAULT_LIMIT, DirectoryQuery
from homeserver.web.requests import field


def posted_query(body: Mapping[str, Any], server: str | None = None) -> DirectoryQuery:
    """The body of a `POST /publicRooms`. Raises BadJson."""
    wanted = field(body, "filter", dict) or {}
    limit = field(body, "limit", int)
    return DirectoryQuery(
        server=server,
        limit=DEFAULT_LIMIT if limit is None else limit,
        since=field(body, "since", str),
        search_term=field(wanted, "generic_search_term", str),
        room_types=_room_types(wanted),
        all_networks=field(body, "include_all_networks", bool) or False,
        network=field(body, "third_party_instance_id", str),
    )


def _room_types(wanted: Mapping[str, Any]) -> list[str | None] | None:
    types = field(wanted, "room_types", list)
    if types is None:
        return None
    if not all(isinstance(entry, str | None) for entry in types):
        raise BadJson("room_types must be an array of strings and null.")
    return list(types)
