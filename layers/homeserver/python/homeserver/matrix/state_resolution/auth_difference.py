"""The auth difference: what is in the auth chains of some of the states, but not of all.

Source: "State resolution" of room version 2, "Full conflicted set".
"""

from collections.abc import Collection, Sequence

from homeserver.matrix.chain_cover import joint_reach
from homeserver.matrix.ports import UnconflictedState
from homeserver.matrix.state_resolution.auth_graph import AuthGraph


def auth_difference(graph: AuthGraph, states: Sequence[Collection[str]], unconflicted: UnconflictedState) -> set[str]:
    """The IDs of the events of the auth difference.

    states: the conflicted events of each state, with their covers loaded.

    With D the auth chains of a state's conflicted events and U those of the unconflicted ones, which all states share,
    a state's auth chains are D + U. So what lies in some but not in all of them is what lies in some D but not in
    all, and not in U. In each chain a D is everything up to one number: between the lowest and the highest of these
    numbers lies what some have and others have not. Chains do not branch, so nothing is left out.
    """
    reaches = [joint_reach(graph.covers(state)) for state in states]
    candidates = []
    for chain in {chain for reach in reaches for chain in reach}:
        ends = [reach.get(chain, -1) for reach in reaches]
        candidates += [(chain, number) for number in range(min(ends) + 1, max(ends) + 1)]
    if not candidates:
        return set()
    shared = set(unconflicted.reached(sorted(candidates)))
    return set(graph.ids_at([place for place in candidates if place not in shared]).values())
