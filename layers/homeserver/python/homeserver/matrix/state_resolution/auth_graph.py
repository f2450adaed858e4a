"""The auth graph as one resolution has read it: bodies and covers of events, read in bulk before they are asked for."""

from collections.abc import Collection, Iterable

from homeserver.matrix.chain_cover import AUTHORISING_TYPES, ChainCover, Coordinates, cover_of
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.ports import AuthEvents


class MissingAuthEvents(MatrixError):
    """State cannot be resolved: events of the auth graph are not there, or have no chain cover.

    `event_ids` are those that are known by their ID, `coordinates` those known only by their place in a chain.
    """

    status = 500

    def __init__(self, event_ids: Iterable[str] = (), coordinates: Iterable[Coordinates] = ()) -> None:
        self.event_ids = tuple(sorted(event_ids))
        self.coordinates = tuple(sorted(coordinates))
        named = [*self.event_ids, *(f"{chain}/{number}" for chain, number in self.coordinates)]
        super().__init__(f"the auth graph lacks {len(named)} events: {', '.join(named[:10])}")


class AuthGraph:
    """Reads each event and cover once; what is asked for must have been loaded."""

    __slots__ = ("_auth", "_covers", "_events")

    def __init__(self, auth: AuthEvents) -> None:
        self._auth = auth
        self._events: dict[str, Event] = {}
        self._covers: dict[str, ChainCover] = {}

    def load_events(self, ids: Iterable[str]) -> None:
        """Read those events that are not here yet, in one call. Raises MissingAuthEvents."""
        wanted = sorted(set(ids) - self._events.keys())
        if wanted:
            self._events.update(self._auth.events(wanted))
            _require(wanted, self._events)

    def event(self, event_id: str) -> Event:
        return self._events[event_id]

    def auth_events(self, event: Event) -> list[Event]:
        """The events that the event names as its authority, in its order."""
        return [self._events[event_id] for event_id in event.auth_event_ids]

    def power_levels_of(self, event: Event) -> Event | None:
        """The power levels among an event's own auth events, rejected or not."""
        found = (auth for auth in self.auth_events(event) if auth.type == "m.room.power_levels")
        return next(found, None)

    def load_covers(self, ids: Iterable[str]) -> None:
        """Read the covers of events that are not here yet, in one call. Raises MissingAuthEvents.

        An event of another than the authorising types has no coordinates: nobody's auth chain contains it. Its own
        auth chain is its auth events with theirs, so it is given the cover of a chain that only it is in; its body
        must be loaded.
        """
        needed = set(ids) - self._covers.keys()
        bodies = [self._events[event_id] for event_id in needed if event_id in self._events]
        others = [event for event in bodies if event.type not in AUTHORISING_TYPES]
        needed.difference_update(event.event_id for event in others)
        needed.update(auth_id for event in others for auth_id in event.auth_event_ids)
        missing = sorted(needed - self._covers.keys())
        if missing:
            self._covers.update(self._auth.covers(missing))
            _require(missing, self._covers)
        for event in others:
            authorities = [self._covers[auth_id] for auth_id in event.auth_event_ids]
            self._covers[event.event_id] = cover_of(event.event_id, authorities)

    def cover(self, event_id: str) -> ChainCover:
        return self._covers[event_id]

    def covers(self, ids: Iterable[str]) -> list[ChainCover]:
        return [self._covers[event_id] for event_id in ids]

    def ids_at(self, coordinates: Collection[Coordinates]) -> dict[Coordinates, str]:
        """The ID of the event at each of the coordinates, in one call. Raises MissingAuthEvents."""
        if not coordinates:
            return {}
        found = dict(self._auth.at(sorted(coordinates)))
        missing = [place for place in coordinates if place not in found]
        if missing:
            raise MissingAuthEvents(coordinates=missing)
        return found


def _require(ids: Iterable[str], known: Collection[str]) -> None:
    missing = [event_id for event_id in ids if event_id not in known]
    if missing:
        raise MissingAuthEvents(missing)
