"""The text of access and refresh tokens: formatting, reading the claimed user, hashing.

A token is `eig_<localpart, base64url>_<32 random bytes, base64url>` (a refresh token begins with `eigr_`). The user
stands in it in the clear so that a reader can fetch the user's data *while* the token is being looked up. It is a
claim and no more: only the stored record, found by the hash of the whole text, says whose token it is.
Source: client-server API v1.19, "Using access tokens": tokens are opaque to clients.
"""

import hashlib

from homeserver.matrix.unpadded_base64 import decode, encode_urlsafe

ACCESS = "eig"
REFRESH = "eigr"
RANDOM_BYTES = 32
MAX_TOKEN_LENGTH = 512  # ours are at most 390 characters: nothing longer is worth hashing
_RANDOM_LENGTH = 43  # 32 bytes in unpadded base64


def format_token(kind: str, localpart: str, randomness: bytes) -> str:
    """The text of a token of this kind (ACCESS or REFRESH). `randomness`: 32 bytes that nobody can guess."""
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"a token needs {RANDOM_BYTES} random bytes")
    return f"{kind}_{encode_urlsafe(localpart.encode())}_{encode_urlsafe(randomness)}"


def claimed_user(token: str, server_name: str) -> str | None:
    """The ID of the user whom an access token claims to belong to, or None for a text that is no token of ours."""
    prefix = ACCESS + "_"
    end = len(token) - _RANDOM_LENGTH - 1
    if len(token) > MAX_TOKEN_LENGTH or not token.startswith(prefix) or end < len(prefix) or token[end] != "_":
        return None
    try:
        localpart = decode(token[len(prefix) : end]).decode()
    except ValueError:  # UnicodeDecodeError is one
        return None
    return f"@{localpart}:{server_name}"


def token_hash(token: str) -> str:
    """What a token is stored under: base64url of its SHA-256. A leaked table gives no token away."""
    return encode_urlsafe(hashlib.sha256(token.encode()).digest())
