"""Which membership events a lazy client was told, so that they are not told again: in memory, and only where certain.

A device is known by the position of the room that its sync token carries: what was told with the answer that led to
that position is what it has. A token that shows another position (an answer that got lost, another process) means
that nothing is known, and every membership is told again.

Source: client-server API v1.19, "Lazy-loading room members", redundant members.
"""

from collections.abc import Mapping
from types import MappingProxyType

from homeserver.services.access_tokens import Requester

_CACHED = 20_000  # of devices and rooms together
_MOST_MEMBERS = 1_000  # of one of them
_NOTHING: Mapping[str, str] = MappingProxyType({})

# By user, device, room and hash of the filter: the position, and the event IDs by user.
_told: dict[tuple[str, str, str, int], tuple[int, dict[str, str]]] = {}


def told_before(requester: Requester, room_id: str, filter_hash: int, position: int) -> Mapping[str, str]:
    """The membership events by user that a device has which was told the room up to this position."""
    known = _told.get((requester.user_id, requester.device_id, room_id, filter_hash))
    return known[1] if known is not None and known[0] == position else _NOTHING


def remember_told(
    requester: Requester, room_id: str, filter_hash: int, position: int, events: Mapping[str, str]
) -> None:
    """With the room up to this position the device has these membership events, by user."""
    key = (requester.user_id, requester.device_id, room_id, filter_hash)
    _told.pop(key, None)
    if len(events) <= _MOST_MEMBERS:
        _told[key] = (position, dict(events))
    while len(_told) > _CACHED:
        _told.pop(next(iter(_told)), None)
