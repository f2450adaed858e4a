"""Relationships between events, and what a server keeps of them for each parent.

Source: client-server API v1.19, "Forming relationships between events", "Event replacements", "Threading",
"Reference relations", "Event annotations".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

from homeserver.matrix.identifiers import fits_identifier, is_event_id

ANNOTATION: Final = "m.annotation"
REFERENCE: Final = "m.reference"
REPLACE: Final = "m.replace"
THREAD: Final = "m.thread"
# "Homeservers SHOULD traverse at least 3 levels of relationships."
RECURSION_DEPTH: Final = 3

_MOST_SENDERS_BYTES = 500  # of user IDs in the aggregate of one thread: it is to stay below a write unit


@dataclass(frozen=True, slots=True)
class Relation:
    """What an event's `m.relates_to` says; `key` is the one of an annotation."""

    rel_type: str
    parent: str
    key: str | None = None


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """The relationship that an event with this content forms; None without one, and for one that cannot be.

    A rich reply (`m.in_reply_to`) forms none.
    """
    relates_to = content.get("m.relates_to")
    if not isinstance(relates_to, Mapping):
        return None
    rel_type, parent, key = relates_to.get("rel_type"), relates_to.get("event_id"), relates_to.get("key")
    if not isinstance(rel_type, str) or not fits_identifier(rel_type) or not is_event_id(parent):
        return None
    return Relation(rel_type, str(parent), key if rel_type == ANNOTATION and isinstance(key, str) else None)


def annotation_number(sender: str, event_type: str, key: str) -> int:
    """A number of 120 bits that two annotations of one event share only if they are duplicates."""
    text = f"{len(sender)} {len(event_type)} {sender}{event_type}{key}"
    digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:15])


@dataclass(frozen=True, slots=True)
class Parent:
    """What never changes of an event that others relate to."""

    position: float  # the number of its place
    sender: str
    type: str
    is_state: bool


def is_valid_edit(parent: Parent, parent_rel_type: str | None, sender: str, pdu: Mapping[str, Any]) -> bool:
    """Whether an event that replaces the parent may do so. Source: "Validity of replacement events"."""
    # "there must be an m.new_content property", which in an encrypted event nobody but its readers can see.
    has_content = pdu["type"] == "m.room.encrypted" or isinstance(pdu["content"].get("m.new_content"), Mapping)
    return (
        has_content
        and parent.sender == sender
        and parent.type == pdu["type"]
        and not parent.is_state
        and "state_key" not in pdu
        # An edit cannot be edited.
        and parent_rel_type != REPLACE
    )


@dataclass(frozen=True, slots=True)
class Edit:
    """A valid replacement. The most recent one has the latest timestamp; of two the greater event ID."""

    event_id: str
    position: float  # the number of its place
    timestamp: int

    @property
    def age(self) -> tuple[int, str]:
        return self.timestamp, self.event_id


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What is kept of the children of one event: as much as bundling needs.

    `senders` counts the replies in the thread by user. It holds the first users only where there are many: `is_partial`
    says that more took part than are named. `references` is a number: which they are is read where it is shown.
    """

    version: int = 0
    edits: int = 0
    edit: Edit | None = None
    replies: int = 0
    latest_reply: tuple[str, float] | None = None  # event ID, number of its place
    senders: Mapping[str, int] = field(default_factory=dict)
    is_partial: bool = False
    references: int = 0

    def with_edit(self, edit: Edit) -> "Aggregate":
        newest = edit if self.edit is None or edit.age > self.edit.age else self.edit
        return replace(self, edits=self.edits + 1, edit=newest)

    def without_edit(self, before: Edit | None) -> "Aggregate":
        """The aggregate without one of the edits; `before` is the most recent of the others."""
        return replace(self, edits=max(0, self.edits - 1), edit=before)

    def with_reply(self, event_id: str, position: float, sender: str) -> "Aggregate":
        changed = replace(self, replies=self.replies + 1, latest_reply=(event_id, position))
        if sender not in self.senders and sum(map(len, self.senders)) + len(sender) > _MOST_SENDERS_BYTES:
            return replace(changed, is_partial=True)
        return replace(changed, senders={**self.senders, sender: self.senders.get(sender, 0) + 1})

    def without_reply(self, sender: str, before: tuple[str, float] | None) -> "Aggregate":
        """The aggregate without one of the replies; `before` is the latest of the others."""
        left = {**self.senders, sender: self.senders.get(sender, 0) - 1}
        senders = {user_id: count for user_id, count in left.items() if count > 0}
        return replace(self, replies=max(0, self.replies - 1), latest_reply=before, senders=senders)

    def with_references(self, change: int) -> "Aggregate":
        return replace(self, references=max(0, self.references + change))
