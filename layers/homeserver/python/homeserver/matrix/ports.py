"""What the core and the services ask of the outside: protocols that storage and adapters implement."""

from collections.abc import Iterable, Mapping
from typing import Protocol

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
