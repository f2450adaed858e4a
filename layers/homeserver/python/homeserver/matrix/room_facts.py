"""What strangers are told of a room: the entry of the published directory, the room summary, a room of a space.

Source: client-server API v1.19, "Published room directory", "Room summary", "Spaces".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from homeserver.matrix.event import Event
from homeserver.matrix.history_visibility import WORLD_READABLE, visibility_of
from homeserver.matrix.identifiers import is_room_alias, is_room_id
from homeserver.matrix.room_versions import RoomVersionRules

# The state that the facts are made of.
FACT_KEYS: Final = tuple(
    (f"m.room.{name}", "")
    for name in (
        "create",
        "name",
        "topic",
        "canonical_alias",
        "avatar",
        "join_rules",
        "history_visibility",
        "guest_access",
        "encryption",
    )
)
SPACE: Final = "m.space"
# A copy of the facts has to fit a small item, whatever people write into their rooms.
_MOST_CHARACTERS = {"name": 255, "topic": 1000, "room_type": 255, "encryption": 255, "join_rule": 64}
_LONGEST_AVATAR_URL = 512
_MOST_ALLOWED_ROOMS = 20


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """The facts of one state of a room; None for what is not set."""

    room_version: str
    room_type: str | None = None
    name: str | None = None
    topic: str | None = None
    canonical_alias: str | None = None
    avatar_url: str | None = None
    join_rule: str = "invite"
    # Rooms whose members may join without an invitation
    allowed_room_ids: tuple[str, ...] = ()
    world_readable: bool = False
    guest_can_join: bool = False
    encryption: str | None = None
    # Whether one may ask to be let in, by the join rule and the room's version
    knockable: bool = False

    @property
    def is_space(self) -> bool:
        return self.room_type == SPACE

    @property
    def is_open(self) -> bool:
        """Whether anybody may join or read: then its members are no secret."""
        return self.world_readable or self.join_rule == "public"

    @property
    def is_for_everybody(self) -> bool:
        """Whether anybody may know of the room: it is open, or one may knock."""
        return self.is_open or self.knockable

    def cut(self) -> "RoomFacts":
        """The facts for a copy of bounded size, about 8 KB at the most: texts are cut, long avatar URLs left out."""
        texts = {name: getattr(self, name) for name in _MOST_CHARACTERS}
        short = {name: text[: _MOST_CHARACTERS[name]] for name, text in texts.items() if text is not None}
        avatar = self.avatar_url if self.avatar_url and len(self.avatar_url) <= _LONGEST_AVATAR_URL else None
        return replace(self, **short, avatar_url=avatar, allowed_room_ids=self.allowed_room_ids[:_MOST_ALLOWED_ROOMS])

    def published_chunk(self, room_id: str, joined_members: int) -> dict[str, Any]:
        """The room in the published directory (`PublishedRoomsChunk`)."""
        chunk: dict[str, Any] = {
            "room_id": room_id,
            "num_joined_members": joined_members,
            "world_readable": self.world_readable,
            "guest_can_join": self.guest_can_join,
            "join_rule": self.join_rule,
        }
        for name in ("name", "topic", "canonical_alias", "avatar_url", "room_type"):
            if (value := getattr(self, name)) is not None:
                chunk[name] = value
        return chunk

    def summary(self, room_id: str, joined_members: int) -> dict[str, Any]:
        """The room as `RoomSummary`."""
        summary = self.published_chunk(room_id, joined_members)
        if self.room_version:  # another server may not say it
            summary["room_version"] = self.room_version
        if self.encryption is not None:
            summary["encryption"] = self.encryption
        if self.allowed_room_ids:
            summary["allowed_room_ids"] = list(self.allowed_room_ids)
        return summary

    def to_json(self) -> dict[str, Any]:
        """The facts as a JSON object, without what is not set."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v not in (None, (), False)
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "RoomFacts":
        """The facts that `to_json` wrote, also where a later version of the code did."""
        known = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
        return cls(**known | {"allowed_room_ids": tuple(known.get("allowed_room_ids", ()))})


def room_facts(event: Callable[[str], Event | None], rules: RoomVersionRules) -> RoomFacts:
    """The facts of a room's state; `event` gives the state event of a type with an empty state key.

    State is what people sent: values of a wrong type count as absent.
    """

    def text(event_type: str, key: str) -> str | None:
        found = event(event_type)
        value = found.content.get(key) if found else None
        return value if isinstance(value, str) and value else None

    join_rule = text("m.room.join_rules", "join_rule") or "invite"
    visibility = event("m.room.history_visibility")
    alias = text("m.room.canonical_alias", "alias")
    topic = event("m.room.topic")
    join_rules = event("m.room.join_rules")
    return RoomFacts(
        room_version=rules.version,
        room_type=text("m.room.create", "type"),
        name=text("m.room.name", "name"),
        topic=plain_topic(topic.content) if topic else None,
        canonical_alias=alias if is_room_alias(alias) else None,
        avatar_url=text("m.room.avatar", "url"),
        join_rule=join_rule,
        allowed_room_ids=(
            _allowed_rooms(join_rules.content) if join_rules and join_rule in rules.restricted_join_rules else ()
        ),
        world_readable=visibility_of(visibility.content if visibility else None) == WORLD_READABLE,
        guest_can_join=text("m.room.guest_access", "guest_access") == "can_join",
        encryption=text("m.room.encryption", "algorithm"),
        knockable=join_rule in rules.knockable_join_rules,
    )


def plain_topic(content: Mapping[str, Any]) -> str | None:
    """The topic in plain text: the first `text/plain` of `m.topic`, else `topic`.

    None where `topic` is empty (then none is set), and where `m.topic` has other types only.
    """
    topic, rich = content.get("topic"), content.get("m.topic")
    if not isinstance(topic, str) or not topic:
        return None
    versions = rich.get("m.text") if isinstance(rich, Mapping) else None
    if not isinstance(versions, list) or not versions:
        return topic
    for version in versions:
        if isinstance(version, Mapping) and version.get("mimetype", "text/plain") == "text/plain":
            body = version.get("body")
            return body if isinstance(body, str) and body else None
    return None


def _allowed_rooms(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The rooms of a restricted join rule. Conditions of other types count for nothing."""
    conditions = content.get("allow")
    rooms = [
        condition.get("room_id")
        for condition in (conditions if isinstance(conditions, list) else [])
        if isinstance(condition, Mapping) and condition.get("type") == "m.room_membership"
    ]
    return tuple(dict.fromkeys(room_id for room_id in rooms if isinstance(room_id, str) and is_room_id(room_id)))
