"""Which of two values of a room's state won in the draft of 2014: the rules called "clobbering".

Kept to show what became of them: who wants to win makes their branch longer, or has a powerful user's old event in it.
Rooms are resolved by `state_resolution`, as their versions say; nothing but tests uses this.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class SeedPdu:
    """One value that a key of the state had: `pdu_id` at `origin`, sent by `user_id`."""

    pdu_id: str
    origin: str
    user_id: str


class Rule(Enum):
    """The rule that decided, in the order in which they are asked."""

    DIRECT_SUCCESSOR = "direct successor"
    POWER = "power"
    LENGTH = "length"
    HASH = "hash"


@dataclass(frozen=True, slots=True)
class Clobber:
    """Whether the new value replaces the current one, and by which rule that was decided."""

    replaces: bool
    rule: Rule


def seed_clobber(
    branch_new: Sequence[SeedPdu], branch_current: Sequence[SeedPdu], power: Callable[[str], int]
) -> Clobber:
    """Decide between two branches of values of one key: those after their last common value, the oldest first.

    A branch is empty where that common value is its last one. `power`: the level of a user.

    1. The one that follows on the other wins: it knew what it replaced.
    2. The branch with the more powerful user wins; of each branch the most powerful counts.
    3. The longer branch wins.
    4. The branch with the greater SHA-1 wins, over the IDs and origins of its values one after the other.

    Raises ValueError where both branches are empty: then there is one value only.
    """
    if not branch_new and not branch_current:
        raise ValueError("there are no two values to decide between")
    if not branch_new or not branch_current:
        return Clobber(bool(branch_new), Rule.DIRECT_SUCCESSOR)
    powers = [max(power(pdu.user_id) for pdu in branch) for branch in (branch_new, branch_current)]
    if powers[0] != powers[1]:
        return Clobber(powers[0] > powers[1], Rule.POWER)
    if len(branch_new) != len(branch_current):
        return Clobber(len(branch_new) > len(branch_current), Rule.LENGTH)
    return Clobber(_digest(branch_new) > _digest(branch_current), Rule.HASH)


def _digest(branch: Sequence[SeedPdu]) -> bytes:
    ids = "".join(pdu.pdu_id + pdu.origin for pdu in branch)
    # As the draft has it; it orders two values, and protects nothing.
    return hashlib.sha1(ids.encode(), usedforsecurity=False).digest()
