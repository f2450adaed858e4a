"""Requests to providers: the address that a browser is sent to, and what comes of its return.

Source: RFC 6749, section 4.1; RFC 7636 (PKCE, S256 always); OpenID Connect Core 1.0, section 3.1; RFC 9207.

The state is 256 random bits that only the browser's address bar has; the store has its hash. The PKCE verifier and the
nonce are HMACs of state and salt under the client secret. So nothing secret has to be stored: a copy of the table lacks
state and secret, who sees the addresses lacks salt and secret, and neither can try secrets against the challenge.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from homeserver.adapters import oauth_client
from homeserver.adapters.guarded_http import RequestFailed
from homeserver.matrix import unpadded_base64
from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import Forbidden, MatrixError, MissingParam
from homeserver.observability import log
from homeserver.services.id_tokens import checked_claims
from homeserver.services.login_stages.stage import Origin
from homeserver.services.oauth_providers import Endpoints, Provider, endpoints_of
from homeserver.settings import settings
from homeserver.storage import oauth_states
from homeserver.storage.oauth_states import OauthState, Purpose

CALLBACK_PATH = "/_matrix/client/api/v1/login/oauth2/callback"
_MAX_STATE = 128  # ours have 43 characters: nothing longer is worth hashing
_MAX_CODE = 4096
MAX_USER_AGENT = 200
# What a person did there, or did not do. Everything else is the provider's fault, or the operator's.
_REFUSALS = frozenset(
    {"access_denied", "login_required", "consent_required", "interaction_required", "account_selection_required"}
)
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is not stored yet. `url`: where the browser goes, once it is."""

    url: str
    state_hash: str
    item: OauthState

    def store(self) -> None:
        """Keep it: from now on its answer is waited for."""
        oauth_states.store(self.state_hash, self.item)


def own_address(origin: Origin) -> str:
    """Where browsers reach this server: what the operator says, else the address that was asked."""
    return settings().public_base_url or origin.base_url


def prepare(
    provider: Provider, purpose: Purpose, target: str, origin: Origin, *, browser: str | None = None
) -> Prepared:
    """A new request to a provider. `target`: see OauthState; `browser`: a cookie that the answer must come with.

    Raises M_UNKNOWN (502) if the provider does not say where its pages are.
    """
    address = _endpoints(provider).authorization
    state, salt = secrets.token_urlsafe(32), secrets.token_bytes(32)
    redirect_uri = own_address(origin) + CALLBACK_PATH
    query = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(provider.scopes),
        "state": state,
        "nonce": _derived(provider, "nonce", salt, state),
        "code_challenge": _challenge(_derived(provider, "verifier", salt, state)),
        "code_challenge_method": "S256",
    }
    if provider.prompt is not None:
        query["prompt"] = provider.prompt
    item = OauthState(
        purpose=purpose,
        provider=provider.id,
        target=target,
        salt=salt,
        redirect_uri=redirect_uri,
        browser=token_hash(browser) if browser is not None else None,
        address=origin.address,
        user_agent=origin.user_agent[:MAX_USER_AGENT] or None,
    )
    return Prepared(f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", token_hash(state), item)


def take(state: str | None) -> OauthState:
    """Use up the request that an answer is for. Raises MissingParam, M_UNKNOWN (400) for none, or an old one."""
    if not state:
        raise MissingParam("state is required.")
    request = oauth_states.take(token_hash(state)) if len(state) <= _MAX_STATE else None
    if request is None or request.purpose == "confirm":
        raise MatrixError("This answer was not asked for, came too late, or was given before.")
    return request


def identity_claims(provider: Provider, request: OauthState, query: Mapping[str, str]) -> Mapping[str, Any]:
    """The claims about the person who came back with the answer `query` to a request that was taken.

    Raises Forbidden, MissingParam without a code, M_UNKNOWN (502) if the provider cannot be asked or makes no sense.
    """
    issuer, error, code, state = query.get("iss"), query.get("error"), query.get("code"), query["state"]
    if issuer not in {None, provider.issuer}:
        raise Forbidden("This is the answer of another provider.")
    if error is not None:
        raise _refusal(provider, error)
    endpoints = _endpoints(provider)
    if issuer is None and endpoints.issuer_in_answers:
        raise Forbidden("This answer does not say which provider it is of.")
    if not code:
        raise MissingParam("code is required.")
    if len(code) > _MAX_CODE:
        raise Forbidden("This is no code of the provider.")
    client = oauth_client.Client(provider.client_id, provider.client_secret, endpoints.token_auth)
    try:
        token = oauth_client.exchange_code(
            endpoints.token,
            client,
            code=code,
            redirect_uri=request.redirect_uri,
            verifier=_derived(provider, "verifier", request.salt, state),
        )
        return checked_claims(
            token,
            lambda missing: oauth_client.keys_of(endpoints.jwks, missing=missing),
            issuer=provider.issuer,
            client_id=provider.client_id,
            nonce=_derived(provider, "nonce", request.salt, state),
        )
    except oauth_client.CodeRefused:
        raise Forbidden("The provider does not take this code.") from None
    except RequestFailed as failed:
        raise _unreachable(provider, failed) from None


def _endpoints(provider: Provider) -> Endpoints:
    try:
        return endpoints_of(provider)
    except RequestFailed as failed:
        raise _unreachable(provider, failed) from None


def _unreachable(provider: Provider, failed: RequestFailed) -> MatrixError:
    log.warning("the OAuth provider %s: %s", provider.id, failed)
    return MatrixError(f"{provider.name} cannot be asked at the moment.", status=502)


def _refusal(provider: Provider, error: str) -> MatrixError:
    if error in _REFUSALS:
        return Forbidden(f"{provider.name} did not confirm who you are.")
    log.warning(
        "the OAuth provider %s answers: %s", provider.id, error if _ERROR_CODE.fullmatch(error) else "an unknown error"
    )
    return MatrixError(f"{provider.name} could not answer.", status=502)


def _derived(provider: Provider, what: str, salt: bytes, state: str) -> str:
    """43 characters, as a verifier must have at the least."""
    text = b"\0".join([what.encode(), provider.id.encode(), salt, state.encode()])
    return unpadded_base64.encode_urlsafe(hmac.digest(provider.client_secret.encode(), text, hashlib.sha256))


def _challenge(verifier: str) -> str:
    return unpadded_base64.encode_urlsafe(hashlib.sha256(verifier.encode()).digest())
