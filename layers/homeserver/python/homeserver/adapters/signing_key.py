"""The server's signing key: an encrypted SSM parameter that `server_setup` makes once.

Its value is a JSON object: `key_id` (`ed25519:` and a version), `seed` (32 bytes in base64).
"""

import json
from functools import cache

from homeserver.adapters import aws
from homeserver.matrix import unpadded_base64
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.signing import SigningKey
from homeserver.observability import log
from homeserver.settings import settings


def _parameter() -> str:
    name = settings().signing_key_parameter
    if not name:
        raise ValueError("SIGNING_KEY_PARAMETER is not set: this function does not know where the signing key is")
    return name


@cache
def signing_key() -> SigningKey:
    """The key this server signs with, read once a process.

    Raises MatrixError (503) before the server was set up; ValueError if the parameter holds no key.
    """
    key = _stored_key()
    if key is None:
        log.error("there is no signing key in the parameter %s: run server_setup", _parameter())
        raise MatrixError("This server has no signing key: it has not been set up yet.", status=503)
    return key


def keep_signing_key(candidate: SigningKey) -> SigningKey:
    """Store a key if there is none yet, and return the one that is there now: an existing key is never replaced."""
    stored = _stored_key()
    if stored is not None:
        return stored
    value = json.dumps({"key_id": candidate.key_id, "seed": unpadded_base64.encode(candidate.seed)})
    ssm = aws.client("ssm")
    try:
        ssm.put_parameter(
            Name=_parameter(),
            Value=value,
            Type="SecureString",
            Overwrite=False,
            Description="Signing key of a Matrix homeserver. Keep a copy: it cannot be made again.",
        )
    except ssm.exceptions.ParameterAlreadyExists:
        return signing_key()  # another set-up was faster
    return candidate


def _stored_key() -> SigningKey | None:
    ssm = aws.client("ssm")
    try:
        answer = ssm.get_parameter(Name=_parameter(), WithDecryption=True)
    except ssm.exceptions.ParameterNotFound:
        return None
    try:
        value = json.loads(answer["Parameter"]["Value"])
        return SigningKey(value["key_id"], unpadded_base64.decode(value["seed"]))
    except (ValueError, KeyError, TypeError):
        # Not `from error`: a traceback would show the secret that could not be read.
        raise ValueError(f"the parameter {_parameter()} does not hold a signing key") from None
