"""Account data: what a user's clients keep on the server, for the account or for one room.

Source: client-server API v1.19, "Client Config".
"""

from collections.abc import Callable, Mapping
from typing import Any

from homeserver.matrix.canonical_json import NotCanonical, encode_lenient
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, NotFound, TooLarge
from homeserver.matrix.identifiers import fits_identifier, is_room_id
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.storage import user_data
from homeserver.storage.connection import TransactionCancelled
from homeserver.storage.user_data import AccountData

# The specification names no limit. This one keeps an item (400 KB) and an answer of /sync (about 4 MB) far away,
# and leaves room for m.direct with a few thousand rooms.
MAX_CONTENT_BYTES = 256 * 1024

# "m.fully_read" moves with read markers, and "m.push_rules" with the endpoints of push rules.
SERVER_CONTROLLED = frozenset({"m.fully_read", "m.push_rules"})


def get_account_data(requester: Requester, user_id: str, data_type: str, *, room_id: str | None = None) -> AccountData:
    """Account data of the requester: of the account, or of a room if one is given.

    Raises Forbidden for another user, InvalidParam for a malformed room ID, NotFound for data that was never set.
    """
    _check(requester, user_id, data_type, room_id)
    stored = user_data.load(user_id, room_id, data_type)
    if stored is None:
        raise NotFound("There is no account data of this type.")
    return stored


def set_account_data(
    requester: Requester, user_id: str, data_type: str, content: Mapping[str, Any], *, room_id: str | None = None
) -> None:
    """Set account data of the requester. Content that is there already is not written again.

    Raises as `get_account_data` does; BadJson (405) for types that only the server changes; TooLarge above 256 KiB.
    """
    _check(requester, user_id, data_type, room_id)
    if data_type in SERVER_CONTROLLED:
        raise BadJson(f"{data_type} cannot be set through this API.", status=405)
    write_account_data(user_id, room_id, data_type, content)


def write_account_data(user_id: str, room_id: str | None, data_type: str, content: Mapping[str, Any]) -> None:
    """Write account data of any type, the server's own too, and announce it to the user's devices.

    Raises BadJson for content nested too deep, TooLarge above 256 KiB, LimitExceeded when other writers of the same
    user win until the time is over.
    """
    content_json = _encoded(content)
    change_account_data(user_id, room_id, data_type, lambda _: content_json)


def change_account_data(
    user_id: str,
    room_id: str | None,
    data_type: str,
    change: Callable[[dict[str, Any]], Mapping[str, Any] | bytes | None],
) -> None:
    """Change account data by what it is now, whoever else writes at the same time; announce it to the user's devices.

    `change` makes the new content, or its JSON, of the old one (empty if there is none yet), and None to leave it. It
    is called once a try. Content that is there already is not written again. Raises as `write_account_data` does.
    """
    for _ in attempts("The account data"):
        stored, number = user_data.load_with_stream(user_id, room_id, data_type)
        changed = change(stored.content if stored is not None else {})
        if changed is None:
            return
        content_json = changed if isinstance(changed, bytes) else _encoded(changed)
        if stored is not None and stored.content_json == content_json:
            return
        try:
            user_data.store(user_id, room_id, data_type, content_json, number=number + 1)
        except TransactionCancelled:
            continue
        return


def _encoded(content: Mapping[str, Any]) -> bytes:
    try:
        content_json = encode_lenient(dict(content))
    except NotCanonical as error:
        raise BadJson(f"The content cannot be stored: {error}") from error
    if len(content_json) > MAX_CONTENT_BYTES:
        raise TooLarge(f"Account data has at most {MAX_CONTENT_BYTES} bytes.")
    return content_json


def check_owner(requester: Requester, user_id: str, room_id: str | None = None) -> None:
    """Raises Forbidden for data of another user, InvalidParam for a malformed room ID."""
    if requester.user_id != user_id:
        raise Forbidden("A user has access to their own account data only.")
    if room_id is not None and not is_room_id(room_id):
        raise InvalidParam("This is not a room ID.")


def _check(requester: Requester, user_id: str, data_type: str, room_id: str | None) -> None:
    check_owner(requester, user_id, room_id)
    if not data_type or not fits_identifier(data_type):
        raise InvalidParam("The type of account data has 1 to 255 bytes.")
