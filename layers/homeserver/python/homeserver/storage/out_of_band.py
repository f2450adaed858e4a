"""What a local user is in a room that this server is not in: `out_of_band/<user>` in ROOMS.

It is written with the user's `local/<user>` row, by the same transaction, and says what that row has no place for: the
membership event itself, which nothing else keeps, and whom to ask about the room. It is out of date once the row names
another event.
"""

from collections.abc import Sequence

from pynamodb.attributes import BinaryAttribute, ListAttribute, UnicodeAttribute

from homeserver.matrix.event import Event
from homeserver.matrix.event_codec import pack, unpack
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key

_PREFIX = "out_of_band/"


class OutOfBand(Item):
    """A membership event without its room."""

    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    event_id = UnicodeAttribute(attr_name="e")
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False)
    # As the server that told of the room has it: of a stub nobody else vouches for it
    room_version = UnicodeAttribute(attr_name="rv")
    # Servers that are in the room, the best to ask first
    servers: ListAttribute[str] = ListAttribute(attr_name="sv")
    # IDs of the membership events before: whoever repeats one of them changes nothing
    before: ListAttribute[str] = ListAttribute(attr_name="b")

    @property
    def event(self) -> Event:
        """The membership event."""
        return Event(self.event_id, self.room, unpack(self.packed), ROOM_VERSIONS[self.room_version])


def out_of_band_key(room_id: str, user_id: str) -> Key:
    """Where the item of a user lies: to be read together with the room."""
    return (OutOfBand, room_id, _PREFIX + user_id)


def out_of_band_item(event: Event, servers: Sequence[str], before: Sequence[str]) -> OutOfBand:
    """The item of a membership event, to be put."""
    return OutOfBand(
        event.room_id,
        _PREFIX + (event.state_key or ""),
        event_id=event.event_id,
        packed=pack(event.pdu),
        room_version=event.rules.version,
        servers=list(servers),
        before=list(before),
    )
