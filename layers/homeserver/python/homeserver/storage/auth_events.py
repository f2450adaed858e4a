"""The auth graph of a room in DynamoDB, and what all of a state's auth chains reach.

Bodies, covers and coordinates never change, so what was read once is kept. (A redaction takes nothing from an event
that the authorisation rules look at; whoever shows an event to somebody reads it elsewhere.)

What an unconflicted state reaches is asked of the leaves of its tree: for each leaf the highest number per chain that
its events' auth chains reach. It is worked out once from their records, and stored beside the node under the node's ID
with a letter in front: a later resolution pays for the leaves that are new.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from homeserver.matrix.chain_cover import AUTHORISING_TYPES, ChainCover, Coordinates, cover_of, joint_reach
from homeserver.matrix.event import Event
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.event_ids import encode_event_id, read_event_id
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.state_nodes import (
    EMPTY_ROOT,
    Internal,
    Key,
    decode_event_id,
    decode_node,
    encode_key,
    key_hash,
    path_step,
)
from homeserver.matrix.varint import encode_varint, read_varint
from homeserver.storage.connection import Key as ItemKey
from homeserver.storage.connection import TransactionCancelled, batch_get
from homeserver.storage.room_items import EventRecord, TreeNode
from homeserver.storage.state_nodes import StateNodes

_CACHED_RECORDS = 20_000
_CACHED_LEAVES = 4_000
_REACH = b"r"  # in front of a leaf's ID: the key of what its events reach
_REACH_FORMAT = 1
_LARGEST_REACH = 300_000  # bytes; an item has 400 KB
_MOST_TAKEN = 10_000

_records: dict[str, "KnownEvent"] = {}
_leaves: dict[bytes, Mapping[str, int]] = {}
_taken: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """What a record says of an event: its room, flags and packed cover, and itself where the record has its body."""

    room_id: str
    flags: str
    event: Event | None
    cover: bytes | None

    @classmethod
    def of_record(cls, record: EventRecord, rules: RoomVersionRules) -> "KnownEvent":
        """From a record; its body is that of a state event."""
        room_id, flags = record.room or "", record.flags or ""
        pdu = unpack(record.packed) if record.packed is not None else None
        event = None if pdu is None else Event(record.event_id, room_id, pdu, rules, rejected="r" in flags)
        return cls(room_id, flags, event, record.cover)


def known_events(ids: Iterable[str], rules: RoomVersionRules) -> dict[str, KnownEvent]:
    """What is known of events, of whatever room: at most one round, for those that the process has not met before."""
    wanted = list(dict.fromkeys(ids))
    found = {event_id: known for event_id in wanted if (known := _records.get(event_id)) is not None}
    keys: list[ItemKey] = [(EventRecord, event_id, None) for event_id in wanted if event_id not in found]
    for record in batch_get(keys, consistent=True).values() if keys else ():
        if record.room is not None:
            found[record.event_id] = KnownEvent.of_record(record, rules)
            remember_event(record.event_id, found[record.event_id])
    return found


def remember_event(event_id: str, known: KnownEvent) -> None:
    """Keep what a record says, unless it is an outlier's: its place, and with it a rejection, may still come."""
    if "o" in known.flags or known.event is None:
        return
    _records[event_id] = known
    while len(_records) > _CACHED_RECORDS:
        _records.pop(next(iter(_records)), None)


class RoomAuthEvents:
    """`ports.AuthEvents` of one room, on EVENTS; `pending` are events that are only being committed."""

    def __init__(self, room_id: str, rules: RoomVersionRules, pending: Mapping[str, KnownEvent] | None = None) -> None:
        self._room_id, self._rules = room_id, rules
        self._pending = pending or {}

    def _known(self, ids: Collection[str]) -> dict[str, KnownEvent]:
        pending = {event_id: self._pending[event_id] for event_id in ids if event_id in self._pending}
        return pending | known_events([event_id for event_id in ids if event_id not in pending], self._rules)

    def events(self, ids: Collection[str]) -> dict[str, Event]:
        """Those of the events that the room has, rejected ones with `rejected` set."""
        found = self._known(ids)
        return {i: k.event for i, k in found.items() if k.event is not None and k.room_id == self._room_id}

    def covers(self, ids: Collection[str]) -> dict[str, ChainCover]:
        """Coordinates and reach of those of the events that are of AUTHORISING_TYPES."""
        return {i: ChainCover.unpack(known.cover) for i, known in self._known(ids).items() if known.cover is not None}

    def at(self, coordinates: Collection[Coordinates]) -> dict[Coordinates, str]:
        """The IDs of the events that stand there."""
        found = {(chain, number): chain for chain, number in coordinates if number == 0}
        items = {chain_item(chain, number): (chain, number) for chain, number in coordinates if number > 0}
        keys: list[ItemKey] = [(EventRecord, item, None) for item in items]
        for item in batch_get(keys, consistent=True).values() if keys else ():
            found[items[item.event_id]] = item.at
        return found


# ── Chain items ──────────────────────────────────────────────────────────────


def chain_item(chain: str, number: int) -> str:
    """The key of the item that says which event has these coordinates."""
    return f"chain/{chain}/{number}"


def is_taken(item: str) -> bool:
    """Whether a commit was refused before because another event has these coordinates: then it has them for ever."""
    return item in _taken


def remember_taken(cancelled: TransactionCancelled) -> bool:
    """Learn from a commit that failed which coordinates are taken; whether there were any."""
    items = [label.removeprefix("chain ") for label in cancelled.reasons if label.startswith("chain ")]
    taken = [item for item in items if cancelled.failed(f"chain {item}")]
    for item in taken:
        _taken[item] = item
        while len(_taken) > _MOST_TAKEN:
            _taken.pop(next(iter(_taken)), None)
    return bool(taken)


def cover_for(
    event: Event, auth: Iterable[tuple[Event, bytes | None]], taken: Collection[str] = ()
) -> tuple[ChainCover | None, str | None]:
    """The cover of an event by its auth events (with their packed covers), and its chain item if it continues a chain.

    It continues the chain of the auth event with its own key, unless the next number there is known to be taken. Events
    that authorise nothing have no cover.
    """
    if event.type not in AUTHORISING_TYPES or not event.is_state:
        return None, None
    covers = {other.event_id: (other, ChainCover.unpack(packed)) for other, packed in auth if packed is not None}
    reach = [cover for _, cover in covers.values()]
    for other, previous in covers.values():
        if other.is_state and other.key == event.key:
            item = chain_item(previous.chain, previous.number + 1)
            if item not in taken and not is_taken(item):
                return cover_of(event.event_id, reach, continues=previous), item
    return cover_of(event.event_id, reach), None


# ── What a state reaches ─────────────────────────────────────────────────────


def reached_by(
    nodes: StateNodes, rules: RoomVersionRules, root: bytes, conflicted: Callable[[], Collection[Key]]
) -> Callable[[Collection[Coordinates]], set[Coordinates]]:
    """`UnconflictedState.reached` for the entries of a tree but the conflicted ones, asked for when needed."""

    def reached(coordinates: Collection[Coordinates]) -> set[Coordinates]:
        whole, parts = _leaves_of(nodes, root, conflicted())
        reaches = [*_reaches_of_leaves(nodes, whole, rules), _reach_of_events(nodes.room_id, parts, rules)]
        return {
            (chain, number) for chain, number in coordinates if any(reach.get(chain, -1) >= number for reach in reaches)
        }

    return reached


def reach_of_state(nodes: StateNodes, rules: RoomVersionRules, root: bytes) -> dict[str, int]:
    """For each chain the highest number that is in the auth chain of any event of a state."""
    leaves, _ = _leaves_of(nodes, root, ())
    reach: dict[str, int] = {}
    for part in _reaches_of_leaves(nodes, leaves, rules):
        for chain, number in part.items():
            reach[chain] = max(number, reach.get(chain, -1))
    return reach


def _leaves_of(nodes: StateNodes, root: bytes, without: Collection[Key]) -> tuple[list[bytes], list[str]]:
    """The IDs of the leaves that have none of the keys, and the event IDs of the other entries of those that do."""
    whole: list[bytes] = []
    parts: list[str] = []
    level: list[tuple[bytes, list[bytes]]] = [(root, [encode_key(key) for key in without])]
    depth = 0
    while level:
        ids = [node_id for node_id, _ in level if node_id != EMPTY_ROOT]
        encoded = nodes.get_many(ids)
        below: list[tuple[bytes, list[bytes]]] = []
        for node_id, keys in level:
            if node_id == EMPTY_ROOT:
                continue
            node = decode_node(encoded[node_id])
            if not isinstance(node, Internal):
                if any(key in node for key in keys):
                    parts += [decode_event_id(event) for key, event in node.items() if key not in keys]
                else:
                    whole.append(node_id)
                continue
            for step, child in node.children.items():
                below.append((child.id, [key for key in keys if path_step(key_hash(key), depth) == step]))
        level = below
        depth += 1
    return whole, parts


def _reaches_of_leaves(nodes: StateNodes, leaves: list[bytes], rules: RoomVersionRules) -> list[Mapping[str, int]]:
    missing = [leaf for leaf in leaves if leaf not in _leaves]
    found = {leaf: _leaves[leaf] for leaf in leaves if leaf in _leaves}
    if missing:
        keys: list[ItemKey] = [(TreeNode, nodes.room_id, _REACH + leaf) for leaf in missing]
        stored = {node.node[len(_REACH) :]: node.data for node in batch_get(keys, consistent=False).values()}
        found |= {leaf: _unpack_reach(data) for leaf, data in stored.items()}
        found |= _work_out(nodes, [leaf for leaf in missing if leaf not in stored], rules)
        for leaf in missing:
            _leaves[leaf] = found[leaf]
        while len(_leaves) > _CACHED_LEAVES:
            _leaves.pop(next(iter(_leaves)), None)
    return list(found.values())


def _work_out(nodes: StateNodes, leaves: list[bytes], rules: RoomVersionRules) -> dict[bytes, Mapping[str, int]]:
    """The reach of leaves that nobody has asked before, which is stored for those who will."""
    entries = {}
    for leaf, data in nodes.get_many(leaves).items():
        node = decode_node(data)
        if isinstance(node, Internal):
            raise TypeError(f"{leaf.hex()} is no leaf")
        entries[leaf] = [decode_event_id(event) for event in node.values()]
    _read_with_authorities([event_id for ids in entries.values() for event_id in ids], rules)
    found = {leaf: _reach_of_events(nodes.room_id, ids, rules) for leaf, ids in entries.items()}
    packed = {_REACH + leaf: _pack_reach(reach) for leaf, reach in found.items()}
    nodes.write_beside({key: data for key, data in packed.items() if len(data) <= _LARGEST_REACH})
    return dict(found)


def _read_with_authorities(event_ids: list[str], rules: RoomVersionRules) -> None:
    """Bring events into memory, and those that authorise the ones without a cover of their own: two rounds."""
    found = known_events(event_ids, rules)
    others = [known.event for known in found.values() if known.cover is None and known.event is not None]
    known_events([auth_id for event in others for auth_id in event.auth_event_ids], rules)


def _reach_of_events(room_id: str, event_ids: list[str], rules: RoomVersionRules) -> dict[str, int]:
    """The union of the auth chains of these events."""
    covers = []
    found = known_events(event_ids, rules)
    plain = [known.event for known in found.values() if known.cover is None and known.event is not None]
    authorities = known_events([auth_id for event in plain for auth_id in event.auth_event_ids], rules)
    for event_id, known in found.items():
        if known.cover is not None:
            covers.append(ChainCover.unpack(known.cover))
        elif known.event is not None:
            by = [authorities[i].cover for i in known.event.auth_event_ids if i in authorities]
            covers.append(cover_of(event_id, [ChainCover.unpack(packed) for packed in by if packed is not None]))
    return {chain: number for chain, number in joint_reach(covers).items() if number >= 0}


def _pack_reach(reach: Mapping[str, int]) -> bytes:
    out = bytearray([_REACH_FORMAT])
    for chain, number in sorted(reach.items()):
        out += encode_event_id(chain) + encode_varint(number)
    return bytes(out)


def _unpack_reach(data: bytes) -> dict[str, int]:
    if data[:1] != bytes([_REACH_FORMAT]):
        raise ValueError(f"what a leaf reaches has the unknown format {data[:1].hex()}")
    reach, offset = {}, 1
    while offset < len(data):
        chain, offset = read_event_id(data, offset)
        reach[chain], offset = read_varint(data, offset)
    return reach
