"""Tokens of `/sync` and of a room's timeline: what was delivered, as text that a client keeps for us.

A **sync token** (`next_batch`, `since`) is a vector: for every room slot of the user's inbox the last position that
was delivered, and the numbers of the account-wide streams. It never says what the inbox announced. Tokens come back
from outside, so they are untrusted: anything malformed raises InvalidParam, and no other exception.

Encoding: `s` and the unpadded base64url of

    1 (version; 2 if somebody was typing), epoch, user tag (4 bytes), base,
    number of streams, per stream: code (1 byte), number; codes ascending
    positions, then ephemeral numbers, each as runs of neighbouring slots:
        number of runs, per run: slots skipped since the run before, length - 1, that many numbers above 0
    only in version 2: the times at which typing ends, in the same form

where every integer is a varint. A vector without holes costs its numbers and three bytes, a sparse one three bytes an
entry. Equal tokens have equal encodings.

A **room token** (`start`, `end`, `prev_batch`, `from`, `to` of `/messages`) is `t<live>_<offset>`.

Source: client-server API v1.19, "Syncing" and "Pagination"; `docs/architecture.md`.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.varint import encode_varint, read_varint

MAX_SLOT = 100_000
MAX_TOKEN_LENGTH = 65_536
_VERSION, _WITH_TYPING = 1, 2
_USER_TAG_BYTES = 4
_STREAM_CODES = {"account_data": 1, "invites": 2, "to_device": 3, "device_lists": 4, "presence": 5}
_STREAMS = {code: name for name, code in _STREAM_CODES.items()}
_SYNC_TOKEN = re.compile(r"s[A-Za-z0-9_-]+", re.ASCII)
_ROOM_TOKEN = re.compile(r"t(0|[1-9][0-9]{0,17})_(0|-[1-9][0-9]{0,17})", re.ASCII)


def user_tag(user_id: str) -> bytes:
    """The four bytes by which a token of another user is recognised."""
    return sha256(user_id.encode()).digest()[:_USER_TAG_BYTES]


@dataclass(frozen=True, slots=True, order=True)
class RoomToken:
    """A gap between events of one room: the place just after the position `(live, offset)`.

    `live` numbers what reached the room while we were in it, from 1. `offset` is 0 for those events, and -1, -2, ..
    for history that was fetched for the anchor `live` and lies before it. Positions are ordered as pairs. Forward
    from a token are the positions above it, backward those up to and including it; the position itself need not
    exist, so a gap stays right when history is fetched into it later. `RoomToken(0, 0)` is before everything.
    """

    live: int
    offset: int = 0

    @classmethod
    def before(cls, live: int, offset: int = 0) -> "RoomToken":
        """The gap just before a position: after whatever history that position has or will get."""
        return cls(live, offset - 1)

    def encode(self) -> str:
        """The token as text. Raises ValueError for a position that cannot be."""
        text = f"t{self.live}_{self.offset}"
        if not _ROOM_TOKEN.fullmatch(text):
            raise ValueError(f"({self.live}, {self.offset}) is not a position")
        return text

    @classmethod
    def decode(cls, text: str) -> "RoomToken":
        """The gap that a token names. Raises InvalidParam for anything else."""
        match = _ROOM_TOKEN.fullmatch(text)
        if match is None:
            raise InvalidParam("This is not a token of a room's timeline")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class SyncToken:
    """What one device was told.

    `epoch` is the store's: a token of an older one answers with limited timelines and full state. `positions` are
    slot -> last delivered live position, `ephemeral` slot -> last delivered ephemeral number; absent or 0 means never
    told. `typing` are the slots of rooms that were told to have somebody typing -> the time in milliseconds at which
    the first of them stops. `streams` are numbers of the account-wide streams by name. `base`, when not 0, numbers
    stored vectors that `positions` and `ephemeral` only amend.
    """

    epoch: int
    user_tag: bytes
    positions: Mapping[int, int] = field(default_factory=dict)
    ephemeral: Mapping[int, int] = field(default_factory=dict)
    streams: Mapping[str, int] = field(default_factory=dict)
    base: int = 0
    typing: Mapping[int, int] = field(default_factory=dict)

    def with_base(self, positions: Mapping[int, int], ephemeral: Mapping[int, int] | None = None) -> "SyncToken":
        """The token with the vectors of its stored base filled in: complete, and without a base."""
        merged = {**(ephemeral or {}), **self.ephemeral}
        return replace(self, positions={**positions, **self.positions}, ephemeral=merged, base=0)

    def room_token(self, slot: int) -> RoomToken:
        """Where the timeline of a slot's room ended for this token. Raises ValueError while the base is missing."""
        if self.base and slot not in self.positions:
            raise ValueError("the positions of the token's base are needed first")
        return RoomToken(self.positions.get(slot, 0))

    def encode(self) -> str:
        """The token as text. Raises ValueError for negative numbers and KeyError for streams that do not exist."""
        if len(self.user_tag) != _USER_TAG_BYTES:
            raise ValueError("a user tag has four bytes")
        told = sorted((_STREAM_CODES[name], number) for name, number in self.streams.items() if number)
        is_typing = any(self.typing.values())
        out = bytearray([_WITH_TYPING if is_typing else _VERSION])
        out += encode_varint(self.epoch)
        out += self.user_tag
        out += encode_varint(self.base)
        out += encode_varint(len(told))
        for code, number in told:
            out.append(code)
            out += encode_varint(number)
        _append_vector(out, self.positions)
        _append_vector(out, self.ephemeral)
        if is_typing:
            _append_vector(out, self.typing)
        return "s" + urlsafe_b64encode(out).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str, *, user_id: str) -> "SyncToken":
        """The token that `encode` wrote for this user.

        Raises InvalidParam for anything else. Another epoch is no error here: compare `epoch` with the store's.
        """
        if len(text) > MAX_TOKEN_LENGTH or not _SYNC_TOKEN.fullmatch(text):
            raise InvalidParam("This is not a sync token of this server")
        try:
            token = _decode(text)
        except (ValueError, IndexError, KeyError) as error:
            raise InvalidParam("This is not a sync token of this server") from error
        if token.user_tag != user_tag(user_id):
            raise InvalidParam("This is not a sync token of this user")
        return token


def decode_either(text: str, *, user_id: str) -> SyncToken | RoomToken:
    """A token where `/messages` takes one of a room's timeline or of `/sync`. Raises InvalidParam."""
    if text.startswith("s"):
        return SyncToken.decode(text, user_id=user_id)
    return RoomToken.decode(text)


def _append_vector(out: bytearray, vector: Mapping[int, int]) -> None:
    runs: list[tuple[int, list[int]]] = []
    end = -1
    for slot in sorted(vector):
        if not 0 <= slot <= MAX_SLOT:
            raise ValueError(f"there is no slot {slot}")
        if vector[slot] == 0:
            continue
        if slot != end:
            runs.append((slot, []))
        runs[-1][1].append(vector[slot])
        end = slot + 1
    out += encode_varint(len(runs))
    end = 0
    for start, numbers in runs:
        out += encode_varint(start - end)
        out += encode_varint(len(numbers) - 1)
        for number in numbers:
            out += encode_varint(number)
        end = start + len(numbers)


def _decode(text: str) -> SyncToken:
    encoded = text[1:]
    data = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    if urlsafe_b64encode(data).rstrip(b"=").decode() != encoded:
        raise ValueError("the last character has bits that mean nothing")
    if data[0] not in {_VERSION, _WITH_TYPING}:
        raise ValueError("unknown version")
    epoch, at = read_varint(data, 1)
    tag = data[at : at + _USER_TAG_BYTES]
    base, at = read_varint(data, at + _USER_TAG_BYTES)
    stream_count, at = read_varint(data, at)
    streams: dict[str, int] = {}
    last_code = 0
    for _ in range(stream_count):
        code = data[at]
        number, at = read_varint(data, at + 1)
        if code <= last_code or number == 0:
            raise ValueError("streams stand once each, in order, and only when there was something")
        streams[_STREAMS[code]] = number
        last_code = code
    positions, at = _read_vector(data, at)
    ephemeral, at = _read_vector(data, at)
    typing: dict[int, int] = {}
    if data[0] == _WITH_TYPING:
        typing, at = _read_vector(data, at)
        if not typing:
            raise ValueError("where nobody is typing the version is the first")
    if at != len(data):
        raise ValueError("there is more than a token")
    return SyncToken(epoch, tag, positions, ephemeral, streams, base, typing)


def _read_vector(data: bytes, at: int) -> tuple[dict[int, int], int]:
    vector: dict[int, int] = {}
    run_count, at = read_varint(data, at)
    slot = 0
    for run in range(run_count):
        skipped, at = read_varint(data, at)
        more, at = read_varint(data, at)
        if run and skipped == 0:
            raise ValueError("two runs touch")
        slot += skipped
        if slot + more > MAX_SLOT:
            raise ValueError("there are no such slots")
        end = slot + more + 1
        while slot < end:
            number, at = read_varint(data, at)
            if number == 0:
                raise ValueError("a run has no holes")
            vector[slot] = number
            slot += 1
    return vector, at
