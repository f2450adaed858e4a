"""What somebody who is not in a room may know of it: the room summary, and the same of many rooms at once.

Source: client-server API v1.19, "Room summary" and, for who may know of a room, "Spaces", `GET .../hierarchy`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.errors import NotFound
from homeserver.matrix.identifiers import is_room_alias, is_room_id
from homeserver.matrix.room_facts import FACT_KEYS, RoomFacts, room_facts
from homeserver.services.aliases import room_of_alias
from homeserver.storage.connection import Key, batch_get, in_parallel
from homeserver.storage.room_items import HEAD, Head, LocalMember
from homeserver.storage.room_previews import preview_key, remote_members
from homeserver.storage.rooms import load_room


@dataclass(frozen=True, slots=True)
class Preview:
    """A room as it is shown to one reader."""

    head: Head
    facts: RoomFacts
    joined_members: int
    membership: str  # the reader's; `leave` for who has none

    @property
    def room_id(self) -> str:
        return self.head.room

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


def room_summary(user_id: str | None, room_id_or_alias: str) -> dict[str, Any]:
    """The summary of a room, exact, with the membership of the reader; `user_id` is None for who gave no token.

    Raises NotFound for a room that does not exist here, or that the reader may not know of.
    """
    room_id = room_of_alias(room_id_or_alias) if is_room_alias(room_id_or_alias) else room_id_or_alias
    if not is_room_id(room_id):
        raise NotFound("There is no such room.")
    preview = _exact_preview(room_id, user_id)
    if preview is None or not preview.is_visible(_memberships(preview.asks_for_rooms(), user_id)):
        raise NotFound("There is no such room.")
    return preview.summary() | ({"membership": preview.membership} if user_id is not None else {})


def _exact_preview(room_id: str, user_id: str | None) -> Preview | None:
    """The preview as the room's state says it; None for a room that this server is not in."""
    view, _ = load_room(room_id, FACT_KEYS, local_users=[user_id] if user_id else [])
    if view is None or view.head.kind != "full":
        return None
    row = view.locals.get(user_id) if user_id else None
    joined = int(view.head.local_members) + remote_members(view.head)
    return Preview(view.head, room_facts(view.event, view.rules), joined, row.membership if row else "leave")


def previews_of(room_ids: Iterable[str], user_id: str) -> dict[str, Preview]:
    """Previews of many rooms, of those that this server is in and the user may know of.

    One round for all (three reads a room); one more where rooms let in the members of others; one more where the
    follower has not written a room's preview, or who may know of the room was decided anew since.
    """
    wanted = list(dict.fromkeys(filter(is_room_id, room_ids)))
    keys: list[Key] = []
    for room_id in wanted:
        keys += [(Head, room_id, HEAD), preview_key(room_id), (LocalMember, room_id, f"local/{user_id}")]
    found = batch_get(keys, consistent=True) if keys else {}
    previews: dict[str, Preview] = {}
    unknown = []
    for room_id in wanted:
        head = found.get((Head, room_id, HEAD))
        if head is None or head.kind != "full":
            continue
        stored = found.get(preview_key(room_id))
        facts = stored.facts_for(head) if stored is not None else None
        if stored is None or facts is None:
            unknown.append(room_id)
            continue
        row = found.get((LocalMember, room_id, f"local/{user_id}"))
        joined = int(head.local_members) + int(stored.remote or 0)
        previews[room_id] = Preview(head, facts, joined, row.membership if row else "leave")
    for preview in in_parallel(*[lambda room_id=room_id: _exact_preview(room_id, user_id) for room_id in unknown]):
        if preview is not None:
            previews[preview.room_id] = preview
    asked = dict.fromkeys(room_id for preview in previews.values() for room_id in preview.asks_for_rooms())
    memberships = _memberships(asked, user_id)
    return {room_id: preview for room_id, preview in previews.items() if preview.is_visible(memberships)}


def _memberships(room_ids: Iterable[str], user_id: str | None) -> dict[str, str]:
    """The memberships of a local user in these rooms, where there are any: one round for all."""
    keys: list[Key] = [(LocalMember, room_id, f"local/{user_id}") for room_id in room_ids] if user_id else []
    found = batch_get(keys, consistent=True) if keys else {}
    return {row.room: row.membership for row in found.values()}
