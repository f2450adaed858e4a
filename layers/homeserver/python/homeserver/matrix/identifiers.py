"""The grammars of Matrix identifiers. Identifiers stay plain strings; these functions say whether one is well formed.

Source: Matrix v1.19, appendices, "Opaque Identifiers", "Common Namespaced Identifiers" and "Common Identifier Format".
Every `is_...` takes any JSON value, so that a check of untrusted input needs no type test before it.
"""

import re

from homeserver.matrix.room_versions import EventIdFormat

MAX_IDENTIFIER_BYTES = 255

_SERVER_NAME = r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,255})(?::[0-9]{1,5})?"
# Any code point but the separator and NUL. Lone surrogates fall out where the bytes are counted.
_OPAQUE = r"[^:\x00]"

_server_name = re.compile(_SERVER_NAME)
_localpart = re.compile(r"[a-z0-9._=/+-]+")
_user_id = re.compile(rf"@{_OPAQUE}*:{_SERVER_NAME}")
_room_id_with_domain = re.compile(rf"!{_OPAQUE}+:{_SERVER_NAME}")
_room_id_of_hash = re.compile(r"![A-Za-z0-9_-]{43}")
_room_alias = re.compile(rf"#{_OPAQUE}+:{_SERVER_NAME}")
_event_ids = {
    EventIdFormat.OPAQUE: re.compile(rf"\${_OPAQUE}+:{_SERVER_NAME}"),
    EventIdFormat.STANDARD_BASE64: re.compile(r"\$[A-Za-z0-9+/]{43}"),
    EventIdFormat.URLSAFE_BASE64: re.compile(r"\$[A-Za-z0-9_-]{43}"),
}
_opaque_identifier = re.compile(r"[0-9A-Za-z._~-]{1,255}")
_namespaced_identifier = re.compile(r"[a-z][a-z0-9_.-]{0,254}")
_room_version = re.compile(r"[a-z0-9.-]{1,32}")
_key_id = re.compile(r"[a-z0-9_]+:[A-Za-z0-9_]+")
_mxc_uri = re.compile(rf"mxc://({_SERVER_NAME})/([A-Za-z0-9_-]+)")


def fits_identifier(value: str) -> bool:
    """Whether a string is at most 255 bytes of UTF-8 (and no lone surrogate keeps it from being UTF-8 at all)."""
    if value.isascii():
        return len(value) <= MAX_IDENTIFIER_BYTES
    try:
        return len(value.encode()) <= MAX_IDENTIFIER_BYTES
    except UnicodeEncodeError:
        return False


def domain_of(identifier: str) -> str:
    """Everything after the first colon: the server name. Empty where there is none (room IDs of version 12)."""
    return identifier.partition(":")[2]


def localpart_of(identifier: str) -> str:
    """What stands between the sigil and the first colon."""
    return identifier[1:].partition(":")[0]


def is_server_name(value: object) -> bool:
    """`hostname[:port]`: a DNS name, an IPv4 address or an IPv6 address in brackets."""
    return isinstance(value, str) and bool(_server_name.fullmatch(value)) and fits_identifier(value)


def is_valid_localpart(localpart: object) -> bool:
    """Whether a *new* local user may have this localpart: not empty, of `a-z 0-9 . _ = - / +`."""
    return isinstance(localpart, str) and bool(_localpart.fullmatch(localpart))


def is_user_id(value: object) -> bool:
    """A user ID as it must be accepted from other servers: historical ones have almost any localpart, even none."""
    return isinstance(value, str) and bool(_user_id.fullmatch(value)) and fits_identifier(value)


def is_new_user_id(value: object) -> bool:
    """A user ID that a server may create today: the strict grammar of the localpart, 255 bytes in all."""
    return is_user_id(value) and is_valid_localpart(localpart_of(str(value)))


def is_room_id(value: object) -> bool:
    """A room ID of either form: `!opaque:server`, or `!` and 43 characters of URL-safe base64 (room version 12)."""
    return is_room_id_with_domain(value) or is_room_id_of_hash(value)


def is_room_id_with_domain(value: object) -> bool:
    """A room ID of room versions 1 to 11: `!opaque:server`."""
    return isinstance(value, str) and bool(_room_id_with_domain.fullmatch(value)) and fits_identifier(value)


def is_room_id_of_hash(value: object) -> bool:
    """A room ID of room version 12: `!` and the hash of the create event."""
    return isinstance(value, str) and bool(_room_id_of_hash.fullmatch(value))


def is_room_alias(value: object) -> bool:
    """`#name:server`."""
    return isinstance(value, str) and bool(_room_alias.fullmatch(value)) and fits_identifier(value)


def is_event_id(value: object, event_id_format: EventIdFormat | None = None) -> bool:
    """An event ID of one format, or of any of the three when none is given."""
    if not isinstance(value, str):
        return False
    patterns = _event_ids.values() if event_id_format is None else (_event_ids[event_id_format],)
    return any(pattern.fullmatch(value) for pattern in patterns) and fits_identifier(value)


def is_opaque_identifier(value: object) -> bool:
    """Device IDs, session IDs, connection IDs, delay IDs: 1 to 255 of `0-9 A-Z a-z - . _ ~`.

    For identifiers that this server makes: clients' own device and transaction IDs may be anything.
    """
    return isinstance(value, str) and bool(_opaque_identifier.fullmatch(value))


def is_namespaced_identifier(value: object) -> bool:
    """The common namespaced identifier: `m.something` or `com.example.something`, lower case, at most 255 bytes."""
    return isinstance(value, str) and bool(_namespaced_identifier.fullmatch(value))


def is_room_version(value: object) -> bool:
    """A room version: 1 to 32 of `a-z 0-9 . -`, whether or not this server knows it."""
    return isinstance(value, str) and bool(_room_version.fullmatch(value))


def is_key_id(value: object) -> bool:
    """The ID of a server's signing key: `algorithm:version`."""
    return isinstance(value, str) and bool(_key_id.fullmatch(value))


def parse_mxc_uri(value: object) -> tuple[str, str] | None:
    """`(server name, media ID)` of an `mxc://` URI, or None when it is none."""
    match = _mxc_uri.fullmatch(value) if isinstance(value, str) else None
    return (match[1], match[2]) if match else None
