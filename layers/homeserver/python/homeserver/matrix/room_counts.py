"""How many members a room has, and which of them came first: kept up from membership to membership.

Source: client-server API v1.19, "Syncing", `RoomSummary`: the counts, and the heroes "ordered by stream ordering".
The order here is that of the membership events in the room's graph (depth, then user ID), which is the same wherever
it is worked out.
"""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

KEPT = 30  # first members that are kept: so many that few changes use them up
NEEDED = 6  # of them a summary can name five besides its reader
PRESENT = frozenset({"join", "invite"})
GONE = frozenset({"leave", "ban"})


@dataclass(frozen=True, slots=True)
class Party:
    """Members of one kind: how many, and the first of them as (depth of the membership event, user ID), in order."""

    count: int = 0
    first: tuple[tuple[int, str], ...] = ()

    @property
    def is_enough(self) -> bool:
        """Whether the first members that are needed are known."""
        return len(self.first) >= min(NEEDED, self.count)

    @classmethod
    def of(cls, members: Iterable[tuple[int, str]]) -> "Party":
        """The party of all these members."""
        everybody = sorted(members)
        return cls(len(everybody), tuple(everybody[:KEPT]))

    def without(self, user_id: str) -> "Party":
        """The party after a member of it left it."""
        return Party(self.count - 1, tuple(entry for entry in self.first if entry[1] != user_id))

    def with_member(self, depth: int, user_id: str) -> "Party":
        """The party after a user who was not in it came."""
        first = list(self.first)
        # Of the members that are not kept it is known only that they come after those that are.
        if self.count == len(first) or (first and (depth, user_id) < first[-1]):
            insort(first, (depth, user_id))
        return Party(self.count + 1, tuple(first[:KEPT]))


@dataclass(frozen=True, slots=True)
class RoomCounts:
    """The members of a room's state `root`: `joined` and `invited` together are those `present`."""

    root: bytes
    joined: int = 0
    invited: int = 0
    present: Party = Party()
    gone: Party = Party()

    @property
    def is_enough(self) -> bool:
        return self.present.is_enough and self.gone.is_enough

    def with_change(self, user_id: str, before: str, after: str, depth: int) -> "RoomCounts":
        """The counts after a membership changed; memberships are `leave` and `""` for who has none, others as named.

        `depth` is that of the new membership event.
        """
        present = self.present.without(user_id) if before in PRESENT else self.present
        gone = self.gone.without(user_id) if before in GONE else self.gone
        if after in PRESENT:
            present = present.with_member(depth, user_id)
        elif after in GONE:
            gone = gone.with_member(depth, user_id)
        joined = self.joined - (before == "join") + (after == "join")
        invited = self.invited - (before == "invite") + (after == "invite")
        return RoomCounts(self.root, joined, invited, present, gone)

    def heroes(self, reader: str, most: int) -> list[str]:
        """Whom the room is named after for a reader: the first others who are present, else the first who are gone."""
        for party in (self.present, self.gone):
            others = [user_id for _, user_id in party.first if user_id != reader]
            if others:
                return others[:most]
        return []


def count_members(root: bytes, members: Iterable[tuple[str, str, int]]) -> RoomCounts:
    """The counts of all members of a state: (user ID, membership, depth of the membership event)."""
    everybody = list(members)
    return RoomCounts(
        root,
        sum(membership == "join" for _, membership, _ in everybody),
        sum(membership == "invite" for _, membership, _ in everybody),
        Party.of((depth, user_id) for user_id, membership, depth in everybody if membership in PRESENT),
        Party.of((depth, user_id) for user_id, membership, depth in everybody if membership in GONE),
    )
