"""Room aliases of this and of other servers: which room they mean, and which servers know it.

Source: Matrix v1.19, server-server API, `GET /query/directory`; client-server API, "Room aliases".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.adapters.federation_http import FederationClient, FederationError, HttpError
from homeserver.matrix.errors import InvalidParam, MatrixError, NotFound
from homeserver.matrix.identifiers import domain_of, is_room_alias, is_room_id
from homeserver.services import rate_limits
from homeserver.services.aliases import room_of_alias
from homeserver.services.residency import candidates, named
from homeserver.services.resident_servers import resident_servers
from homeserver.services.send_event import check_room_id
from homeserver.settings import settings

_ASK_S = 8.0
_MOST_BYTES = 256 * 1024  # a list of all servers of a large room


@dataclass(frozen=True, slots=True)
class NamedRoom:
    """A room that was named by ID or alias. `servers`: who may know it; never this one."""

    room_id: str
    servers: Sequence[str] = ()


def room_named(room_id_or_alias: str, via: Sequence[str] = (), *, asked_from: str | None = None) -> NamedRoom:
    """A room by what a client calls it. `via`: servers that the client names; `asked_from` as `room_of_any_alias`.

    Raises InvalidParam, and what `room_of_any_alias` raises.
    """
    if room_id_or_alias.startswith("#"):
        room = room_of_any_alias(room_id_or_alias, asked_from=asked_from)
        return NamedRoom(room.room_id, [*named(via), *room.servers])
    check_room_id(room_id_or_alias)
    return NamedRoom(room_id_or_alias, named(via))


def room_of_any_alias(alias: str, *, asked_from: str | None = None) -> NamedRoom:
    """The room that an alias of whatever server points to; of another server's alias also who knows the room.

    `asked_from`: the address of a client that need not say who it is. Raises InvalidParam for what is no alias,
    NotFound for an alias that does not exist, MatrixError (502) where its server cannot be asked, LimitExceeded.
    """
    if not is_room_alias(alias):
        raise InvalidParam("This is not a room alias.")
    server = domain_of(alias)
    if server == settings().server_name:
        return NamedRoom(room_of_alias(alias))
    if not settings().federation:
        raise NotFound("There is no such room alias.")
    if asked_from is not None:
        rate_limits.take_question(asked_from)
    try:
        _, answer = FederationClient().request(
            "GET",
            server,
            "/_matrix/federation/v1/query/directory",
            {"room_alias": alias},
            timeout_s=_ASK_S,
            max_bytes=_MOST_BYTES,
        )
    except HttpError as error:
        if error.status == 404:
            raise NotFound("There is no such room alias.") from error
        raise _unanswered(server) from error
    except FederationError as error:
        raise _unanswered(server) from error
    room_id = answer.get("room_id") if isinstance(answer, dict) else None
    servers = answer.get("servers") if isinstance(answer, dict) else None
    if not is_room_id(room_id) or not isinstance(servers, list):
        raise _unanswered(server)
    return NamedRoom(str(room_id), candidates([server], servers))


def _unanswered(server: str) -> MatrixError:
    return MatrixError(f"{server} cannot be asked for its room alias.", status=502)


def servers_of(room: NamedRoom) -> list[str]:
    """The servers to tell a client that asks for an alias: of an alias of this server those in the room."""
    return list(room.servers) or resident_servers(room.room_id)
