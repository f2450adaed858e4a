"""The room in which a user gets the server's notices: `server_notices` beside the user's account."""

from pynamodb.attributes import UnicodeAttribute
from pynamodb.expressions.condition import Condition

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

_KEY = "server_notices"


class NoticeRoom(Item):
    """Which room it is; another one takes its place if the server account could no longer write there."""

    class Meta:
        table_name = table_name("ACCOUNTS")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True, default=_KEY)
    room = UnicodeAttribute()


def notice_room_of(user_id: str) -> str | None:
    """The room of a user's notices, or None before the first one."""
    item = NoticeRoom.fetch(user_id, _KEY)
    return str(item.room) if item is not None else None


def set_notice_room(transaction: Transaction, user_id: str, room_id: str, *, before: str | None) -> None:
    """Add to the transaction that makes the room: it is the user's, if there is no other one (label `notices`)."""
    unchanged: Condition = NoticeRoom.user.does_not_exist() if before is None else NoticeRoom.room == before
    transaction.put("notices", NoticeRoom(user_id, room=room_id), unchanged)
