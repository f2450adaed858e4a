"""The `Authorization: X-Matrix` header of requests between servers.

Source: Matrix v1.19, server-server API, "Request Authentication"; RFC 9110, section 11.4 and 5.6.

A request may have several of these headers, one a key; API Gateway joins them with commas, which is also how one field
may hold several. What is read here is liberal in spelling (quotes or none, spaces, case, unknown parameters, colons
without quotes) and strict in meaning: whatever could be read in two ways is refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from homeserver.matrix.errors import Unauthorized
from homeserver.matrix.identifiers import is_key_id, is_server_name

MOST_SIGNATURES = 10
_SCHEME = "x-matrix"
_ALGORITHM = "ed25519:"

_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_separators = re.compile(r"[ \t,]*")
_equals = re.compile(r"[ \t]*=[ \t]*")
_quoted = re.compile(r'"((?:[^"\\]|\\.)*)"')
_bare = re.compile(r'[^ \t,"\\]+')
_escaped = re.compile(r"\\(.)")
_end = re.compile(r"[ \t]*(?:,|\Z)")
# The specification's prose calls `sig` so.
_ALIASES = {"signature": "sig"}
_KNOWN = frozenset({"origin", "destination", "key", "sig"})


@dataclass(frozen=True, slots=True)
class RequestSignatures:
    """Who says they sent a request, to whom (None: an old server that does not say), and their signatures by key."""

    origin: str
    destination: str | None
    signatures: Mapping[str, str]


def parse_x_matrix(header: str) -> RequestSignatures:
    """What an `Authorization` field says. Raises Unauthorized.

    Refused are other schemes, a parameter that comes twice, several origins or destinations, two signatures by one key,
    and no signature by an Ed25519 key at all.
    """
    origins: set[str] = set()
    destinations: set[str | None] = set()
    signatures: dict[str, str] = {}
    for credentials in _credentials(header):
        missing = {"origin", "key", "sig"} - credentials.keys()
        if missing:
            raise Unauthorized(f"The Authorization header has no {', '.join(sorted(missing))}.")
        origins.add(credentials["origin"])
        destinations.add(credentials.get("destination"))
        key_id = credentials["key"]
        if not key_id.startswith(_ALGORITHM):
            continue  # another algorithm: others may know it
        if not is_key_id(key_id) or key_id in signatures or len(signatures) == MOST_SIGNATURES:
            raise Unauthorized("The Authorization header names a key that is none, one key twice, or too many keys.")
        signatures[key_id] = credentials["sig"]
    if not origins:
        raise Unauthorized("The request is not signed: it needs an Authorization header of the scheme X-Matrix.")
    if len(origins) > 1 or len(destinations) > 1:
        raise Unauthorized("The Authorization headers contradict each other.")
    origin = origins.pop()
    if not is_server_name(origin):
        raise Unauthorized("The origin in the Authorization header is not a server name.")
    if not signatures:
        raise Unauthorized("The Authorization header has no signature by an Ed25519 key.")
    return RequestSignatures(origin, destinations.pop(), signatures)


def _credentials(header: str) -> Iterator[dict[str, str]]:
    """The known parameters of each `X-Matrix` in a field."""
    current: dict[str, str] | None = None
    at = _after(_separators, header, 0)
    while at < len(header):
        name = _token.match(header, at)
        if name is None:
            raise _malformed()
        equals = _equals.match(header, name.end())
        if equals is None:
            # A word without a value begins the next credentials.
            if name[0].lower() != _SCHEME or header[name.end() : name.end() + 1] not in {" ", "\t", ""}:
                raise Unauthorized("Requests between servers are authenticated by the scheme X-Matrix.")
            if current is not None:
                yield current
            current = {}
            at = _after(_separators, header, name.end())
            continue
        if current is None:
            raise _malformed()
        value, at = _value(header, equals.end())
        parameter = _ALIASES.get(name[0].lower(), name[0].lower())
        if parameter in _KNOWN:
            if parameter in current:
                raise Unauthorized(f"The Authorization header has two values for {parameter}.")
            current[parameter] = value
        if _end.match(header, at) is None:
            raise _malformed()
        at = _after(_separators, header, at)
    if current is not None:
        yield current


def _value(header: str, at: int) -> tuple[str, int]:
    """A quoted or bare value and where it ends."""
    if quoted := _quoted.match(header, at):
        return _escaped.sub(r"\1", quoted[1]), quoted.end()
    if bare := _bare.match(header, at):
        return bare[0], bare.end()
    raise _malformed()


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _malformed() -> Unauthorized:
    return Unauthorized("The Authorization header cannot be read.")
