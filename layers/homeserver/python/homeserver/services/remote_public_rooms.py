"""The published directories of other servers, for clients of this one.

Source: Matrix v1.19, client-server API, "Published room directory", the parameter `server`; server-server API,
"Published Room Directory".
"""

from typing import Any

from homeserver.adapters.federation_http import FederationClient, FederationError, HttpError, federation_path
from homeserver.matrix.errors import Forbidden, InvalidParam, LimitExceeded, MatrixError, NotFound
from homeserver.matrix.identifiers import is_server_name
from homeserver.matrix.told_room import ToldRoom
from homeserver.services.public_rooms import MAX_LIMIT, DirectoryQuery, check_query, published_rooms
from homeserver.settings import settings

_ASK_S = 10.0
_MOST_BYTES = 4 * 1024 * 1024
_LONGEST_TOKEN = 1024
_MOST_ROOMS = 2**53 - 1
_RETRY_MS = 5000  # where the other server has enough of questions, and does not say for how long


def is_elsewhere(query: DirectoryQuery) -> bool:
    """Whether another server is to be asked. Raises InvalidParam for what is no server name."""
    if query.server is None or query.server == settings().server_name:
        return False
    if not is_server_name(query.server):
        raise InvalidParam("server is no server name.")
    return True


def any_published_rooms(query: DirectoryQuery) -> dict[str, Any]:
    """A page of the directory of whatever server the query names: the body of `/publicRooms`.

    Of another server's answer the rooms are kept that make sense, at most as many as were asked for, and its tokens as
    they are. Raises InvalidParam, also where the other server does not understand the question; NotFound where this
    one does not take part in federation, or the other has no directory; Forbidden where it shows it to nobody;
    LimitExceeded; MatrixError (502) where it does not answer.
    """
    if not is_elsewhere(query):
        return published_rooms(query)
    check_query(query)
    if not settings().federation:
        raise NotFound("This server does not ask other servers for their directories.")
    server = str(query.server)
    try:
        answer = _asked(server, query)
    except HttpError as error:
        raise _refused(server, error) from error
    except FederationError as error:
        raise _unanswered(server) from error
    chunk = answer.get("chunk") if isinstance(answer, dict) else None
    if not isinstance(chunk, list):
        raise _unanswered(server)
    rooms = [room for room in map(ToldRoom.read, chunk[: min(query.limit, MAX_LIMIT)]) if room is not None]
    page: dict[str, Any] = {"chunk": [room.published_chunk() for room in rooms]}
    for name in ("next_batch", "prev_batch"):
        token = answer.get(name)
        if isinstance(token, str) and 0 < len(token) <= _LONGEST_TOKEN:
            page[name] = token
    total = answer.get("total_room_count_estimate")
    if type(total) is int and 0 <= total <= _MOST_ROOMS:
        page["total_room_count_estimate"] = total
    return page


def _asked(server: str, query: DirectoryQuery) -> Any:
    asked: dict[str, Any] = {"limit": min(query.limit, MAX_LIMIT)}
    if query.since is not None:
        asked["since"] = query.since
    if query.all_networks:
        asked["include_all_networks"] = True
    if query.network is not None:
        asked["third_party_instance_id"] = query.network
    wanted: dict[str, Any] = {}
    if query.search_term:
        wanted["generic_search_term"] = query.search_term
    if query.room_types is not None:
        wanted["room_types"] = list(query.room_types)
    path = federation_path("v1", "publicRooms")
    client = FederationClient()
    if wanted:
        content = {**asked, "filter": wanted}
        return client.request("POST", server, path, content=content, timeout_s=_ASK_S, max_bytes=_MOST_BYTES)[1]
    return client.request("GET", server, path, asked, timeout_s=_ASK_S, max_bytes=_MOST_BYTES)[1]


def _refused(server: str, error: HttpError) -> MatrixError:
    match error.status:
        case 400:
            return InvalidParam(f"{server} does not understand this question.")
        case 403:
            return Forbidden(f"{server} does not show its directory.")
        case 404:
            return NotFound(f"{server} has no directory.")
        case 429:
            wait = _RETRY_MS if error.retry_after_ms is None else error.retry_after_ms
            return LimitExceeded(f"{server} has been asked too often.", retry_after_ms=wait)
    return _unanswered(server)


def _unanswered(server: str) -> MatrixError:
    return MatrixError(f"{server} cannot be asked for its directory.", status=502)
