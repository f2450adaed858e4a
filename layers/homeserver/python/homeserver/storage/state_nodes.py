"""Nodes of state trees in DynamoDB: immutable, so whatever was read or written once is never read again."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.state_nodes import EMPTY_ROOT, Internal, decode_node, encode_key, key_hash, path_step
from homeserver.matrix.state_nodes import Key as StateKey
from homeserver.storage.connection import Key, batch_get, connection, in_parallel
from homeserver.storage.room_items import TreeNode

_CACHED_NODES = 4096  # about 8 MB of the largest nodes a room of 50,000 entries reads again and again
_BATCH_WRITE_LIMIT = 25

_cache: dict[tuple[str, bytes], bytes] = {}


def _remember(room_id: str, nodes: Mapping[bytes, bytes]) -> None:
    for node_id, data in nodes.items():
        _cache[room_id, node_id] = data
    while len(_cache) > _CACHED_NODES:
        # Oldest first; another thread of the local run may have taken the same one.
        _cache.pop(next(iter(_cache)), None)


def read_ahead(roots: Iterable[tuple[str, bytes]]) -> None:
    """Bring the root nodes of many rooms' states into memory, in one round: (room, root) pairs.

    One that cannot be seen yet is read again, consistently, by whoever needs it.
    """
    keys: list[Key] = [(TreeNode, *root) for root in roots if root not in _cache and root[1] != EMPTY_ROOT]
    if len(keys) > _CACHED_NODES // 2:
        return  # they would push each other out again
    for key, node in (batch_get(keys, consistent=False) if keys else {}).items():
        _remember(key[1], {key[2]: bytes(node.data)})


def known_entries(room_id: str, root: bytes, keys: Iterable[StateKey]) -> dict[StateKey, str] | None:
    """The event IDs of those of the keys that a tree has; None if this process would have to read nodes to know."""
    try:
        return state_tree.get_many(_KnownNodes(room_id), root, keys)
    except KeyError:
        return None


def is_known(room_id: str, node_id: bytes) -> bool:
    """Whether this process has a node in memory, so that it takes no read."""
    return node_id == EMPTY_ROOT or (room_id, node_id) in _cache


def take_back(room_id: str, root: bytes, changes: Mapping[StateKey, str | None], earlier: bytes) -> bool:
    """Work out the nodes of an earlier state from a later one in memory, instead of reading them.

    `changes` are what is supposed to have been there before: event IDs, or None for no entry. The root of what comes
    of it is compared with that of the `earlier` state, so a wrong guess is noticed. Returns whether the earlier state
    is in memory now, as far as it differs from the later one.
    """
    try:
        update = state_tree.update(_KnownNodes(room_id), root, changes)
    except KeyError:
        return False
    if update.root != earlier:
        return False
    _remember(room_id, update.new_nodes)
    return True


class _KnownNodes:
    """The nodes of one room that are in memory. Raises KeyError for any other."""

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id

    def get_many(self, ids: Iterable[bytes]) -> Mapping[bytes, bytes]:
        return {node_id: _cache[self.room_id, node_id] for node_id in ids}


class StateNodes:
    """The nodes of one room, and the new ones of a commit that is being prepared."""

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.new: dict[bytes, bytes] = {}

    def get_many(self, ids: Iterable[bytes]) -> Mapping[bytes, bytes]:
        """Nodes by ID: one round for those not known yet, a second for any that an eventual read missed.

        Raises KeyError for a node that does not exist.
        """
        found: dict[bytes, bytes] = {}
        missing = []
        for node_id in ids:
            data = self.new.get(node_id) or _cache.get((self.room_id, node_id))
            if data is None:
                missing.append(node_id)
            else:
                found[node_id] = data
        for consistent in (False, True):
            if not missing:
                return found
            read = {
                key[2]: bytes(node.data)
                for key, node in batch_get(
                    [(TreeNode, self.room_id, node_id) for node_id in missing], consistent=consistent
                ).items()
            }
            _remember(self.room_id, read)
            found.update(read)
            missing = [node_id for node_id in missing if node_id not in read]
        if missing:
            raise KeyError(f"state node {missing[0].hex()} of {self.room_id} does not exist")
        return found

    def add(self, nodes: Mapping[bytes, bytes]) -> None:
        """Take up nodes that a change of the tree made."""
        self.new.update(nodes)

    def write(self) -> None:
        """Store the new nodes. They come before the commit that names them; an orphan does no harm."""
        fresh = {node_id: data for node_id, data in self.new.items() if (self.room_id, node_id) not in _cache}
        self.write_beside(fresh)
        _remember(self.room_id, fresh)
        self.new.clear()

    def write_beside(self, items: Mapping[bytes, bytes]) -> None:
        """Store what belongs to nodes of the room under keys that are no node's."""
        table = TreeNode.Meta.table_name
        writes: list[dict[str, Any]] = [
            {"PutRequest": {"Item": {"room": {"S": self.room_id}, "node": {"B": node_id}, "d": {"B": data}}}}
            for node_id, data in items.items()
        ]
        chunks = [writes[i : i + _BATCH_WRITE_LIMIT] for i in range(0, len(writes), _BATCH_WRITE_LIMIT)]
        in_parallel(*[lambda chunk=chunk: _write_all(table, chunk) for chunk in chunks])


def _write_all(table: str, writes: list[dict[str, Any]]) -> None:
    left = {table: writes}
    for _ in range(8):
        answer = connection().dispatch("BatchWriteItem", {"RequestItems": left})
        left = answer.get("UnprocessedItems") or {}
        if not left:
            return
    raise TimeoutError("the store did not take all state nodes")


def read_trees(
    nodes: StateNodes,
    *,
    wholes: Iterable[bytes] = (),
    paths: Iterable[bytes] = (),
    keys: Iterable[StateKey] = (),
    tops: Iterable[bytes] = (),
    pairs: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Bring trees into memory, by their roots: whole ones, of others the `paths` to `keys`, or their `tops` alone.

    Of `pairs` what `state_tree.diff` looks at. One round a level for all of them together, whatever is asked of them
    afterwards. Raises KeyError for a node that does not exist.
    """
    hashes = [key_hash(encode_key(key)) for key in keys]
    # What is searched below a node; None: everything.
    level: dict[bytes, list[bytes] | None] = {root: [] for root in tops}
    level.update({root: list(hashes) for root in paths})
    level.update(dict.fromkeys(wholes))
    level.pop(EMPTY_ROOT, None)
    compared = {(a, b) for a, b in pairs if a != b and EMPTY_ROOT not in (a, b)}
    depth = 0
    while level or compared:
        found = nodes.get_many({*level, *chain.from_iterable(compared)})
        level = _below(found, level, depth)
        compared = _compared_below(found, compared, level)
        depth += 1


def _below(
    found: Mapping[bytes, bytes], level: Mapping[bytes, list[bytes] | None], depth: int
) -> dict[bytes, list[bytes] | None]:
    below: dict[bytes, list[bytes] | None] = {}
    for node_id, searched in level.items():
        node = decode_node(found[node_id])
        if not isinstance(node, Internal):
            continue
        if searched is None:
            below.update(dict.fromkeys(child.id for child in node.children.values()))
            continue
        for hashed in searched:
            child = node.children.get(path_step(hashed, depth))
            if child is not None and (known := below.setdefault(child.id, [])) is not None:
                known.append(hashed)
    return below


def _compared_below(
    found: Mapping[bytes, bytes], pairs: Iterable[tuple[bytes, bytes]], below: dict[bytes, list[bytes] | None]
) -> set[tuple[bytes, bytes]]:
    """The pairs of nodes that differ below pairs; `below` takes up what has no counterpart, and is read whole."""
    compared: set[tuple[bytes, bytes]] = set()
    for pair in pairs:
        left, right = (_children(found[node_id]) for node_id in pair)
        for step in left.keys() | right.keys():
            a, b = left.get(step), right.get(step)
            if a is not None and b is not None:
                compared |= {(a, b)} if a != b else set()
            else:
                below.update(dict.fromkeys(one for one in (a, b) if one is not None))
    return compared


def _children(encoded: bytes) -> dict[int, bytes]:
    node = decode_node(encoded)
    return {step: child.id for step, child in node.children.items()} if isinstance(node, Internal) else {}


def entry_count(nodes: StateNodes, root: bytes) -> int:
    """How many entries a state has: its top node says so."""
    if root == EMPTY_ROOT:
        return 0
    node = decode_node(nodes.get_many([root])[root])
    return sum(child.entry_count for child in node.children.values()) if isinstance(node, Internal) else len(node)
