"""What the core and the services ask of the outside: protocols that storage and adapters implement."""

from collections.abc import Iterable, Mapping
from typing import Protocol


class TreeNodes(Protocol):
    """Where the nodes of state trees are kept: immutable, content-addressed, under one room."""

    def get_many(self, ids: Iterable[bytes]) -> Mapping[bytes, bytes]:
        """Encoded nodes by their 20-byte IDs. Raises KeyError for an ID that does not exist."""
        ...
