"""The nodes of the state tree as bytes: keys, event IDs, leaves and internal nodes.

The first byte of a node is its format (integers are varints):

    0x10 leaf       entries by key hash: type code, [length, type if the code is 0], length, state key,
                    0, 32 bytes of a hash ID | length + 1, event ID
    0x11 internal   16-bit bitmap of children; per child: ID (20 bytes), bytes of its entries, number of its entries

Everything that the bytes depend on, the table of type codes too, belongs to the format: a change of it needs new
format bytes. Node IDs are the first 20 bytes of the SHA-256 of the encoding. Each value has one encoding.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from homeserver.matrix.varint import encode_varint, read_varint

Key = tuple[str, str]
"""`(type, state_key)`."""

_ID_BYTES = 20
_LEAF = 0x10
_INTERNAL = 0x11

# The code of a type is its place in this table, from 1; 0 says that the type is written out. Never change the order.
_TYPES = (
    "m.room.member",
    "m.room.create",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.third_party_invite",
    "m.room.pinned_events",
    "m.room.tombstone",
    "m.room.aliases",
    "m.space.child",
    "m.space.parent",
    "m.policy.rule.user",
    "m.policy.rule.room",
    "m.policy.rule.server",
    "m.beacon_info",
    "m.bridge",
    "m.widget",
    "im.vector.modular.widgets",
    "org.matrix.msc3401.call.member",
)
_TYPE_CODES = {event_type: bytes([code]) for code, event_type in enumerate(_TYPES, 1)}

# `$` and the unpadded URL-safe base64 of 32 bytes: the last character carries four bits, so two are zero.
_HASH_EVENT_ID = re.compile(r"\$[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)


class Child(NamedTuple):
    """A node that exists: its ID, the bytes and the number of the entries under it."""

    id: bytes
    size: int
    entry_count: int


Leaf = dict[bytes, bytes]
"""Encoded key -> encoded event ID, in the order of the key hashes."""


@dataclass(frozen=True, slots=True)
class Internal:
    """Children by path step."""

    children: dict[int, Child]


def key_hash(encoded_key: bytes) -> bytes:
    """The path of an encoded key: 32 bytes, 64 steps."""
    return sha256(encoded_key).digest()


def path_step(hashed_key: bytes, depth: int) -> int:
    """The child, 0 to 15, that a key's path takes at a depth."""
    byte = hashed_key[depth >> 1]
    return byte & 15 if depth & 1 else byte >> 4


def encode_key(key: Key) -> bytes:
    event_type, state_key = key
    prefix = _TYPE_CODES.get(event_type)
    if prefix is None:
        written_out = event_type.encode()
        prefix = b"\0" + encode_varint(len(written_out)) + written_out
    encoded = state_key.encode()
    return prefix + encode_varint(len(encoded)) + encoded


def decode_key(encoded: bytes) -> Key:
    code, at = encoded[0], 1
    if code == 0:
        length, at = read_varint(encoded, at)
        event_type = encoded[at : at + length].decode()
        at += length
    elif code <= len(_TYPES):
        event_type = _TYPES[code - 1]
    else:
        raise ValueError(f"unknown type code {code} in a state node")
    _, at = read_varint(encoded, at)
    return event_type, encoded[at:].decode()


def encode_event_id(event_id: str) -> bytes:
    """33 bytes for an ID that is a hash in URL-safe base64, one more than its length for short others."""
    if _HASH_EVENT_ID.fullmatch(event_id):
        return b"\0" + urlsafe_b64decode(event_id[1:] + "=")
    encoded = event_id.encode()
    return encode_varint(len(encoded) + 1) + encoded


def decode_event_id(encoded: bytes) -> str:
    if encoded[0] == 0:
        return "$" + urlsafe_b64encode(encoded[1:])[:43].decode()
    _, at = read_varint(encoded, 0)
    return encoded[at:].decode()


def encode_leaf(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A leaf of encoded keys and event IDs, which come in the order of their key hashes."""
    return bytes([_LEAF]) + b"".join(key + event for key, event in entries)


def encode_internal(children: Mapping[int, Child]) -> bytes:
    bitmap = sum(1 << nibble for nibble in children)
    parts = [bytes([_INTERNAL]), bitmap.to_bytes(2, "big")]
    for nibble in sorted(children):
        child = children[nibble]
        parts += (child.id, encode_varint(child.size), encode_varint(child.entry_count))
    return b"".join(parts)


def decode_node(data: bytes) -> Leaf | Internal:
    """A stored node. Raises ValueError for an unknown format or damaged data."""
    if data[:1] == bytes([_LEAF]):
        return _decode_leaf(data)
    if data[:1] == bytes([_INTERNAL]):
        return _decode_internal(data)
    raise ValueError(f"a state node of the unknown format {data[:1].hex() or '(empty)'}")


def _decode_leaf(data: bytes) -> Leaf:
    entries: Leaf = {}
    at, end = 1, len(data)
    while at < end:
        start = at
        at += 1
        if data[start] == 0:
            length, at = read_varint(data, at)
            at += length
        length, at = read_varint(data, at)
        at += length
        event_at = at
        length, at = read_varint(data, at)
        at += length - 1 if length else 32
        if at > end:
            raise ValueError("a state node is cut off")
        entries[data[start:event_at]] = data[event_at:at]
    return entries


def _decode_internal(data: bytes) -> Internal:
    bitmap = int.from_bytes(data[1:3], "big")
    children: dict[int, Child] = {}
    at = 3
    for nibble in range(16):
        if bitmap >> nibble & 1:
            node_id = data[at : at + _ID_BYTES]
            size, at = read_varint(data, at + _ID_BYTES)
            count, at = read_varint(data, at)
            children[nibble] = Child(node_id, size, count)
    if at != len(data):
        raise ValueError("a state node is longer than its children")
    return Internal(children)


def id_of_node(encoded: bytes) -> bytes:
    return sha256(encoded).digest()[:_ID_BYTES]


EMPTY_ROOT: bytes = id_of_node(encode_leaf(()))
"""The root of the state without entries."""
