"""Signing requests between servers.

Source: Matrix v1.19, server-server API, "Request Authentication".
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.canonical_json import encode_lenient
from homeserver.matrix.signing import SigningKey, verify_message


def signed_request_bytes(method: str, uri: str, *, origin: str, destination: str, content: Any = None) -> bytes:
    """What is signed for a request. `uri` is path and query as sent; `content` is None for a request without body.

    The content may hold events of room versions that allow any number. Raises NotCanonical.
    """
    request: dict[str, Any] = {"method": method, "uri": uri, "origin": origin, "destination": destination}
    if content is not None:
        request["content"] = content
    return encode_lenient(request)


def sign_request(method: str, uri: str, *, origin: str, destination: str, key: SigningKey, content: Any = None) -> str:
    """The value of the `Authorization` header for a request from `origin` to `destination`. Raises NotCanonical."""
    signature = key.sign(signed_request_bytes(method, uri, origin=origin, destination=destination, content=content))
    return f'X-Matrix origin="{origin}",destination="{destination}",key="{key.key_id}",sig="{signature}"'


def verify_request(
    method: str,
    uri: str,
    *,
    origin: str,
    destination: str,
    signatures: Mapping[str, str],
    verify_keys: Mapping[str, bytes],
    content: Any = None,
) -> None:
    """Check the signatures (by key ID) of a request; `verify_keys` are the origin's keys that count now.

    Of the known keys there must be one that signed, and each of those must have signed this. Raises SignatureError,
    NotCanonical.
    """
    message = signed_request_bytes(method, uri, origin=origin, destination=destination, content=content)
    verify_message(message, signatures, origin, verify_keys)
