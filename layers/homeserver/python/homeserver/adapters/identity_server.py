"""What this server asks of identity servers: whose an address is, and to keep an invitation for it.

Source: identity service API v1.19, "Association lookup", "Invitation storage", "Key management".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from homeserver.adapters.guarded_http import Reply, RequestFailed, fetch_json
from homeserver.matrix.identifiers import is_user_id
from homeserver.matrix.identity_lookup import hash_address
from homeserver.settings import settings

_SECONDS = 6.0  # of one question; an invitation takes three, and API Gateway waits for half a minute
_TOKEN = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_MOST_KEYS = 8
_LONGEST_TEXT = 1024
_LOOPBACK_NAME = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?")


class IdentityServerRefused(RequestFailed):
    """The identity server understood, and says no. `errcode` and `mxid` as it answered them."""

    def __init__(self, reply: Reply) -> None:
        errcode, error = reply.json.get("errcode"), reply.json.get("error")
        self.errcode = errcode if isinstance(errcode, str) else "M_UNKNOWN"
        self.mxid = reply.json.get("mxid")
        super().__init__(error if isinstance(error, str) else f"the identity server answers {reply.status}")


@dataclass(frozen=True, slots=True)
class StoredInvite:
    """An invitation that waits at an identity server for whoever has the address.

    `public_keys`: objects with `public_key` and `key_validity_url`, never empty; `display_name` does not give the
    address away.
    """

    token: str
    public_keys: list[dict[str, str]]
    display_name: str


@dataclass(frozen=True, slots=True)
class IdentityServer:
    """An identity server, `hostname[:port]`, with the access token that its user gave."""

    name: str
    token: str

    def lookup(self, medium: str, address: str) -> str | None:
        """The user who has bound an address, or None. Raises RequestFailed."""
        for is_last in (False, True):
            details = self._ask("GET", "hash_details")
            pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
            if not isinstance(pepper, str) or not isinstance(algorithms, list):
                raise RequestFailed(f"{self.name} says nothing about how to ask")
            hashed = "sha256" in algorithms
            asked = hash_address(address, medium, pepper) if hashed else f"{address} {medium}"
            question = {"algorithm": "sha256" if hashed else "none", "pepper": pepper, "addresses": [asked]}
            try:
                mappings = self._ask("POST", "lookup", question).get("mappings")
            except IdentityServerRefused as refused:
                # The pepper may have been replaced between the two questions; once, not for ever.
                if refused.errcode != "M_INVALID_PEPPER" or is_last:
                    raise
                continue
            user_id = mappings.get(asked) if isinstance(mappings, Mapping) else None
            return user_id if is_user_id(user_id) else None
        raise AssertionError("the last try returns or raises")

    def store_invite(self, invite: Mapping[str, str]) -> StoredInvite:
        """Let the identity server keep an invitation and tell the invited person.

        `invite`: what `/store-invite` takes. Raises RequestFailed; IdentityServerRefused with M_THREEPID_IN_USE and
        the `mxid` if the address is bound by now.
        """
        answer = self._ask("POST", "store-invite", invite)
        token, name = answer.get("token"), answer.get("display_name")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token) or not isinstance(name, str):
            raise RequestFailed(f"{self.name} answers with no invitation")
        listed = answer.get("public_keys")
        keys = [_key(entry) for entry in (listed if isinstance(listed, list) else [])[:_MOST_KEYS]]
        usable = [key for key in keys if key is not None]
        if not usable:
            raise RequestFailed(f"{self.name} answers with no key")
        return StoredInvite(token, usable, name[:_LONGEST_TEXT])

    def _ask(self, method: str, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        is_here = settings().plain_http == "loopback" and _LOOPBACK_NAME.fullmatch(self.name)
        url = f"{'http' if is_here else 'https'}://{self.name}/_matrix/identity/v2/{what}"
        reply = fetch_json(method, url, body=body, token=self.token, seconds=_SECONDS)
        if reply.status != 200:
            raise IdentityServerRefused(reply)
        return reply.json


def _key(entry: Any) -> dict[str, str] | None:
    if not isinstance(entry, Mapping):
        return None
    key, url = entry.get("public_key"), entry.get("key_validity_url")
    if not isinstance(key, str) or not isinstance(url, str) or max(len(key), len(url)) > _LONGEST_TEXT:
        return None
    return {"public_key": key, "key_validity_url": url}


def is_key_valid(key_validity_url: str, public_key: str) -> bool:
    """Whether an identity server still stands by a key. Raises RequestFailed."""
    mark = "&" if "?" in key_validity_url else "?"
    url = f"{key_validity_url.partition('#')[0]}{mark}public_key={quote(public_key, safe='')}"
    reply = fetch_json("GET", url, seconds=_SECONDS)
    return reply.status == 200 and reply.json.get("valid") is True
