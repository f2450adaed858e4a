"""The states that meet, taken apart: what they agree on, and for each other key what each of them has.

Source: "State resolution" of room version 2, definitions of the unconflicted state map and the conflicted state set.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from homeserver.matrix import state_tree
from homeserver.matrix.chain_cover import Coordinates
from homeserver.matrix.ports import TreeNodes, UnconflictedState
from homeserver.matrix.state_nodes import Key


@dataclass(frozen=True, slots=True)
class Forks:
    """Two or more states of one room.

    `conflicted` has every key for which the states do not all have the same event, with the event ID that each state
    has, in one order for all keys; None where a state does not have the key.
    """

    room_id: str
    conflicted: Mapping[Key, tuple[str | None, ...]]
    unconflicted: UnconflictedState

    @property
    def conflicted_ids(self) -> set[str]:
        """The conflicted state set: the IDs of all events that some state has for a conflicted key."""
        return {event_id for values in self.conflicted.values() for event_id in values if event_id is not None}

    @property
    def states(self) -> list[list[str]]:
        """The IDs of the conflicted events of each state."""
        columns = zip(*self.conflicted.values(), strict=True)
        return [[event_id for event_id in column if event_id is not None] for column in columns]


class _UnconflictedTree:
    """The entries of a state tree whose keys are not conflicted."""

    __slots__ = ("_conflicted", "_nodes", "_reached", "_root")

    def __init__(
        self,
        nodes: TreeNodes,
        root: bytes,
        conflicted: Collection[Key],
        reached: Callable[[Collection[Coordinates]], Collection[Coordinates]],
    ) -> None:
        self._nodes, self._root, self._conflicted, self._reached = nodes, root, conflicted, reached

    def get_many(self, keys: Collection[Key]) -> Mapping[Key, str]:
        return state_tree.get_many(self._nodes, self._root, [key for key in keys if key not in self._conflicted])

    def reached(self, coordinates: Collection[Coordinates]) -> Collection[Coordinates]:
        return self._reached(coordinates)


def fork_states(
    nodes: TreeNodes,
    room_id: str,
    roots: Sequence[bytes],
    reached: Callable[[Collection[Coordinates]], Collection[Coordinates]],
) -> Forks:
    """The forks of a room from the roots of their state trees (20 bytes each). Reads only nodes that differ.

    reached: `UnconflictedState.reached` of the entries that all these trees have in common.
    Raises ValueError without any root, and KeyError for a node that does not exist.
    """
    if not roots:
        raise ValueError("there is no state to resolve")
    first = roots[0]
    changes = {root: state_tree.diff(nodes, first, root) for root in dict.fromkeys(roots)}
    in_first = {key: event_id for changed in changes.values() for key, (event_id, _) in changed.items()}
    conflicted = {
        key: tuple(changes[root][key][1] if key in changes[root] else in_first[key] for root in roots)
        for key in sorted(in_first)
    }
    return Forks(room_id, conflicted, _UnconflictedTree(nodes, first, conflicted.keys(), reached))
