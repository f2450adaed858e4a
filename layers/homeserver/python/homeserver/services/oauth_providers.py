"""The authorisation servers that people can log in with: the operator's configuration.

`OAUTH_PROVIDERS` is a JSON list, `OAUTH_CLIENT_SECRETS` a JSON object with the secret of each provider by its `id`:

    [{"id": "example", "name": "Example", "issuer": "https://login.example.org", "client_id": "eigenserver"}]
    {"example": "the secret"}

Each provider may also have
    scopes                  what is asked for, a list; `openid` is always among it. Default: openid, profile
    authorization_endpoint, token_endpoint, jwks_uri
                            where things are; all three, or none: then the issuer is asked (OpenID Connect Discovery)
    token_auth              client_secret_basic or client_secret_post; default: what the issuer says, else basic
    prompt                  what the provider shall ask people each time, such as select_account or login
    icon, brand             an mxc:// URI, and a kind of provider, for clients that show them
    register                true: whoever logs in for the first time gets an account
    localpart_claim         the claim that such an account is named after; default: preferred_username
    displayname_claim       the claim that its display name comes from; default: none, the name is the localpart

Source: OpenID Connect Core 1.0 and Discovery 1.0; RFC 6749; client-server API v1.19, "SSO client login".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from homeserver.adapters import oauth_client
from homeserver.adapters.guarded_http import RequestFailed
from homeserver.matrix.errors import NotFound
from homeserver.matrix.identifiers import is_opaque_identifier, parse_mxc_uri
from homeserver.settings import settings

_TEXTS = frozenset(
    {
        *("id", "name", "issuer", "client_id", "authorization_endpoint", "token_endpoint", "jwks_uri", "token_auth"),
        *("prompt", "icon", "brand", "localpart_claim", "displayname_claim"),
    }
)
_REQUIRED = ("id", "name", "issuer", "client_id")
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_TOKEN_AUTH = ("client_secret_basic", "client_secret_post")
# RFC 6749, appendix A.4: what a scope consists of.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_BRAND = re.compile(r"[a-z][a-z0-9_.-]{0,254}")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a provider is asked. `issuer_in_answers`: whether its redirects name it (RFC 9207)."""

    authorization: str
    token: str
    jwks: str
    token_auth: str = "client_secret_basic"
    issuer_in_answers: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """One authorisation server, with what this server is to it. `endpoints` None: its issuer tells them."""

    id: str
    name: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...] = ("openid", "profile")
    endpoints: Endpoints | None = None
    token_auth: str | None = None
    prompt: str | None = None
    icon: str | None = None
    brand: str | None = None
    register: bool = False
    localpart_claim: str = "preferred_username"
    displayname_claim: str | None = None

    def shown(self) -> dict[str, str]:
        """The entry among `identity_providers` of `m.login.sso`."""
        entry = {"id": self.id, "name": self.name}
        return entry | {key: text for key, text in (("icon", self.icon), ("brand", self.brand)) if text is not None}


def providers() -> tuple[Provider, ...]:
    """All providers, in the operator's order. Raises ValueError for settings that cannot be used."""
    return _parsed(settings().oauth_providers, settings().oauth_client_secrets)


def provider_of(provider_id: str) -> Provider:
    """The provider with this ID. Raises NotFound."""
    for provider in providers():
        if provider.id == provider_id:
            return provider
    raise NotFound("This server knows no such provider.")


def endpoints_of(provider: Provider) -> Endpoints:
    """Where a provider is asked: as the operator says, or as its issuer does. Raises RequestFailed."""
    if provider.endpoints is not None:
        return provider.endpoints
    told = oauth_client.metadata_of(provider.issuer)
    urls = [told.get(key) for key in _ENDPOINTS]
    for url in urls:
        try:
            check_url("an endpoint", url if isinstance(url, str) else "")
        except ValueError as error:
            raise RequestFailed(f"the provider's metadata cannot be used: {error}") from None
    known = told.get("token_endpoint_auth_methods_supported")
    # Without that word of it a provider takes the first of ours.
    offered = [method for method in _TOKEN_AUTH if not isinstance(known, list) or method in known]
    authorization, token, jwks = (str(url) for url in urls)
    return Endpoints(
        authorization,
        token,
        jwks,
        token_auth=provider.token_auth or (offered or _TOKEN_AUTH)[0],
        issuer_in_answers=told.get("authorization_response_iss_parameter_supported") is True,
    )


@cache
def _parsed(text: str, secrets_text: str) -> tuple[Provider, ...]:
    if not text.strip():
        return ()
    entries, secrets = _json("OAUTH_PROVIDERS", text), _json("OAUTH_CLIENT_SECRETS", secrets_text or "{}")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("OAUTH_PROVIDERS must be a list of objects")
    if not isinstance(secrets, dict) or not all(isinstance(secret, str) for secret in secrets.values()):
        raise ValueError("OAUTH_CLIENT_SECRETS must be an object with a string for each provider")
    found = tuple(_provider(entry, secrets) for entry in entries)
    for what in ("id", "issuer"):
        values = [getattr(provider, what) for provider in found]
        # The same issuer twice would make it a matter of chance which of the two an account belongs to.
        if len(set(values)) != len(values):
            raise ValueError(f"OAUTH_PROVIDERS has an {what} twice")
    unknown = secrets.keys() - {provider.id for provider in found}
    if unknown:
        raise ValueError(f"OAUTH_CLIENT_SECRETS has {', '.join(sorted(unknown))}, which is no id of OAUTH_PROVIDERS")
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # Not `from error`, and no text of it: it would show the secrets.
        raise ValueError(f"{name} is no JSON: {error.msg} at character {error.pos}") from None


def _provider(entry: Mapping[str, Any], secrets: Mapping[str, str]) -> Provider:
    name = f"OAUTH_PROVIDERS ({entry.get('id')})"
    for key in _REQUIRED:
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise ValueError(f"{name} needs {key}, a string")
    for key, value in entry.items():
        if key in _TEXTS:
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name}: {key} must be a string that is not empty")
        elif key not in {"scopes", "register"}:
            raise ValueError(f"{name} has {key}, which is nothing that a provider has")
    if not is_opaque_identifier(entry["id"]) or "/" in entry["id"]:
        raise ValueError(f"{name}: id may only have letters, digits and ._~-")
    if not secrets.get(entry["id"]):
        raise ValueError(f"OAUTH_CLIENT_SECRETS has no secret for {entry['id']}")
    check_url(f"{name}: issuer", entry["issuer"], bare=True)
    if not isinstance(entry.get("register", False), bool):
        raise ValueError(f"{name}: register must be true or false")  # noqa: TRY004 - a setting that cannot be used
    if "token_auth" in entry and entry["token_auth"] not in _TOKEN_AUTH:
        raise ValueError(f"{name}: token_auth must be one of {', '.join(_TOKEN_AUTH)}")
    if "icon" in entry and parse_mxc_uri(entry["icon"]) is None:
        raise ValueError(f"{name}: icon must be an mxc:// URI")
    if "brand" in entry and not _BRAND.fullmatch(entry["brand"]):
        raise ValueError(f"{name}: brand must be lower case letters, digits and ._-")
    texts = ("id", "name", "issuer", "client_id", "token_auth", "prompt", "icon", "brand")
    claims = ("localpart_claim", "displayname_claim")
    return Provider(
        client_secret=secrets[entry["id"]],
        scopes=_scopes(name, entry.get("scopes", ["openid", "profile"])),
        endpoints=_endpoints(name, entry),
        register=entry.get("register", False),
        **{key: entry[key] for key in (*texts, *claims) if key in entry},
    )


def _scopes(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(scope, str) and _SCOPE.fullmatch(scope) for scope in value):
        raise ValueError(f"{name}: scopes must be a list of words")
    return tuple(dict.fromkeys(["openid", *value]))


def _endpoints(name: str, entry: Mapping[str, Any]) -> Endpoints | None:
    given = [key for key in _ENDPOINTS if key in entry]
    if not given:
        return None
    if len(given) != len(_ENDPOINTS):
        raise ValueError(f"{name} needs all of {', '.join(_ENDPOINTS)}, or none")
    for key in given:
        check_url(f"{name}: {key}", entry[key])
    authorization, token, jwks = (str(entry[key]) for key in _ENDPOINTS)
    return Endpoints(authorization, token, jwks, token_auth=entry.get("token_auth", _TOKEN_AUTH[0]))


def check_url(name: str, url: str, *, bare: bool = False) -> None:
    """Raises ValueError unless this is an https URL, or one of this machine where `PLAIN_HTTP` allows that.

    `bare`: it may have no query either, as an issuer.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{name} is no URL") from None
    is_here = settings().plain_http == "loopback" and host in _LOOPBACK
    if parts.scheme != "https" and not (parts.scheme == "http" and is_here):
        raise ValueError(f"{name} must be an https:// URL")
    if not host or "@" in parts.netloc or parts.fragment or (bare and parts.query):
        raise ValueError(f"{name} has a part that it may not have, or lacks its host")
