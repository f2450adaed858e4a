"""Parts of a fan-out that wait in the queue together: what a later one takes further, an earlier one need not do.

A busy room puts parts into the queue faster than they are done, each for the same members. Done one after the other
they would pile up; done together, as many writes bring a member to where all of them lead as one part has.
"""

from collections.abc import Sequence
from typing import Any


def without_superseded(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts in the same order, without the moves of slots that another part of the batch moves further.

    A move left out here is made by the other part, whose message comes again if it fails: so a slot never stays
    behind. Moves that mark a large room, or take the mark away, are all kept: each has something of its own to say.
    """
    furthest: dict[tuple[str, int], int] = {}
    for part in parts:
        for user_id, slot, position, _ in _moves(part):
            key = (user_id, slot)
            furthest[key] = max(position, furthest.get(key, 0))
    kept = []
    for part in parts:
        moves = _moves(part)
        left = [move for move in moves if move[3] is not None or move[2] == furthest[move[0], move[1]]]
        kept.append(part if len(left) == len(moves) else {**part, "moves": left})
    return kept


def _moves(part: dict[str, Any]) -> list[Any]:
    """The moves of a part; none of one that is malformed, which is left as it is to who refuses it."""
    moves = part.get("moves")
    if isinstance(moves, list) and all(isinstance(move, list) and len(move) == 4 for move in moves):
        return moves
    return []
