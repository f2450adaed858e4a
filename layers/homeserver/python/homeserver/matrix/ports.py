"""What the core and the services ask of the outside: protocols that storage and adapters implement."""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from homeserver.matrix.chain_cover import ChainCover, Coordinates
from homeserver.matrix.event import Event
from homeserver.matrix.state_nodes import Key
from homeserver.matrix.sync_token import SyncToken


class TreeNodes(Protocol):
    """Where the nodes of state trees are kept: immutable, content-addressed, under one room."""

    def get_many(self, ids: Iterable[bytes]) -> Mapping[bytes, bytes]:
        """Encoded nodes by their 20-byte IDs. Raises KeyError for an ID that does not exist."""
        ...


class Waiter(Protocol):
    """What makes `/sync` wait: a loop that looks into the inbox, or a resident process that is told of its changes."""

    def news(self, user_id: str, told: SyncToken, *, seconds: float) -> bool:
        """True as soon as the user's inbox announces what the token was not told, False when the time is over.

        `told` has all its positions (no base). False at once where `seconds` is not above 0.
        """
        ...


class AuthEvents(Protocol):
    """The auth graph of one room, as state resolution reads it: few calls, each for many events."""

    def events(self, ids: Collection[str]) -> Mapping[str, Event]:
        """Those of the events that are known, rejected ones with `rejected` set; the others are absent."""
        ...

    def covers(self, ids: Collection[str]) -> Mapping[str, ChainCover]:
        """Coordinates and full reach of those of the events that are known and of `AUTHORISING_TYPES`."""
        ...

    def at(self, coordinates: Collection[Coordinates]) -> Mapping[Coordinates, str]:
        """The IDs of the events that stand there; coordinates that nobody has are absent."""
        ...


class UnconflictedState(Protocol):
    """The entries of a room's state that all forks agree on."""

    def get_many(self, keys: Collection[Key]) -> Mapping[Key, str]:
        """The event IDs of those of the keys that are unconflicted entries."""
        ...

    def reached(self, coordinates: Collection[Coordinates]) -> Collection[Coordinates]:
        """Those of the coordinates that lie in the auth chain of the event of some unconflicted entry.

        An event does not lie in its own auth chain. Where coordinates of a chain are reached, so are all lower ones.
        """
        ...
