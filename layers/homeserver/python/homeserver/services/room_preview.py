"""What somebody who is not in a room may know of it: of one room exactly, and of many at once.

Source: client-server API v1.19, "Room summary" and, for who may know of a room, "Spaces", `GET .../hierarchy`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from homeserver.matrix.identifiers import is_room_id
from homeserver.matrix.room_facts import FACT_KEYS, RoomFacts, room_facts
from homeserver.services.residency import is_resident, knows_room
from homeserver.storage.connection import Key, batch_get, in_parallel
from homeserver.storage.room_items import HEAD, Head, LocalMember
from homeserver.storage.room_previews import preview_key, remote_members
from homeserver.storage.rooms import RoomView, StateKey, load_room


@dataclass(frozen=True, slots=True)
class Preview:
    """A room as it is shown to one reader."""

    room_id: str
    facts: RoomFacts
    joined_members: int
    membership: str  # the reader's; `leave` for who has none

    def is_visible(self, rooms_of_reader: Mapping[str, str]) -> bool:
        """Whether the reader may know of the room; `rooms_of_reader` has memberships of the rooms that let others in.

        Members and invited users, and whoever may join, ask to be let in, or read. A ban takes away what the join
        rules would give.
        """
        if self.membership in {"join", "invite"} or self.facts.world_readable:
            return True
        if self.membership == "ban":
            return False
        return self.facts.is_for_everybody or any(
            rooms_of_reader.get(room_id) == "join" for room_id in self.facts.allowed_room_ids
        )

    def asks_for_rooms(self) -> tuple[str, ...]:
        """The rooms whose memberships decide whether the reader may know of this one."""
        return () if self.is_visible({}) or self.membership == "ban" else self.facts.allowed_room_ids

    def summary(self) -> dict[str, Any]:
        """The room as `RoomSummary`."""
        return self.facts.summary(self.room_id, self.joined_members)


@dataclass(frozen=True, slots=True)
class LocalPreview(Preview):
    """The preview of a room that this server is in."""

    head: Head


AnyPreview = TypeVar("AnyPreview", bound=Preview)


class Outside(Protocol):
    """Somebody who may not be in a room that they ask about: a user of this server, or another server."""

    @property
    def state(self) -> tuple[StateKey, ...]:
        """State of a room that says what they are in it, or may be."""

    def keys(self, room_id: str) -> list[Key]:
        """Items of a room that say the same."""

    def membership(self, head: Head, found: Mapping[Key, Any]) -> str | None:
        """What they are in a room, by its items, read together with the head; None where they do not say it.

        `leave` for a stranger.
        """

    def exact_membership(self, view: RoomView) -> str:
        """The same where the view has the state and the items."""

    def memberships(self, room_ids: Iterable[str]) -> dict[str, str]:
        """What they are in these rooms, of those where they are something: one round for all."""


@dataclass(frozen=True, slots=True)
class UserOutside:
    """A local user; None for who gave no token."""

    user_id: str | None

    @property
    def state(self) -> tuple[StateKey, ...]:
        return ()

    def keys(self, room_id: str) -> list[Key]:
        return [(LocalMember, room_id, f"local/{self.user_id}")] if self.user_id else []

    def membership(self, head: Head, found: Mapping[Key, Any]) -> str:
        row = next((found[key] for key in self.keys(head.room) if key in found), None)
        return row.membership if row is not None else "leave"

    def exact_membership(self, view: RoomView) -> str:
        return self.membership(view.head, view.extras)

    def memberships(self, room_ids: Iterable[str]) -> dict[str, str]:
        keys = [key for room_id in room_ids for key in self.keys(room_id)]
        found = batch_get(keys, consistent=True) if keys else {}
        return {row.room: row.membership for row in found.values()}


def exact_preview(room_id: str, reader: Outside) -> LocalPreview | None:
    """The preview as the room's state says it; None for a room that this server is not in."""
    view, _ = load_room(room_id, [*FACT_KEYS, *reader.state], extras=reader.keys(room_id))
    if view is None or not is_resident(view):
        return None
    joined = int(view.head.local_members) + remote_members(view.head)
    return LocalPreview(room_id, room_facts(view.event, view.rules), joined, reader.exact_membership(view), view.head)


def previews_of(room_ids: Iterable[str], reader: Outside) -> dict[str, LocalPreview]:
    """Previews of those of many rooms that this server is in, whether or not the reader may know of them.

    One round for all (a few reads a room); one more where the follower has not written a room's preview, or who may
    know of the room was decided anew since.
    """
    wanted = list(dict.fromkeys(filter(is_room_id, room_ids)))
    keys: list[Key] = []
    for room_id in wanted:
        keys += [(Head, room_id, HEAD), preview_key(room_id), *reader.keys(room_id)]
    found = batch_get(keys, consistent=True) if keys else {}
    previews: dict[str, LocalPreview] = {}
    unknown = []
    for room_id in wanted:
        head = found.get((Head, room_id, HEAD))
        if head is None or not knows_room(head):
            continue
        stored = found.get(preview_key(room_id))
        facts = stored.facts_for(head) if stored is not None else None
        membership = reader.membership(head, found)
        if stored is None or facts is None or membership is None:
            unknown.append(room_id)
            continue
        joined = int(head.local_members) + int(stored.remote or 0)
        previews[room_id] = LocalPreview(room_id, facts, joined, membership, head)
    for preview in in_parallel(*[lambda room_id=room_id: exact_preview(room_id, reader) for room_id in unknown]):
        if preview is not None:
            previews[preview.room_id] = preview
    return previews


def visible_among(previews: Mapping[str, AnyPreview], reader: Outside) -> dict[str, AnyPreview]:
    """Those that the reader may know of: one round where rooms let in the members of others, else none."""
    asked = dict.fromkeys(room_id for preview in previews.values() for room_id in preview.asks_for_rooms())
    memberships = reader.memberships(asked) if asked else {}
    return {room_id: preview for room_id, preview in previews.items() if preview.is_visible(memberships)}
