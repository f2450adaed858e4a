"""The server's signing key: an encrypted SSM parameter that `server_setup` makes once, and replaces on demand.

Its value is a JSON object: `key_id` (`ed25519:` and a version), `seed` (32 bytes in base64); after a replacement also
`generation`, and `old`: keys that it had before, as `key_id`, `key` (the public half) and `expired_ts`.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.adapters import aws
from homeserver.matrix import unpadded_base64
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.server_keys import OldVerifyKey
from homeserver.matrix.signing import SigningKey
from homeserver.observability import log
from homeserver.settings import settings

# A warm function signs with what it read for so long.
FRESH_S = 300.0
# So a replaced key goes on counting for a while; clocks differ, too.
OVERLAP_MS = 15 * 60 * 1000
MOST_OLD_KEYS = 20  # a parameter holds 4 KB


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The key that this server signs with, and those it signed with before, the latest first."""

    current: SigningKey
    old: tuple[OldVerifyKey, ...] = ()
    generation: int = 1


_known: dict[str, tuple[float, SigningKeys]] = {}  # by parameter: when it was read (monotonic seconds), and what


def _parameter() -> str:
    name = settings().signing_key_parameter
    if not name:
        raise ValueError("SIGNING_KEY_PARAMETER is not set: this function does not know where the signing key is")
    return name


def signing_key() -> SigningKey:
    """The key this server signs with, at most five minutes old. Raises as `signing_keys` does."""
    return signing_keys().current


def signing_keys() -> SigningKeys:
    """All keys of this server, at most five minutes old.

    Raises MatrixError (503) before the server was set up; ValueError if the parameter holds no key.
    """
    name = _parameter()
    now = time.monotonic()
    if name in _known and now - _known[name][0] < FRESH_S:
        return _known[name][1]
    keys = _stored_keys()
    if keys is None:
        log.error("there is no signing key in the parameter %s: run server_setup", name)
        raise MatrixError("This server has no signing key: it has not been set up yet.", status=503)
    _known[name] = (now, keys)
    return keys


def forget_signing_keys() -> None:
    """Read the keys again when they are asked for next."""
    _known.clear()


def keep_signing_key(candidate: SigningKey, *, generation: int = 1, now_ms: int = 0) -> SigningKey:
    """Store a key if there is none yet, and return the one that is there now.

    An existing key is replaced only by a higher generation than it was stored with; then it becomes an old one that
    counts until a quarter of an hour after `now_ms`. Safe to repeat.
    """
    stored = _stored_keys()
    if stored is None:
        made = SigningKeys(candidate, generation=generation)
        return candidate if _store(made, overwrite=False) else signing_key()  # another set-up was faster
    if generation <= stored.generation:
        return stored.current
    replaced = OldVerifyKey(stored.current.key_id, stored.current.verify_key, now_ms + OVERLAP_MS)
    _store(SigningKeys(candidate, (replaced, *stored.old)[:MOST_OLD_KEYS], generation), overwrite=True)
    forget_signing_keys()
    return candidate


def _store(keys: SigningKeys, *, overwrite: bool) -> bool:
    value: dict[str, Any] = {"key_id": keys.current.key_id, "seed": unpadded_base64.encode(keys.current.seed)}
    if keys.generation > 1:
        value["generation"] = keys.generation
    if keys.old:
        value["old"] = [
            {"key_id": old.key_id, "key": unpadded_base64.encode(old.key), "expired_ts": old.expired_ts}
            for old in keys.old
        ]
    ssm = aws.client("ssm")
    try:
        ssm.put_parameter(
            Name=_parameter(),
            Value=json.dumps(value, separators=(",", ":")),
            Type="SecureString",
            Overwrite=overwrite,
            Description="Signing key of a Matrix homeserver. Keep a copy: it cannot be made again.",
        )
    except ssm.exceptions.ParameterAlreadyExists:
        return False
    return True


def _stored_keys() -> SigningKeys | None:
    ssm = aws.client("ssm")
    try:
        answer = ssm.get_parameter(Name=_parameter(), WithDecryption=True)
    except ssm.exceptions.ParameterNotFound:
        return None
    try:
        value = json.loads(answer["Parameter"]["Value"])
        current = SigningKey(value["key_id"], unpadded_base64.decode(value["seed"]))
        old = tuple(_old_key(entry) for entry in value.get("old", ()))
        return SigningKeys(current, old, int(value.get("generation", 1)))
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not `from error`: a traceback would show the secret that could not be read.
        raise ValueError(f"the parameter {_parameter()} does not hold a signing key") from None


def _old_key(entry: Mapping[str, Any]) -> OldVerifyKey:
    return OldVerifyKey(entry["key_id"], unpadded_base64.decode(entry["key"]), int(entry["expired_ts"]))
