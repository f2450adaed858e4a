"""Canonical JSON: the one spelling of a JSON value that is hashed and signed; and the reader for request bodies.

Source: Matrix v1.19, appendices, "Canonical JSON"; "Canonical JSON" of room versions 1 and 6.

From room version 6 a value that has no canonical spelling is refused. Before that it must be borne: integers of any
size stay as they are, `-0` and integral floats become integers, and any other float is spelled as Python spells it,
which is how the servers of that time signed it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from homeserver.matrix.errors import NotJson
from homeserver.matrix.room_versions import RoomVersionRules

MAX_INTEGER = 2**53 - 1
# orjson writes at most 254 levels; an event is served inside some ten levels of a /sync answer.
MAX_DEPTH = 200

_STRICT = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_SCALARS = frozenset({str, int, bool, type(None)})

_NEGATIVE_ZERO = re.compile(rb"-0(?=[\s,\]}]|$)")
_DIGITS_TO_ZERO = bytes(ord("0") if byte in b"0123456789" else byte for byte in range(256))
_LONG_INTEGER = b"0" * 19


class NotCanonical(ValueError):
    """The value has no canonical spelling; the message names the place and the reason."""


def parse_json(body: bytes) -> Any:
    """The value of a JSON text, with no number changed in silence.

    Integers keep their value whatever their size, `-0` is the float -0.0 (which canonical JSON refuses), and the last
    of repeated keys wins. Raises NotJson for anything that is not JSON in UTF-8: NaN, Infinity, lone surrogates,
    numbers beyond the range of a double, more than 1,024 levels.
    """
    try:
        value = orjson.loads(body)
        if _may_lose_numbers(body):
            value = json.loads(body, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"The body is not JSON: {error}") from None
    return value


def _may_lose_numbers(body: bytes) -> bool:
    # orjson reads -0 as 0 and integers beyond 64 bits as floats, without a word. Look for such digits anywhere: the
    # few bodies that have them (in a string, mostly) are read a second time.
    if b"-0" in body and _NEGATIVE_ZERO.search(body):
        return True
    return _LONG_INTEGER in body.translate(_DIGITS_TO_ZERO)


def _parse_int(digits: str) -> int | float:
    return -0.0 if digits == "-0" else int(digits)


def encode_canonical(value: Any) -> bytes:
    """The canonical JSON of a value made of dict, list, str, int, bool and None, as UTF-8.

    Raises NotCanonical for floats, integers outside +-(2^53 - 1), keys that are no strings, lone surrogates, other
    types, and more than 200 levels.
    """
    # orjson sorts by the bytes of UTF-8, which is the order of code points, and writes the shortest escapes. It
    # would write floats, dates, enums and the like too: so look for them first, level by level.
    level = [value]
    depth = 0
    while level:
        if depth > MAX_DEPTH:
            raise NotCanonical(f"the JSON has more than {MAX_DEPTH} levels")
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below.extend(item.values())
            elif kind is list:
                below.extend(item)
            elif kind not in _SCALARS:
                raise NotCanonical(_first_fault(value))
        level = below
        depth += 1
    try:
        return orjson.dumps(value, option=_STRICT)
    except orjson.JSONEncodeError:
        raise NotCanonical(_first_fault(value)) from None


def check_canonical(value: Any) -> None:
    """Raise NotCanonical where `encode_canonical` would."""
    encode_canonical(value)


def encode_lenient(value: Any) -> bytes:
    """The JSON that room versions 1 to 5 hash and sign: canonical where that is possible (see the module's text).

    Raises NotCanonical for what no JSON can hold: NaN, infinities, keys that are no strings, lone surrogates, other
    types; and for more than 200 levels.
    """
    try:
        return encode_canonical(value)
    except NotCanonical:
        text = json.dumps(
            _borne(value, "", 0), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise NotCanonical("a string holds a lone surrogate") from None


def encode_for_room(value: Mapping[str, Any], rules: RoomVersionRules) -> bytes:
    """The JSON of an event that is hashed, signed and measured in rooms of this version. Raises NotCanonical."""
    return encode_canonical(value) if rules.strict_canonical_json else encode_lenient(value)


def _borne(value: Any, place: str, depth: int) -> Any:
    """A copy with integral floats as integers; raises NotCanonical for what is no JSON at all."""
    if depth > MAX_DEPTH:
        raise NotCanonical(f"the JSON has more than {MAX_DEPTH} levels")
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is float:
        if value - value != 0:  # NaN and the infinities
            raise NotCanonical(f"{place or 'the value'} is no finite number")
        return int(value) if value.is_integer() and abs(value) <= MAX_INTEGER else value
    if kind is list:
        return [_borne(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
    if kind is dict and all(type(key) is str for key in value):
        return {key: _borne(item, _under(place, key), depth + 1) for key, item in value.items()}
    raise NotCanonical(_first_fault(value, place))


def _under(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _first_fault(value: Any, place: str = "", depth: int = 0) -> str:
    """Where and why `encode_canonical` refuses this value; empty when it does not. Slow: for messages only."""
    here = place or "the value"
    kind = type(value)
    if depth > MAX_DEPTH:
        return f"the JSON has more than {MAX_DEPTH} levels"
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                return f"{here} has a key that is no string"
            if not _is_unicode(key):
                return f"{here} has a key with a lone surrogate"
            if fault := _first_fault(item, _under(place, key), depth + 1):
                return fault
    elif kind is list:
        for index, item in enumerate(value):
            if fault := _first_fault(item, f"{place}[{index}]", depth + 1):
                return fault
    elif kind is str:
        return "" if _is_unicode(value) else f"{here} holds a lone surrogate"
    elif kind is int:
        return "" if abs(value) <= MAX_INTEGER else f"{here} is an integer outside the range of 53 bits"
    elif kind is float:
        return f"{here} is a float: only integers are allowed"
    elif kind not in _SCALARS:
        return f"{here} is of a type that JSON does not have"
    return ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
