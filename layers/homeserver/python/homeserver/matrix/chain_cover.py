"""Chain cover of the auth graph: who authorised whom, answered without walking.

Events that may authorise others are put into chains, in which each event has the one before it in its auth chain.
An event's coordinates are (chain, number); its cover says for each chain how far the event's auth chain reaches.
Then `a` is in the auth chain of `b` exactly if b's cover reaches a's number in a's chain. State resolution needs
this for the auth difference, and adding it later would mean rewriting every stored room.

A chain is named by the ID of its first event (number 0). An event continues the chain of the event with the same
(type, state key) among its auth events, if no other event did so before; else it begins a chain of its own. So chains
do not branch, all events of a chain have one type and state key, and each but the first names the one before it.

Idea: Jagadish, "A compression technique to materialize transitive closure" (1990), on the auth graph of server-server
API v1.19, "Authorization rules".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from homeserver.matrix.event_ids import encode_event_id, read_event_id
from homeserver.matrix.varint import encode_varint, read_varint

AUTHORISING_TYPES = frozenset(
    {
        "m.room.create",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.member",
        "m.room.third_party_invite",
    }
)

Coordinates = tuple[str, int]
"""Where an event stands: its chain, and its number in it from 0."""


@dataclass(frozen=True, slots=True)
class ChainCover:
    """An event's coordinates, and the highest number that its auth chain reaches in each chain."""

    chain: str
    number: int
    reach: Mapping[str, int] = field(default_factory=dict)

    @property
    def coordinates(self) -> Coordinates:
        return self.chain, self.number

    def reach_in(self, chain: str) -> int:
        """The highest number of the chain that is in this event's auth chain, -1 for none."""
        return self.number - 1 if chain == self.chain else self.reach.get(chain, -1)

    def reaches(self, other: "ChainCover") -> bool:
        """Whether the other event is in this event's auth chain."""
        return self.reach_in(other.chain) >= other.number

    def pack(self) -> bytes:
        """The cover as bytes: the coordinates, then each chain that is reached."""
        out = bytearray(encode_event_id(self.chain) + encode_varint(self.number))
        for chain, number in sorted(self.reach.items()):
            out += encode_event_id(chain) + encode_varint(number)
        return bytes(out)

    @classmethod
    def unpack(cls, data: bytes) -> "ChainCover":
        """The cover that `pack` packed. Raises ValueError or IndexError for damaged data."""
        chain, offset = read_event_id(data, 0)
        number, offset = read_varint(data, offset)
        reach = {}
        while offset < len(data):
            reached, offset = read_event_id(data, offset)
            reach[reached], offset = read_varint(data, offset)
        return cls(chain, number, reach)


def cover_of(event_id: str, auth: Iterable[ChainCover], *, continues: ChainCover | None = None) -> ChainCover:
    """The cover of an event from those of its auth events; `continues` is the one whose chain it goes on with."""
    reach: dict[str, int] = {}
    for cover in auth:
        for chain, number in (*cover.reach.items(), (cover.chain, cover.number)):
            reach[chain] = max(number, reach.get(chain, -1))
    if continues is None:
        return ChainCover(event_id, 0, reach)
    reach.pop(continues.chain, None)
    return ChainCover(continues.chain, continues.number + 1, reach)


def joint_reach(covers: Iterable[ChainCover]) -> dict[str, int]:
    """The union of several events' auth chains: for each chain that any of them reaches the highest number.

    An event of a chain that is reached has all those before it in its auth chain, so one number says it for all.
    """
    reach: dict[str, int] = {}
    for cover in covers:
        for chain, number in (*cover.reach.items(), (cover.chain, cover.number - 1)):
            if number > reach.get(chain, -1):
                reach[chain] = number
    return reach
