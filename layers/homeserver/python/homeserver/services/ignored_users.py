"""Whom a user ignores.

Source: client-server API v1.19, "Ignoring Users": the account data `m.ignored_user_list`, which clients write.
"""

from homeserver.storage import user_data

IGNORED_USER_LIST = "m.ignored_user_list"
_CACHED_USERS = 2000

# By user: a number of the user's account data stream, and the list as it was when the stream stood there, or later.
_lists: dict[str, tuple[int, frozenset[str]]] = {}


def ignored_by(user_id: str, *, number: int | None = None) -> frozenset[str]:
    """The users whom a user ignores, never the user: one consistent read, or none.

    `number` is where the user's account data stream stands, from an inbox that was read before (however late): every
    change of the list moves the stream, so a list that was read under this number, or a later one, is still right.
    Without a number the list is always read.
    """
    if number is not None and user_id in _lists and _lists[user_id][0] >= number:
        return _lists[user_id][1]
    stored = user_data.load(user_id, None, IGNORED_USER_LIST)
    named = stored.content.get("ignored_users") if stored is not None else None
    ignored = frozenset(named) - {user_id} if isinstance(named, dict) else frozenset[str]()
    if number is not None:
        _lists.pop(user_id, None)
        _lists[user_id] = (number, ignored)
        while len(_lists) > _CACHED_USERS:
            _lists.pop(next(iter(_lists)), None)
    return ignored
