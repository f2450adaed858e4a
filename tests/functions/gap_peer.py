"""A server that also tells what lies between events; and the ways into its rooms."""

import json
from typing import Any
from urllib.parse import unquote

from functions.backfilling import FEDERATION, HistoryPeer, HistoryRoom
from homeserver.matrix.event import Event
from homeserver.services.enter_room import enter_room

NOTHING = 404, {"errcode": "M_NOT_FOUND", "error": "no such thing"}


class GapPeer(HistoryPeer):
    """`page`: how many missing events an answer of it has. `silent`: endpoints that it does not know.

    `instead_of`: what it answers, by endpoint.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.page = 20
        self.silent: set[str] = set()
        self.instead_of: dict[str, Any] = {}

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if path.startswith(FEDERATION):
            endpoint, *rest = [unquote(part) for part in path.removeprefix(FEDERATION).split("/")]
            if endpoint in self.silent:
                return NOTHING
            if endpoint in self.instead_of:
                return 200, self.instead_of[endpoint]
            if (method, endpoint) == ("POST", "get_missing_events") and rest[0] in self.rooms:
                return 200, {"events": self._pdus(self._between(self.rooms[rest[0]], json.loads(body)))}
        return super().respond(method, path, query, body)

    def _between(self, room: HistoryRoom, wanted: dict[str, Any]) -> list[Event]:
        """Going back from the latest events, without them, up to the earliest; oldest first."""
        seen = set(wanted["earliest_events"]) | set(wanted["latest_events"])
        level = [i for e in wanted["latest_events"] if e in room.events for i in room.events[e].prev_event_ids]
        found: list[Event] = []
        while level and len(found) < min(self.page, wanted["limit"]):
            event_id = level.pop(0)
            if event_id not in seen and event_id in room.events:
                seen.add(event_id)
                found.append(room.events[event_id])
                level += room.events[event_id].prev_event_ids
        return found[::-1]


def answer_to(room: HistoryRoom, join: Event) -> tuple[list[Event], list[Event]]:
    """State and auth chain, as a server answers a join."""
    before = room.before(join)
    return [room.events[event_id] for event_id in before.values()], room.chain([*before.values(), join.event_id])


def enter(room: HistoryRoom, user_id: str, via: str, *, join: Event | None = None) -> Event:
    """Let a local user join the room through a server; the join."""
    join = join or room.join(user_id)
    state, chain = answer_to(room, join)
    enter_room(room.room_id, room.rules, join, state, chain, via)
    return join
