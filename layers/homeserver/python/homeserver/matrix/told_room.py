"""Rooms as other servers tell of them: entries of their directories, rooms of their spaces.

Nothing of it can be checked, as this server is not in the room. So it is only read: a value of a wrong type counts as
absent, long texts are cut, unknown keys are left out.

Source: Matrix v1.19, client-server API, "Published room directory", "Room summary"; server-server API, "Spaces".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.identifiers import is_room_alias, is_room_id, is_server_name
from homeserver.matrix.room_facts import RoomFacts
from homeserver.matrix.room_versions import ROOM_VERSIONS

CHILD = "m.space.child"
MOST_CHILDREN = 1000  # of a space, that another server tells of
MOST_CHILDREN_BYTES = 256 * 1024

_MOST_MEMBERS = 2**53 - 1
_LONGEST_VERSION = 32
_KNOCKING = frozenset({"knock", "knock_restricted"})
_RESTRICTED = frozenset({"restricted", "knock_restricted"})
_STRIPPED = {"type": str, "state_key": str, "content": dict, "sender": str, "origin_server_ts": int}


@dataclass(frozen=True, slots=True)
class ToldRoom:
    """One room in another server's words. `facts.room_version` is empty where the server does not say it."""

    room_id: str
    joined_members: int
    facts: RoomFacts

    @classmethod
    def read(cls, told: object) -> "ToldRoom | None":
        """The room of a `PublishedRoomsChunk` or a `RoomSummary`; None for what has no room ID or number of members."""
        if not isinstance(told, Mapping):
            return None
        room_id, members = told.get("room_id"), told.get("num_joined_members")
        if not is_room_id(room_id) or type(members) is not int or not 0 <= members <= _MOST_MEMBERS:
            return None
        return cls(str(room_id), members, _facts(told).cut())

    def published_chunk(self) -> dict[str, Any]:
        """The room as `PublishedRoomsChunk`."""
        return self.facts.published_chunk(self.room_id, self.joined_members)

    def summary(self) -> dict[str, Any]:
        """The room as `RoomSummary`."""
        return self.facts.summary(self.room_id, self.joined_members)

    def to_json(self) -> list[Any]:
        """The room as JSON that `from_json` reads."""
        return [self.room_id, self.joined_members, self.facts.to_json()]

    @classmethod
    def from_json(cls, stored: list[Any]) -> "ToldRoom":
        room_id, joined_members, facts = stored
        return cls(room_id, joined_members, RoomFacts.from_json(facts))


def _facts(told: Mapping[str, Any]) -> RoomFacts:
    def text(key: str) -> str | None:
        value = told.get(key)
        return value if isinstance(value, str) and value else None

    version = text("room_version") or ""
    # "When not present, the room is assumed to be `public`."
    join_rule = "public" if told.get("join_rule") is None else text("join_rule") or "invite"
    knocking = ROOM_VERSIONS[version].knockable_join_rules if version in ROOM_VERSIONS else _KNOCKING
    allowed = told.get("allowed_room_ids") if join_rule in _RESTRICTED else None
    rooms = [room for room in allowed if is_room_id(room)] if isinstance(allowed, list) else []
    alias = text("canonical_alias")
    return RoomFacts(
        room_version=version if len(version) <= _LONGEST_VERSION else "",
        room_type=text("room_type"),
        name=text("name"),
        topic=text("topic"),
        canonical_alias=alias if is_room_alias(alias) else None,
        avatar_url=text("avatar_url"),
        join_rule=join_rule,
        allowed_room_ids=tuple(dict.fromkeys(rooms)),
        world_readable=told.get("world_readable") is True,
        guest_can_join=told.get("guest_can_join") is True,
        encryption=text("encryption"),
        knockable=join_rule in knocking,
    )


def told_children(events: object) -> list[dict[str, Any]]:
    """The `m.space.child` events of a space in another server's words, stripped; at most 1,000, and 256 KiB."""
    children: list[dict[str, Any]] = []
    size = 0
    for event in events if isinstance(events, list) else []:
        if not isinstance(event, Mapping) or event.get("type") != CHILD:
            continue
        if not all(type(event.get(key)) is kind for key, kind in _STRIPPED.items()):
            continue
        size += len(str(event["content"])) + len(event["sender"]) + len(event["state_key"])
        if len(children) == MOST_CHILDREN or size > MOST_CHILDREN_BYTES:
            break
        children.append({key: event[key] for key in _STRIPPED})
    return children


def servers_in_via(content: Mapping[str, Any]) -> list[str]:
    """The servers that an `m.space.child` event names, without what is no server name."""
    via = content.get("via")
    return [str(server) for server in via if is_server_name(server)] if isinstance(via, list) else []
