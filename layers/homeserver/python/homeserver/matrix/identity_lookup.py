"""Hashed addresses, with which a client asks an identity server about people without naming them.

Source: Matrix v1.19, identity service API, "Association lookup".
"""

from hashlib import sha256

from homeserver.matrix import unpadded_base64


def hash_address(address: str, medium: str, pepper: str) -> str:
    """URL-safe unpadded base64 of the SHA-256 of "address medium pepper"."""
    return unpadded_base64.encode_urlsafe(sha256(f"{address} {medium} {pepper}".encode()).digest())
