"""What this server asks of authorisation servers, as their confidential client: where they are, tokens, keys.

Source: OpenID Connect Discovery 1.0; RFC 6749, section 4.1.3; RFC 7636; RFC 7517.

No code, token or secret is part of an exception or a log line of this module.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homeserver.adapters.guarded_http import Reply, RequestFailed, fetch_json
from homeserver.observability import log

# The person waits for three answers at the most, and API Gateway for half a minute.
SECONDS = 6.0
METADATA_S = 60 * 60.0
KEYS_S = 10 * 60.0
# Whoever signs with a new key is asked again at once, but not for every made-up key ID.
LEAST_KEYS_S = 30.0
_MOST_KEYS = 32
_LONGEST_TOKEN = 16 * 1024
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
DISCOVERY = "/.well-known/openid-configuration"


class CodeRefused(RequestFailed):
    """The provider says that the code is none of its own, was used or has expired, or that the verifier is wrong."""


@dataclass(frozen=True, slots=True)
class Client:
    """What this server is to a provider. `auth`: client_secret_basic or client_secret_post."""

    client_id: str
    client_secret: str = field(repr=False)
    auth: str


_metadata: dict[str, tuple[float, dict[str, Any]]] = {}  # by issuer: when (monotonic seconds), and what it said
_keys: dict[str, tuple[float, list[dict[str, Any]]]] = {}  # by address of the keys, the same


def forget_providers() -> None:
    """Ask all providers anew."""
    _metadata.clear()
    _keys.clear()


def metadata_of(issuer: str) -> Mapping[str, Any]:
    """What an issuer publishes of itself, at most an hour old. Raises RequestFailed."""
    now = time.monotonic()
    if issuer in _metadata and now - _metadata[issuer][0] < METADATA_S:
        return _metadata[issuer][1]
    reply = _answered(fetch_json("GET", issuer.rstrip("/") + DISCOVERY, seconds=SECONDS))
    if reply.json.get("issuer") != issuer:
        raise RequestFailed("the provider's metadata is of another issuer")
    _metadata[issuer] = (now, reply.json)
    return reply.json


def exchange_code(url: str, client: Client, *, code: str, redirect_uri: str, verifier: str) -> str:
    """The ID token that a code stands for. Raises CodeRefused or RequestFailed."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    basic = None
    if client.auth == "client_secret_post":
        form |= {"client_id": client.client_id, "client_secret": client.client_secret}
    else:
        basic = (client.client_id, client.client_secret)
    reply = fetch_json("POST", url, form=form, basic=basic, seconds=SECONDS)
    if reply.status != 200:
        error = reply.json.get("error")
        named = error if isinstance(error, str) and _ERROR_CODE.fullmatch(error) else "no reason"
        if named == "invalid_grant":
            raise CodeRefused("the provider does not take the code")
        # Mostly a wrong client secret or redirect URI: somebody has to read of it.
        log.error("the OAuth provider at %s answers a code with %d: %s", url, reply.status, named)
        raise RequestFailed(f"the provider answers {reply.status}")
    token = reply.json.get("id_token")
    if not isinstance(token, str) or len(token) > _LONGEST_TOKEN:
        raise RequestFailed("the provider answers with no ID token")
    return token


def keys_of(url: str, *, missing: bool = False) -> list[dict[str, Any]]:
    """The JSON Web Keys at an address, at most ten minutes old; half a minute if one is `missing` among those known.

    Raises RequestFailed.
    """
    now = time.monotonic()
    if url in _keys and now - _keys[url][0] < (LEAST_KEYS_S if missing else KEYS_S):
        return _keys[url][1]
    found = _answered(fetch_json("GET", url, seconds=SECONDS)).json.get("keys")
    if not isinstance(found, list):
        raise RequestFailed("the provider has no keys")
    _keys[url] = (now, [key for key in found[:_MOST_KEYS] if isinstance(key, dict)])
    return _keys[url][1]


def _answered(reply: Reply) -> Reply:
    if reply.status != 200:
        raise RequestFailed(f"the provider answers {reply.status}")
    return reply
