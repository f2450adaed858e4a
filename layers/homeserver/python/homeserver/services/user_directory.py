"""Searching for users by the beginnings of the words of their names.

Source: client-server API v1.19, "User Directory". A user is found by everyone who shares a room with them, and by all
while they are in a room that anybody may join or read; with USER_DIRECTORY=all all find every user of this server.
"""

from typing import Any

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.folding import fold, words
from homeserver.matrix.identifiers import domain_of, localpart_of
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.settings import settings
from homeserver.storage.connection import in_parallel, query_range
from homeserver.storage.open_rooms import open_rooms
from homeserver.storage.room_items import Membership
from homeserver.storage.user_index import LONGEST_WORD, IndexedUser, find_users

DEFAULT_LIMIT, MAX_LIMIT = 10, 100
# One search reads no more than so many words of the index, and the rooms of no more than so many users.
MOST_WORDS_READ = 400
MOST_USERS_CHECKED = 96
_CHECKED_AT_ONCE = 16
_MOST_ROOMS = 2000  # of one user that are looked through
_MOST_WORDS_ASKED = 8


def search_users(requester: Requester, term: str, limit: int | None = None) -> dict[str, Any]:
    """The users who match all words of the term, whole names first (`results`), and whether there may be more.

    A term that begins with `@` is the beginning of a user ID.
    Raises InvalidParam for a limit below 1, LimitExceeded.
    """
    limit = DEFAULT_LIMIT if limit is None else limit
    if limit < 1:
        raise InvalidParam("limit must be at least 1.")
    limit = min(limit, MAX_LIMIT)
    user_id = requester.user_id
    is_id = term.startswith("@")
    asked = words(localpart_of(term) if is_id else term, most=_MOST_WORDS_ASKED, longest=LONGEST_WORD)
    rate_limits.take_finding(user_id)
    if not asked:
        return {"results": [], "limited": False}
    (found, more), own, open_to_all = in_parallel(
        lambda: find_users(max(asked, key=len), limit=MOST_WORDS_READ), lambda: _rooms_of(user_id), open_rooms
    )
    wanted = [
        user
        for user in found
        if user.user_id != user_id
        and user.matches(asked)
        and (not is_id or user.user_id.lower().startswith(term.lower()))
    ]
    wanted.sort(key=lambda user: (_rank(user, term), user.display_name is None, user.user_id.partition(":")))
    visible, unsure = _visible(wanted, own | open_to_all, limit + 1)
    return {"results": [_shown(user) for user in visible[:limit]], "limited": more or unsure or len(visible) > limit}


def _rooms_of(user_id: str) -> frozenset[str]:
    rows = query_range(Membership, user_id, consistent=False, limit=_MOST_ROOMS)
    return frozenset(row.room for row in rows if row.membership == "join")


def _rank(user: IndexedUser, term: str) -> int:
    """Whose whole name this is come first, then whose name begins like it."""
    asked = fold(term).strip()
    names = [user.user_id.lower(), localpart_of(user.user_id).lower(), fold(user.display_name or "").strip()]
    return 0 if asked in names else 1 if any(name.startswith(asked) for name in names) else 2


def _visible(users: list[IndexedUser], rooms: frozenset[str], most: int) -> tuple[list[IndexedUser], bool]:
    """The first `most` of the users who are in one of these rooms; and whether there were too many to look at all."""
    everyone = settings().user_directory == "all"
    visible: list[IndexedUser] = []
    checked = 0
    start = 0
    while start < len(users) and len(visible) < most:
        if checked >= MOST_USERS_CHECKED:
            return visible, True
        part = users[start : start + _CHECKED_AT_ONCE]
        start += _CHECKED_AT_ONCE
        unknown = [
            user.user_id for user in part if not (everyone and domain_of(user.user_id) == settings().server_name)
        ]
        checked += len(unknown)
        found = in_parallel(*[lambda user_id=user_id: _rooms_of(user_id) for user_id in unknown])
        hidden = {user_id for user_id, joined in zip(unknown, found, strict=True) if joined.isdisjoint(rooms)}
        visible += [user for user in part if user.user_id not in hidden]
    return visible, False


def _shown(user: IndexedUser) -> dict[str, Any]:
    shown = {"user_id": user.user_id, "display_name": user.display_name, "avatar_url": user.avatar_url}
    return {name: value for name, value in shown.items() if value is not None}
