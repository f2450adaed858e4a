"""Tags of a room: a user's own labels, such as favourites, kept as the room's account data `m.tag`.

Source: client-server API v1.19, "Room Tagging".
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import BadJson, InvalidParam
from homeserver.matrix.identifiers import fits_identifier
from homeserver.services.access_tokens import Requester
from homeserver.services.account_data import change_account_data, check_owner
from homeserver.storage import user_data

TAGS = "m.tag"


def tags_of(requester: Requester, user_id: str, room_id: str) -> dict[str, Any]:
    """The requester's tags of a room by name. Raises Forbidden for another user, InvalidParam for no room ID."""
    check_owner(requester, user_id, room_id)
    stored = user_data.load(user_id, room_id, TAGS)
    return _tags(stored.content if stored is not None else {})


def set_tag(requester: Requester, user_id: str, room_id: str, tag: str, content: Mapping[str, Any]) -> None:
    """Give a room a tag, or change what is kept with it: `order` from 0 to 1, and whatever else the client puts there.

    Raises Forbidden and InvalidParam as `tags_of`, InvalidParam also for a name that is too long and for an order out
    of its range, BadJson for an order that is no number, TooLarge and LimitExceeded as account data does.
    """
    check_owner(requester, user_id, room_id)
    if not tag or not fits_identifier(tag):
        raise InvalidParam("A tag has 1 to 255 bytes.")
    order = content.get("order")
    if order is not None:
        if not isinstance(order, int | float) or isinstance(order, bool):
            raise BadJson("order has the wrong type: it must be a number.")
        if not 0 <= order <= 1:
            raise InvalidParam("order must be a number from 0 to 1.")

    def with_tag(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "tags": {**_tags(old), tag: dict(content)}}

    change_account_data(user_id, room_id, TAGS, with_tag)


def remove_tag(requester: Requester, user_id: str, room_id: str, tag: str) -> None:
    """Take a tag away from a room; one that is not there stays away. Raises as `tags_of`, LimitExceeded."""
    check_owner(requester, user_id, room_id)

    def without_tag(old: dict[str, Any]) -> dict[str, Any] | None:
        tags = _tags(old)
        if tag not in tags:
            return None
        return {**old, "tags": {name: content for name, content in tags.items() if name != tag}}

    change_account_data(user_id, room_id, TAGS, without_tag)


def _tags(content: Mapping[str, Any]) -> dict[str, Any]:
    """The tags in account data, which clients may also write as a whole, with anything in it."""
    tags = content.get("tags")
    return tags if isinstance(tags, dict) else {}
