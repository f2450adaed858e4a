"""Room aliases for clients of the 2014 draft: names that could be taken for others are not given to rooms.

Source: the draft of 2014, "Standard error response", `M_ROOM_IN_USE`; its successors' `M_FAILED_HUMAN_ID_CHECK`.
"""

from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError
from homeserver.matrix.human_ids import localpart_problem
from homeserver.matrix.identifiers import domain_of, is_room_alias, localpart_of
from homeserver.services import aliases
from homeserver.services.access_tokens import Requester
from homeserver.settings import settings


def new_alias(name: str, key: str) -> str:
    """The alias of this server with a localpart; `key`: where the client wrote it.

    Raises M_FAILED_HUMAN_ID_CHECK (400) with `failed_keys` for a name that cannot be given (`matrix.human_ids`), or
    that is too long.
    """
    alias = f"#{name}:{settings().server_name}"
    problem = localpart_problem(name)
    if problem is None and not is_room_alias(alias):
        problem = "The name is too long."
    if problem is not None:
        raise MatrixError(problem, errcode="M_FAILED_HUMAN_ID_CHECK", extra={"failed_keys": [key]})
    return alias


def alias_in_use(alias: str) -> MatrixError:
    """The answer to who wants an alias that there is."""
    return MatrixError(f"The alias {alias} is taken.", errcode="M_ROOM_IN_USE")


def create_alias(requester: Requester, alias: str, room_id: str) -> None:
    """Point a new alias of this server to a room. Raises as `aliases.create_alias`, M_ROOM_IN_USE (400) if it exists.

    Raises as `new_alias` does too, and BadJson for what is no room ID.
    """
    if not alias.startswith("#") or domain_of(alias) != settings().server_name:
        # A colon in the localpart is what a client wrote who forgot to leave it out.
        if alias.startswith("#") and alias.endswith(f":{settings().server_name}"):
            new_alias(alias[1:].removesuffix(f":{settings().server_name}"), "room_alias")
        raise InvalidParam("This is not a room alias of this server.")
    new_alias(localpart_of(alias), "room_alias")
    try:
        aliases.create_alias(requester, alias, room_id)
    except InvalidParam as error:
        raise BadJson(error.message) from error
    except MatrixError as error:
        if error.status == 409:
            raise alias_in_use(alias) from error
        raise
