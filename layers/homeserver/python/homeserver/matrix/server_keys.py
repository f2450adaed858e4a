"""What servers publish about their signing keys: the object of `GET /_matrix/key/v2/server`.

Source: Matrix v1.19, server-server API, "Retrieving server keys"; "Signing key validity period" of room version 5.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix import unpadded_base64
from homeserver.matrix.errors import BadJson
from homeserver.matrix.identifiers import is_key_id
from homeserver.matrix.signing import SignatureError, SigningKey, sign_json, verify_signed_json

MOST_KEYS = 64
WEEK_MS = 7 * 24 * 3600 * 1000
_HOUR_MS = 3600 * 1000
_DAY_MS = 24 * _HOUR_MS
_ALGORITHM = "ed25519:"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A server's Ed25519 key, 32 bytes. Times in milliseconds.

    A key in use counts until `valid_until_ts`, which is at most a week after it was fetched; an old one has
    `expired_ts`, and counts for what is from before that.
    """

    key: bytes
    valid_until_ts: int
    expired_ts: int | None = None

    def counts_at(self, at_ms: int, *, enforce_validity: bool) -> bool:
        """Whether a signature of this time counts. Room versions 1 to 4 do not enforce the validity of keys in use."""
        if self.expired_ts is not None:
            return at_ms < self.expired_ts
        return not enforce_validity or at_ms <= self.valid_until_ts


@dataclass(frozen=True, slots=True)
class OldVerifyKey:
    """A key that this server signed with until `expired_ts` (milliseconds)."""

    key_id: str
    key: bytes
    expired_ts: int


def published_keys(
    server_name: str, current: SigningKey, old: Iterable[OldVerifyKey], *, now_ms: int
) -> dict[str, Any]:
    """The signed object that a server publishes. It is the same for an hour, and valid for another 23 at the least."""
    keys = {
        "server_name": server_name,
        "verify_keys": {current.key_id: {"key": unpadded_base64.encode(current.verify_key)}},
        "old_verify_keys": {
            key.key_id: {"key": unpadded_base64.encode(key.key), "expired_ts": key.expired_ts} for key in old
        },
        "valid_until_ts": now_ms // _HOUR_MS * _HOUR_MS + _DAY_MS,
    }
    return sign_json(keys, server_name, current)


def read_published_keys(answer: Any, server_name: str, *, now_ms: int) -> dict[str, VerifyKey]:
    """The Ed25519 keys in what a server, or somebody for it, published, by key ID.

    Raises BadJson for another shape or too many keys, SignatureError where the object speaks of another server or is
    not signed by one of the keys that it lists as in use.
    """
    if not isinstance(answer, Mapping) or answer.get("server_name") != server_name:
        raise SignatureError(f"These are not the keys of {server_name}.")
    valid_until = min(_time(answer, "valid_until_ts"), now_ms + WEEK_MS)
    current = {key_id: VerifyKey(_bytes(entry), valid_until) for key_id, entry in _entries(answer, "verify_keys")}
    verify_signed_json(answer, server_name, {key_id: key.key for key_id, key in current.items()})
    old: dict[str, VerifyKey] = {}
    for key_id, entry in _entries(answer, "old_verify_keys"):
        expired = _time(entry, "expired_ts")
        old[key_id] = VerifyKey(_bytes(entry), expired, expired)
    if len(current) + len(old) > MOST_KEYS:
        raise BadJson(f"The server has more than {MOST_KEYS} keys.")
    return old | current


def with_news(known: Mapping[str, VerifyKey], news: Mapping[str, VerifyKey]) -> dict[str, VerifyKey]:
    """What is known of a server's keys after it published others.

    A key that is not listed any more keeps counting for its time; beyond 64 those that ended first are forgotten.
    """
    merged = {**known, **news}
    if len(merged) <= MOST_KEYS:
        return merged
    latest = sorted(merged, key=lambda key_id: (key_id in news, merged[key_id].valid_until_ts), reverse=True)
    return {key_id: merged[key_id] for key_id in latest[:MOST_KEYS]}


def with_hearsay(known: Mapping[str, VerifyKey], told: Mapping[str, VerifyKey]) -> dict[str, VerifyKey]:
    """What is known of a server's keys after another server told of them, perhaps from long ago.

    A key that is known stays the key it is, and stays expired if it is; it may only turn out to be valid for longer.
    """
    merged = with_news(told, known)
    for key_id, key in merged.items():
        heard = told.get(key_id, key)
        if (heard.key, heard.expired_ts, key.expired_ts) == (key.key, None, None):
            merged[key_id] = max(key, heard, key=lambda one: one.valid_until_ts)
    return merged


def _entries(answer: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    listed = answer.get(name, {})
    if not isinstance(listed, Mapping):
        raise BadJson(f"{name} is not an object.")
    found = []
    for key_id, entry in listed.items():
        if key_id.startswith(_ALGORITHM) and is_key_id(key_id):  # others may know other algorithms
            if not isinstance(entry, Mapping):
                raise BadJson(f"An entry of {name} is not an object.")
            found.append((key_id, entry))
    return found


def _bytes(entry: Mapping[str, Any]) -> bytes:
    try:
        key = unpadded_base64.decode(entry["key"])
    except (KeyError, TypeError, ValueError, AttributeError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise BadJson("A key is not 32 bytes in base64.")
    return key


def _time(obj: Mapping[str, Any], name: str) -> int:
    value = obj.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadJson(f"{name} is not a time.")
    return value
