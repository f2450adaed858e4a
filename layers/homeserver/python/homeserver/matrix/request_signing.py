"""Signing requests between servers.

Source: Matrix v1.19, server-server API, "Request Authentication".
"""

from typing import Any

from homeserver.matrix.canonical_json import encode_canonical
from homeserver.matrix.signing import SigningKey


def signed_request_bytes(method: str, uri: str, *, origin: str, destination: str, content: Any = None) -> bytes:
    """What is signed for a request. `uri` is path and query as sent; `content` is None for a request without body.

    Raises NotCanonical.
    """
    request: dict[str, Any] = {"method": method, "uri": uri, "origin": origin, "destination": destination}
    if content is not None:
        request["content"] = content
    return encode_canonical(request)


def sign_request(method: str, uri: str, *, origin: str, destination: str, key: SigningKey, content: Any = None) -> str:
    """The value of the `Authorization` header for a request from `origin` to `destination`. Raises NotCanonical."""
    signature = key.sign(signed_request_bytes(method, uri, origin=origin, destination=destination, content=content))
    return f'X-Matrix origin="{origin}",destination="{destination}",key="{key.key_id}",sig="{signature}"'
