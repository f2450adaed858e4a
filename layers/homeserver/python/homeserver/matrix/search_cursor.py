"""`next_batch` of a search: how far each room was searched, newest first.

The token says nothing that is secret and grants nothing: it is made of positions, and what may be read is decided
anew with each request.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.varint import encode_varint, read_varint

_FORMAT = 1
_ROOM_HASH = 5
_KINDS = ("", "room_id", "sender")
_LONGEST = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on in a room: the position to search from downwards (0: it is finished), and no event there or
    below arrived later than `upper` (milliseconds).
    """

    position: int
    upper: int


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """How far a search has come. `group` restricts it to a room or a sender: its key and value, or two empty texts."""

    told: int = 0  # results that were returned so far
    group: tuple[str, str] = ("", "")
    places: Mapping[bytes, Place] = field(default_factory=dict)

    def place(self, room_id: str) -> Place | None:
        """Where to go on in a room; None where it has not been begun."""
        return self.places.get(room_hash(room_id))

    def encode(self) -> str:
        """The cursor as text."""
        kind, value = self.group
        base = max((place.upper for place in self.places.values()), default=0)
        out = bytearray([_FORMAT])
        out += encode_varint(self.told) + encode_varint(base) + encode_varint(_KINDS.index(kind))
        out += encode_varint(len(value.encode())) + value.encode()
        for name, place in self.places.items():
            # Whole seconds, cut off: the bound may only rise by it.
            behind = max(0, base - place.upper) // 1000 if place.position else 0
            out += name + encode_varint(place.position) + encode_varint(behind)
        return base64.urlsafe_b64encode(bytes(out)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "SearchCursor":
        """Raises InvalidParam for what is no cursor."""
        try:
            return cls._decode(text)
        except (ValueError, IndexError) as error:
            raise InvalidParam("next_batch is not a token of a search.") from error

    @classmethod
    def _decode(cls, text: str) -> "SearchCursor":
        if len(text) > _LONGEST or not text.isascii():
            raise ValueError("too long, or no base64")
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if data[0] != _FORMAT:
            raise ValueError("unknown format")
        told, at = read_varint(data, 1)
        base, at = read_varint(data, at)
        kind, at = read_varint(data, at)
        length, at = read_varint(data, at)
        value, at = data[at : at + length].decode(), at + length
        places: dict[bytes, Place] = {}
        while at < len(data):
            name, at = data[at : at + _ROOM_HASH], at + _ROOM_HASH
            position, at = read_varint(data, at)
            behind, at = read_varint(data, at)
            places[name] = Place(position, base - behind * 1000)
        return cls(told, (_KINDS[kind], value), places)


def room_hash(room_id: str) -> bytes:
    """Five bytes that stand for a room among those of one user."""
    return hashlib.blake2b(room_id.encode(), digest_size=_ROOM_HASH).digest()
