"""The mainline: the power levels in force and those they go back to, as a clock for all other events.

Source: "State resolution" of room version 2, "Mainline ordering".
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from homeserver.matrix.chain_cover import ChainCover, Coordinates
from homeserver.matrix.event import Event
from homeserver.matrix.state_resolution.auth_graph import AuthGraph


def mainline_order(graph: AuthGraph, events: Collection[str], power_levels: Event | None) -> list[str]:
    """The IDs by the age of the power levels they rest on, oldest first; then `origin_server_ts`, then ID.

    power_levels: the event whose mainline it is; None for a state without power levels: then all events are equally
    old. The auth events of `events` must be loaded.
    """
    positions = _positions(graph, events, power_levels) if power_levels else {}

    def rank(event_id: str) -> tuple[float, int, str]:
        event = graph.event(event_id)
        return -positions.get(event_id, math.inf), event.origin_server_ts, event_id

    return sorted(events, key=rank)


@dataclass(slots=True)
class _Mainline:
    """Parts of chains of power levels. `tops` has for each chain the highest number that is in the mainline and its
    position there, counted from 0 for the newest; numbers below follow one by one.
    """

    tops: dict[str, tuple[int, int]] = field(default_factory=dict)
    length: int = 0

    def add(self, place: Coordinates) -> None:
        chain, number = place
        self.tops[chain] = (number, self.length)
        self.length += number + 1

    def position(self, place: Coordinates) -> int | None:
        """How far down the mainline one gets to it from here along the chain; None if one does not."""
        chain, number = place
        if chain not in self.tops:
            return None
        top, position = self.tops[chain]
        return position + max(0, top - number)


def _positions(graph: AuthGraph, events: Collection[str], power_levels: Event) -> dict[str, int]:
    """The mainline position of each event that has one.

    In a chain of power levels each event but the first names the one before it as its power levels. So a walk from
    power levels to power levels goes down a chain to its first event, and from there to another chain: the steps
    inside a chain need no reading, and the steps between chains are read for all chains at once.
    """
    parents = {event_id: graph.power_levels_of(graph.event(event_id)) for event_id in events}
    graph.load_covers({power_levels.event_id, *(parent.event_id for parent in parents.values() if parent)})
    start = graph.cover(power_levels.event_id)
    places = {event_id: graph.cover(parent.event_id) for event_id, parent in parents.items() if parent}
    # Where all stand in the chain that the mainline begins with, nothing more has to be read.
    single = all(cover.chain == start.chain for cover in places.values())
    continuations = {} if single else _continuations(graph, [start, *places.values()])

    mainline = _Mainline()
    step: Coordinates | None = start.coordinates
    while step is not None:
        mainline.add(step)
        step = continuations.get(step[0])
    positions: dict[str, int] = {}
    for event_id, cover in places.items():
        place: Coordinates | None = cover.coordinates
        while place is not None:
            position = mainline.position(place)
            if position is not None:
                positions[event_id] = position
                break
            place = continuations.get(place[0])
    return positions


def _continuations(graph: AuthGraph, covers: Collection[ChainCover]) -> dict[str, Coordinates]:
    """For each chain of power levels that the covers reach: where the power levels of its first event stand."""
    # A chain is named by the ID of its first event.
    chains = {chain for cover in covers for chain in (cover.chain, *cover.reach)}
    graph.load_events(chains)
    firsts = [event for event in map(graph.event, chains) if event.type == "m.room.power_levels"]
    graph.load_events({auth_id for first in firsts for auth_id in first.auth_event_ids})
    found = {first.event_id: graph.power_levels_of(first) for first in firsts}
    parents = {chain: parent.event_id for chain, parent in found.items() if parent}
    graph.load_covers(parents.values())
    return {chain: graph.cover(parent).coordinates for chain, parent in parents.items()}
