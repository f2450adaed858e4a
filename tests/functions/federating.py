"""Requests of other servers, signed as they sign them, for function tests: the server asked is example.org."""

from collections.abc import Callable, Mapping
from typing import Any

from federation_peer import Peer
from functions import harness
from functions.harness import Answer

LOOPBACK = {"FEDERATION_ALLOW_RANGES": "127.0.0.0/8,::1/128", "FEDERATION_VERIFY": "off"}


def signed(
    call: Callable[..., Answer],
    peer: Peer,
    function: str,
    method: str,
    uri: str,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    destination: str = harness.SERVER_NAME,
) -> Answer:
    """A request of a peer; `uri` is escaped as the peer sends it, `headers` go over its own."""
    own = {"authorization": peer.header(method, uri, destination, body)}
    return call(function, method, uri, body, headers={**own, **(headers or {})})
