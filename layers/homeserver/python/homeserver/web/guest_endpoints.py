"""The endpoints that guest accounts may use; everything else that asks for an access token is refused to them.

Source: client-server API v1.19, "Guest access" and the note on guests at each endpoint. Paths as in known_endpoints;
endpoints that this server does not answer (yet) stand here too, so that they are right from their first day on.
"""

import re
from functools import cache

from homeserver.web.known_endpoints import expression

_R0_V3 = {
    "/account/whoami": "GET",
    "/devices": "GET",
    "/devices/{device_id...}": "GET PUT",
    "/events": "GET",
    "/keys/claim": "POST",
    "/keys/query": "POST",
    "/keys/upload": "POST",
    "/profile/{user_id}/{key_name}": "PUT DELETE",
    "/register": "POST",
    "/rooms/{room_id}/context/{event_id...}": "GET",
    "/rooms/{room_id}/event/{event_id...}": "GET",
    "/rooms/{room_id}/initialSync": "GET",
    "/rooms/{room_id}/join": "POST",
    "/rooms/{room_id}/leave": "POST",
    "/rooms/{room_id}/members": "GET",
    "/rooms/{room_id}/messages": "GET",
    "/rooms/{room_id}/send/{event_type}/{txn_id...}": "PUT",
    "/rooms/{room_id}/state": "GET",
    "/rooms/{room_id}/state/{event_type}": "GET PUT",
    "/rooms/{room_id}/state/{event_type}/": "GET PUT",
    "/rooms/{room_id}/state/{event_type}/{state_key...}": "GET PUT",
    "/sendToDevice/{event_type}/{txn_id...}": "PUT",
    "/sync": "GET",
}

_V1 = {
    "/media/download/{server_name}/{media_id}": "GET",
    "/media/download/{server_name}/{media_id}/{file_name...}": "GET",
    "/media/thumbnail/{server_name}/{media_id}": "GET",
}


def is_open_to_guests(method: str, path: str) -> bool:
    """Whether a guest may make this request; the path as API Gateway hands it over."""
    return any(method in methods and pattern.fullmatch(path) for pattern, methods in _patterns())


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], frozenset[str]], ...]:
    return tuple(
        (re.compile(expression(f"/_matrix/client/{version}{path}")), frozenset(words.split()))
        for versions, table in ((("r0", "v3"), _R0_V3), (("v1",), _V1))
        for version in versions
        for path, words in table.items()
    )
