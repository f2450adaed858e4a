"""The state of a room where forks meet, by the roots of the states that meet.

A state is named by its root, so the same roots always resolve to the same root: it is worked out once in a process. The
new tree is stored before anybody can name it.

Source: "State resolution" of the room versions; server-server API v1.19, "Room State Resolution".
"""

from collections.abc import Iterable, Mapping

from homeserver.matrix import state_tree
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.state_nodes import Key
from homeserver.matrix.state_resolution import fork_states, resolve
from homeserver.observability import fault_point
from homeserver.storage.auth_events import KnownEvent, RoomAuthEvents, reached_by
from homeserver.storage.state_nodes import StateNodes

_CACHED_RESOLUTIONS = 10_000

_resolved: dict[tuple[str, frozenset[bytes]], bytes] = {}


def known_resolution(room_id: str, roots: Iterable[bytes]) -> bytes | None:
    """The resolved root, if it takes no resolution or this process has done it before."""
    distinct = frozenset(roots)
    if len(distinct) == 1:
        return next(iter(distinct))
    return _resolved.get((room_id, distinct))


def resolve_roots(
    nodes: StateNodes,
    rules: RoomVersionRules,
    roots: Iterable[bytes],
    pending: Mapping[str, KnownEvent] | None = None,
) -> bytes:
    """The root of the state that the states of some roots resolve to; its nodes are stored.

    `nodes` are the room's, with those of a commit that is being prepared; `pending` the events of it. Raises ValueError
    without roots, and MissingAuthEvents where the auth graph is not whole.
    """
    distinct = frozenset(roots)
    known = known_resolution(nodes.room_id, distinct)
    if known is not None:
        return known
    # Any order gives the same state; this one makes the reads the same too.
    ordered = sorted(distinct)
    conflicted: list[Key] = []
    reached = reached_by(nodes, rules, ordered[0], lambda: conflicted)
    forks = fork_states(nodes, nodes.room_id, ordered, reached)
    conflicted += forks.conflicted
    changes = resolve(rules, forks, RoomAuthEvents(nodes.room_id, rules, pending))
    update = state_tree.update(nodes, ordered[0], changes)
    nodes.add(update.new_nodes)
    nodes.write()
    fault_point("resolve.stored")
    _resolved[nodes.room_id, distinct] = update.root
    while len(_resolved) > _CACHED_RESOLUTIONS:
        _resolved.pop(next(iter(_resolved)), None)
    return update.root
