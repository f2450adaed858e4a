"""Events of a room as clients of the 2014 draft see them, with what only the room knows: its levels and aliases.

Source: the client-server specification of autumn 2014, "Events", "Power levels", "Room aliases".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from homeserver.matrix.draft_events import draft_view
from homeserver.matrix.event import Event
from homeserver.matrix.power_levels import PowerLevels
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersionRules
from homeserver.matrix.unpadded_base64 import encode_urlsafe
from homeserver.services.clock import now_ms
from homeserver.settings import settings
from homeserver.storage.connection import query_range
from homeserver.storage.room_items import RoomAlias
from homeserver.storage.rooms import RoomView, StateKey, load_room

CREATE, POWER_LEVELS = ("m.room.create", ""), ("m.room.power_levels", "")
LEVEL_KEYS: Sequence[StateKey] = (CREATE, POWER_LEVELS)
_ALIAS_PREFIX = "alias/"


@dataclass(frozen=True, slots=True)
class DraftRoom:
    """What the draft's view of a room's events takes from the room as it is now; without levels it shows none.

    `creators` are those whose power has no number (room version 12).
    """

    levels: PowerLevels | None = None
    creators: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, state: Mapping[StateKey, Event], rules: RoomVersionRules) -> "DraftRoom":
        """The room with this state, of which `LEVEL_KEYS` count."""
        levels = PowerLevels.from_events(state.get(POWER_LEVELS), state.get(CREATE), rules)
        return cls(levels, levels.creators if rules.creators_have_infinite_power else frozenset())

    @classmethod
    def of_view(cls, view: RoomView) -> "DraftRoom":
        """The room of a view that has its state under `LEVEL_KEYS`."""
        return cls.of({key: entry.event for key, entry in view.state.items()}, view.rules)

    @classmethod
    def of_client_events(cls, state: Iterable[Mapping[str, Any]]) -> "DraftRoom":
        """The room whose whole state is told in these events, which are in client format."""
        found = {(event["type"], event["state_key"]): event for event in state}
        create = found.get(CREATE)
        rules = ROOM_VERSIONS.get(create["content"].get("room_version", "1")) if create is not None else None
        if rules is None:
            return cls()
        return cls.of(
            {
                key: Event(found[key]["event_id"], found[key].get("room_id", ""), found[key], rules)
                for key in LEVEL_KEYS
                if key in found
            },
            rules,
        )

    def show(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """An event of the room, in client format, as the draft has it."""
        required = (
            self.levels.event_level(event["type"], is_state=True) if self.levels and "state_key" in event else None
        )
        told = (event.get("unsigned") or {}).get("age")  # the same moment in both places
        age = told if told is not None else max(0, now_ms() - event["origin_server_ts"])
        return draft_view(event, age=age, required_power_level=required, creators=self.creators)


def load_draft_room(room_id: str) -> DraftRoom:
    """What the view of a room's events takes from it: one round."""
    view, _ = load_room(room_id, LEVEL_KEYS)
    return DraftRoom.of_view(view) if view is not None else DraftRoom()


def local_aliases(room_id: str) -> list[str]:
    """The aliases of this server that point to a room: one round."""
    rows = query_range(RoomAlias, room_id, _ALIAS_PREFIX, consistent=False)
    return [row.k.removeprefix(_ALIAS_PREFIX) for row in rows]


def with_aliases(state: Iterable[Mapping[str, Any]], aliases: Sequence[str], room: DraftRoom) -> list[dict[str, Any]]:
    """A list of a room's state in the draft's view, with the `m.room.aliases` that stands for what the directory says.

    The draft's servers announced their aliases in the state; here nobody sends that event any more, so it is made when
    state is listed, in the name of who made the room. What an old room has under the same key gives way to it.
    """
    key = ("m.room.aliases", settings().server_name)
    events = list(state)
    shown = [room.show(event) for event in events if not aliases or (event["type"], event["state_key"]) != key]
    create = next((event for event in events if (event["type"], event["state_key"]) == CREATE), None)
    if aliases and create is not None:
        made = {
            "type": key[0],
            "state_key": key[1],
            "room_id": create["room_id"],
            "event_id": "$aliases_"
            + encode_urlsafe(sha256(f"{create['room_id']} {sorted(aliases)}".encode()).digest()),
            "sender": create["sender"],
            "origin_server_ts": create["origin_server_ts"],
            "content": {"aliases": sorted(aliases)},
        }
        shown.append(room.show(made))
    return shown
