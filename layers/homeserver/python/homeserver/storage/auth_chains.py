"""Auth chains: all events that authorise some events, directly or through others, without walking from one to the next.

The covers of events (matrix.chain_cover) say how far a chain of the cover reaches into an auth chain; the items of the
chains say which events these are. So an auth chain takes the same few rounds however long it is.

Source: server-server API v1.19, "PDUs", `auth_events`; "Auth chain" in its definition of state resolution.
"""

from collections.abc import Iterable, Mapping

from homeserver.matrix.chain_cover import ChainCover, Coordinates, cover_of
from homeserver.matrix.errors import TooLarge
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.storage.auth_events import RoomAuthEvents, known_events, reach_of_state
from homeserver.storage.state_nodes import StateNodes


def auth_chain_of_event(
    room_id: str, rules: RoomVersionRules, auth_event_ids: Iterable[str], *, most: int
) -> list[str]:
    """The IDs of an event's auth chain, by those of its auth events, which are in it. Raises as `_listed` does."""
    known = known_events(auth_event_ids, rules)
    covers = [ChainCover.unpack(event.cover) for event in known.values() if event.cover is not None]
    return _listed(room_id, rules, cover_of("", covers).reach, most)


def auth_chain_of_state(nodes: StateNodes, rules: RoomVersionRules, root: bytes, *, most: int) -> list[str]:
    """The IDs of the auth chains of all events of a state, each once. Raises as `_listed` does.

    What the state's leaves reach is stored beside them when they are asked for the first time.
    """
    return _listed(nodes.room_id, rules, reach_of_state(nodes, rules, root), most)


def _listed(room_id: str, rules: RoomVersionRules, reach: Mapping[str, int], most: int) -> list[str]:
    """The events that a reach says. Raises TooLarge, before they are read, for more than `most`; LookupError."""
    if sum(number + 1 for number in reach.values()) > most:
        raise TooLarge("The auth chain is more than this server can put into one answer.")
    places: list[Coordinates] = [(chain, number) for chain, last in reach.items() for number in range(last + 1)]
    found = RoomAuthEvents(room_id, rules).at(places)
    if len(found) < len(places):
        missing = next(place for place in places if place not in found)
        raise LookupError(f"nothing stands at {missing[1]} of chain {missing[0]} in {room_id}")
    return [found[place] for place in places]
