"""What backfilling asks a server of a room: the events before others.

Source: server-server API v1.19, "Backfilling and retrieving missing events".
"""

from collections.abc import Sequence

from homeserver.adapters.federation_http import BadAnswer, QueryValue
from homeserver.matrix.event import Event
from homeserver.services.asked_server import AskedServer, listed

_REQUEST_S = 6.0
_PAGE_BYTES = 8 * 1024 * 1024  # 100 events of 64 KiB
_SMALL_PAGE = 20


def earlier_events(server: AskedServer, extremities: Sequence[str], limit: int) -> list[Event]:
    """At most `limit` events, beginning with the extremities and going back, those that pass the checks.

    Raises FederationError.
    """
    try:
        return _page(server, extremities, limit)
    except BadAnswer:
        # It may have been too much for one answer.
        return _page(server, extremities, min(limit, _SMALL_PAGE))


def _page(server: AskedServer, extremities: Sequence[str], limit: int) -> list[Event]:
    query: dict[str, QueryValue] = {"v": list(extremities), "limit": limit}
    answer = server.ask("GET", "backfill", server.room_id, query=query, most_s=_REQUEST_S, max_bytes=_PAGE_BYTES)
    return server.checked(listed(answer, "pdus")[:limit])
