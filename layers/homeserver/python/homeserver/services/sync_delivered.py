"""What a device was told: from the token that it shows, into the token that it gets.

A token comes back from outside. What it claims is compared with the store where that matters: a position or number
that was never reached makes it no token of ours (400), and nothing is read by it.

Source: client-server API v1.19, "Syncing"; `docs/architecture.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pynamodb.exceptions import VerboseClientError

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.sync_token import SyncToken, user_tag
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.storage import sync_bases
from homeserver.storage.connection import connection
from homeserver.storage.inbox import read_inbox
from homeserver.storage.inbox_shards import Inbox
from homeserver.storage.rooms import load_heads
from homeserver.storage.server import identity
from homeserver.storage.slots import rooms_of_slots

LONGEST_TOKEN = 1024  # characters; beyond it the positions go into a stored base


@dataclass(slots=True)
class Delivered:
    """What was delivered before, and will have been delivered after the answer.

    `positions` by slot; `again`: the client has timelines that mean nothing any more, as the store was set back or the
    token's base is gone, so that everything is told from scratch.
    """

    positions: dict[int, int] = field(default_factory=dict)
    ephemeral: dict[int, int] = field(default_factory=dict)
    typing: dict[int, int] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)
    base: int = 0
    base_positions: Mapping[int, int] = field(default_factory=dict)
    base_ephemeral: Mapping[int, int] = field(default_factory=dict)
    again: bool = False


@dataclass(frozen=True, slots=True)
class Bases:
    """The stored vectors of a device by the number of their base: positions, and ephemeral numbers if there are any."""

    positions: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    ephemeral: Mapping[int, Mapping[int, int]] = field(default_factory=dict)


def decode_token(requester: Requester, since: str | None) -> SyncToken | None:
    """The token that a client shows, if it shows one. Raises InvalidParam for what is no token of this user."""
    return SyncToken.decode(since, user_id=requester.user_id) if since is not None else None


def read_bases(requester: Requester, token: SyncToken | None) -> Bases:
    """The stored bases of the device where the token needs one; else nothing is read."""
    return _read_bases(requester) if token is not None and token.base else Bases()


def _read_bases(requester: Requester) -> Bases:
    answer = connection().dispatch("GetItem", sync_bases.base_request(requester.user_id, requester.device_id))
    item = answer.get("Item")
    return Bases(sync_bases.parse_bases(item), sync_bases.parse_ephemeral(item))


def delivered_before(token: SyncToken | None, bases: Bases, epoch: int) -> Delivered:
    """What a token says was delivered; nothing without one. Raises InvalidParam for an epoch that never was."""
    if token is None:
        return Delivered()
    if token.epoch > epoch:
        epoch = identity(refresh=True).epoch  # this process may not know yet
        if token.epoch > epoch:
            raise InvalidParam("This is not a sync token of this server")
    if token.epoch < epoch or (token.base and token.base not in bases.positions):
        # The store was set back, so that positions may mean something else now; or nobody knows what was delivered.
        return Delivered(again=True)
    told = Delivered(dict(token.positions), dict(token.ephemeral), dict(token.typing), dict(token.streams))
    if token.base:
        told.base, told.base_positions = token.base, bases.positions[token.base]
        told.base_ephemeral = bases.ephemeral.get(token.base, {})
        told.positions = {**told.base_positions, **told.positions}
        told.ephemeral = {**told.base_ephemeral, **told.ephemeral}
    return told


def check_reached(user_id: str, told: Delivered, inbox: Inbox) -> None:
    """Raises InvalidParam for a token that claims more than there ever was.

    Costs nothing for a token that the inbox is level with. One that is ahead of it may be right nevertheless (the
    inbox was read eventually, or it lags behind a room), so that the inbox is read again, and then the heads.
    """
    if not _ahead(told, inbox) and not _streams_ahead(told, inbox):
        return
    now = read_inbox(user_id, consistent=True)
    if _streams_ahead(told, now):
        raise InvalidParam("This is not a sync token of this server")
    suspicious = _ahead(told, now)
    rooms = rooms_of_slots(user_id, suspicious) if suspicious else {}
    heads = load_heads(rooms.values()) if rooms else {}
    for slot in suspicious:
        head = heads.get(rooms.get(slot, ""))
        if head is None or told.positions[slot] > int(head.position):
            raise InvalidParam("This is not a sync token of this server")


def _ahead(told: Delivered, inbox: Inbox) -> list[int]:
    return [
        slot
        for slot, position in told.positions.items()
        if position and (slot not in inbox.slots or position > inbox.slots[slot].position)
    ]


def _streams_ahead(told: Delivered, inbox: Inbox) -> bool:
    return any(number > inbox.streams.get(name, 0) for name, number in told.streams.items())


def next_token(requester: Requester, told: Delivered, epoch: int) -> str:
    """The token for what was delivered; beyond about 400 rooms its vectors amend a stored base."""
    tag = user_tag(requester.user_id)
    token = SyncToken(epoch, tag, told.positions, told.ephemeral, told.streams, typing=told.typing)
    text = token.encode()
    if len(text) <= LONGEST_TOKEN:
        return text
    if told.base:
        positions = {s: p for s, p in told.positions.items() if told.base_positions.get(s, 0) != p}
        ephemeral = {s: n for s, n in told.ephemeral.items() if told.base_ephemeral.get(s, 0) != n}
        text = replace(token, positions=positions, ephemeral=ephemeral, base=told.base).encode()
        if len(text) <= LONGEST_TOKEN:
            return text
    number = _store_base(requester, told)
    return replace(token, positions={}, ephemeral={}, base=number).encode()


def _store_base(requester: Requester, told: Delivered) -> int:
    """Store the vectors as a new base of the device; returns its number. The base that was in use stays readable."""
    for _ in attempts("The sync token"):
        bases = _read_bases(requester)
        number = max(bases.positions, default=0) + 1
        write = sync_bases.store_base_request(
            requester.user_id,
            requester.device_id,
            number,
            told.positions,
            {told.base: told.base_positions} if told.base in bases.positions else bases.positions,
            ephemeral=told.ephemeral,
            kept_ephemeral=bases.ephemeral,
        )
        try:
            connection().dispatch("PutItem", write)
        except VerboseClientError as error:
            if error.response["Error"].get("Code") != "ConditionalCheckFailedException":
                raise
            continue
        return number
    raise AssertionError("attempts() never ends by itself")
