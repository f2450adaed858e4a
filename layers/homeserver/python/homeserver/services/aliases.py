"""Room aliases of this server.

Source: client-server API v1.19, "Room aliases".
"""

from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError, NotFound
from homeserver.matrix.event_auth import AuthState
from homeserver.matrix.identifiers import domain_of, is_room_alias, is_room_id
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id
from homeserver.settings import settings
from homeserver.storage.connection import Transaction, TransactionCancelled, query_range
from homeserver.storage.room_items import Alias, RoomAlias
from homeserver.storage.rooms import load_room

_PREFIX = "alias/"


def check_local_alias(alias: str) -> None:
    """Raises InvalidParam for what is no alias, or one of another server."""
    if not is_room_alias(alias):
        raise InvalidParam("This is not a room alias.")
    if domain_of(alias) != settings().server_name:
        raise InvalidParam("The alias belongs to another server.")


def room_of_alias(alias: str) -> str:
    """The room that an alias points to. Raises InvalidParam or NotFound (also for aliases of other servers)."""
    if not is_room_alias(alias):
        raise InvalidParam("This is not a room alias.")
    entry = Alias.fetch(alias)
    if entry is None:
        raise NotFound("There is no such room alias.")
    return str(entry.room)


def add_alias(transaction: Transaction, alias: str, room_id: str, creator: str) -> None:
    """Add to a transaction: a new alias (label `alias`), which must not exist yet."""
    entry = Alias(alias, room=room_id, creator=creator, created=now_ms())
    transaction.put("alias", entry, Alias.alias.does_not_exist())
    transaction.put("room alias", RoomAlias(room_id, _PREFIX + alias))


def create_alias(requester: Requester, alias: str, room_id: str) -> None:
    """Point a new alias to a room that the requester is in.

    Raises Forbidden for anyone else, MatrixError (409 M_UNKNOWN) for an alias that exists.
    """
    check_local_alias(alias)
    if not is_room_id(room_id):
        raise InvalidParam("room_id is not a room ID.")
    view, _ = load_room(room_id, [("m.room.create", ""), ("m.room.member", requester.user_id)])
    if view is None or view.membership(requester.user_id) != "join":
        raise Forbidden("Only members of a room can give it an alias.")
    for _ in attempts("The alias"):
        transaction = Transaction()
        add_alias(transaction, alias, room_id, requester.user_id)
        try:
            transaction.commit()
        except TransactionCancelled as error:
            if error.failed("alias"):
                raise MatrixError(f"The alias {alias} exists already.", status=409) from error
            continue
        return


def delete_alias(requester: Requester, alias: str) -> None:
    """Remove an alias: allowed to who made it, and to who may set the room's canonical alias."""
    if not is_room_alias(alias):
        raise InvalidParam("This is not a room alias.")
    for _ in attempts("The alias"):
        entry = Alias.fetch(alias)  # None for those of other servers
        if entry is None:
            raise NotFound("There is no such room alias.")
        if entry.creator != requester.user_id and not _may_set_aliases(requester.user_id, entry.room):
            raise Forbidden("Only who made the alias, or a moderator of the room, can remove it.")
        transaction = Transaction()
        transaction.delete("alias", entry, Alias.room == entry.room)
        transaction.delete("room alias", RoomAlias(entry.room, _PREFIX + alias))
        try:
            transaction.commit()
        except TransactionCancelled:
            continue
        return


def _may_set_aliases(user_id: str, room_id: str) -> bool:
    member = ("m.room.member", user_id)
    view, _ = load_room(room_id, [("m.room.create", ""), ("m.room.power_levels", ""), member])
    if view is None or view.membership(user_id) != "join":
        return False
    levels = AuthState({key: entry.event for key, entry in view.state.items()}).power_levels
    return bool(levels.user_level(user_id) >= levels.event_level("m.room.canonical_alias", is_state=True))


def aliases_of(requester: Requester, room_id: str) -> list[str]:
    """The aliases of this server that point to a room. Raises Forbidden unless the requester may see its state."""
    check_room_id(room_id)
    visibility, member = ("m.room.history_visibility", ""), ("m.room.member", requester.user_id)
    view, _ = load_room(room_id, [visibility, member])
    setting = view.event(*visibility) if view else None
    world_readable = setting is not None and setting.content.get("history_visibility") == "world_readable"
    if view is None or (view.membership(requester.user_id) != "join" and not world_readable):
        raise Forbidden(NOT_IN_ROOM)
    return [row.k.removeprefix(_PREFIX) for row in query_range(RoomAlias, room_id, _PREFIX, consistent=True)]
