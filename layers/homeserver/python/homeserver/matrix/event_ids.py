"""Event IDs in few bytes: 32 for an ID that is a hash, the text for any other.

From room version 4 an ID is `$` and 43 characters of URL-safe base64; stored as raw bytes it takes 32 instead of 44.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable

from homeserver.matrix.varint import encode_varint, read_varint

# The last character carries four bits only, so just these are canonical: any other ID is kept as text.
_HASH_ID = re.compile(r"\$[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)
_HASH_BYTES = 32


def encode_event_id(event_id: str) -> bytes:
    """The ID with its length in front: 33 bytes for a hash, a zero byte and the text for any other ID."""
    if _HASH_ID.fullmatch(event_id):
        return bytes([_HASH_BYTES]) + urlsafe_b64decode(event_id[1:] + "=")
    text = event_id.encode()
    return b"\0" + encode_varint(len(text)) + text


def read_event_id(data: bytes, offset: int) -> tuple[str, int]:
    """The ID at an offset, and the offset behind it. Raises ValueError or IndexError for damaged data."""
    if data[offset] == _HASH_BYTES:
        end = offset + 1 + _HASH_BYTES
        return "$" + urlsafe_b64encode(data[offset + 1 : end]).rstrip(b"=").decode(), end
    length, start = read_varint(data, offset + 1)
    return data[start : start + length].decode(), start + length


def pack_event_ids(event_ids: Iterable[str]) -> bytes:
    """A list of event IDs, in order."""
    return b"".join(encode_event_id(event_id) for event_id in event_ids)


def unpack_event_ids(data: bytes) -> list[str]:
    """The list that `pack_event_ids` packed."""
    found, offset = [], 0
    while offset < len(data):
        event_id, offset = read_event_id(data, offset)
        found.append(event_id)
    return found
