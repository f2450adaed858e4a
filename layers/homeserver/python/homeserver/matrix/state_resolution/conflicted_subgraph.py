"""The conflicted state subgraph: the events by which conflicted events rest on one another.

Source: "State resolution" of room version 12 (MSC4297), "Conflicted state subgraph".
"""

from collections.abc import Collection, Iterable
from math import isqrt

from homeserver.matrix.chain_cover import ChainCover, Coordinates, joint_reach
from homeserver.matrix.state_resolution.auth_graph import AuthGraph

# A part of a chain up to this many events is read at once.
_AT_ONCE = 64


def conflicted_subgraph(graph: AuthGraph, conflicted: Collection[str]) -> set[str]:
    """The IDs of all events on a path along auth events from one conflicted event to another, both ends included.

    Covers of the conflicted events must be loaded. An event is between two conflicted ones if one of them reaches it
    and it reaches another. In a chain the first holds for everything up to some number, the second for everything from
    some number on. This lower end is searched in three rounds of two calls, each for all chains together, which read
    the covers of about two square roots of a chain's length.
    """
    covers = graph.covers(conflicted)
    targets = _lowest(covers)
    tops = joint_reach(cover for cover in covers if _reaches_any(cover, targets))
    found = set(graph.ids_at(_between(graph, tops, targets)).values())
    # The first event of a path need not be in anybody's auth chain.
    found.update(event_id for event_id in conflicted if _reaches_any(graph.cover(event_id), targets))
    return found


def _lowest(covers: Iterable[ChainCover]) -> dict[str, int]:
    """For each chain the lowest number of an event in it."""
    lowest: dict[str, int] = {}
    for cover in covers:
        lowest[cover.chain] = min(cover.number, lowest.get(cover.chain, cover.number))
    return lowest


def _reaches_any(cover: ChainCover, targets: dict[str, int]) -> bool:
    return any(cover.reach_in(chain) >= targets[chain] for chain in (cover.chain, *cover.reach) if chain in targets)


def _between(graph: AuthGraph, tops: dict[str, int], targets: dict[str, int]) -> list[Coordinates]:
    """The coordinates up to `tops` whose events are targets, or reach one."""
    # From `lowest` on all are known to belong; the range in `unsure` ends below it and may have more that do.
    lowest = {chain: min(targets.get(chain, top + 1), top + 1) for chain, top in tops.items()}
    unsure = {chain: range(number) for chain, number in lowest.items() if number > 0}
    # First the highest: if it does not belong, nothing below it does.
    for probes_of in (_highest, _spread, _all):
        probes = {chain: probes_of(numbers) for chain, numbers in unsure.items()}
        places = [(chain, number) for chain, asked in probes.items() for number in asked]
        reaching = _reaching(graph, places, targets)
        for chain, asked in probes.items():
            numbers = unsure.pop(chain)
            belong = [number for number in asked if (chain, number) in reaching]
            lowest[chain] = min(belong, default=lowest[chain])
            below = [number for number in asked if number < lowest[chain]]
            left = range(max(below, default=numbers.start - 1) + 1, lowest[chain])
            if left:
                unsure[chain] = left
    return [(chain, number) for chain, top in tops.items() for number in range(lowest[chain], top + 1)]


def _highest(numbers: range) -> range:
    return numbers[-1:]


def _spread(numbers: range) -> range:
    return numbers if len(numbers) <= _AT_ONCE else numbers[:: isqrt(len(numbers))]


def _all(numbers: range) -> range:
    return numbers


def _reaching(graph: AuthGraph, places: Collection[Coordinates], targets: dict[str, int]) -> set[Coordinates]:
    """Those of the coordinates whose events have a target in their auth chains."""
    ids = graph.ids_at(places)
    graph.load_covers(ids.values())
    return {place for place, event_id in ids.items() if _reaches_any(graph.cover(event_id), targets)}
