"""A place in a room's timeline as one number, for keys and aggregates that have room for no more.

What happened while this server was in the room has whole numbers, its positions. What was backfilled for the anchor at
a position lies between that position and the one before it: a ten-millionth before it, two ten-millionths, and so on.
"""

import math

_STEPS = 10_000_000
_DIGITS = 7


def place_number(position: int, offset: int = 0) -> float:
    """The number of a place: an int where the offset is 0. Beyond ten million offsets places are one."""
    if not offset:
        return position
    return round(position + max(offset, 1 - _STEPS) / _STEPS, _DIGITS)


def place_of(number: float) -> tuple[int, int]:
    """Position and offset that a number stands for."""
    position = math.ceil(number)
    return position, round((number - position) * _STEPS)


def parse_number(text: str) -> float:
    """A number as the store has it."""
    return float(text) if "." in text else int(text)


def before(number: float) -> float:
    """The last place before another one, be there something or not."""
    position, offset = place_of(number)
    return place_number(position, offset - 1)


def after(number: float) -> float:
    """The first place after another one, be there something or not."""
    position, offset = place_of(number)
    return place_number(position, offset + 1) if offset else place_number(position + 1, 1 - _STEPS)
