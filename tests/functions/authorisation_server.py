"""An authorisation server on loopback, made of Authlib's grants: OAuth 2.0 with PKCE, and OpenID Connect.

    server = AuthorisationServer()
    back = server.visit(uri, "carol")      # what a browser does that is sent to `uri`: where it is sent back to

Authlib checks client, redirect URI, code, secret and verifier, and makes the tokens; what a test wants to be wrong is
set by the attributes below.
"""

import base64
import hashlib
import hmac
import html
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from authlib.common.security import generate_token
from authlib.oauth2 import AuthorizationServer, OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin, InvalidRequestError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode, UserInfo
from authlib.oidc.core.models import AuthorizationCodeMixin
from joserfc.jwk import RSAKey

from functions.loopback_service import LoopbackService

SECRET = "a-client-secret-that-nobody-may-log"


@dataclass
class Client(ClientMixin):
    client_id: str = "eigenserver"
    client_secret: str = SECRET
    # Any path and port of this name: what a deployment registers is one URI.
    redirect_host: str = "example.org"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str | None) -> str:
        return " ".join(word for word in (scope or "").split() if word in {"openid", "profile", "email"})

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        parts = urlsplit(redirect_uri)
        return parts.hostname == self.redirect_host and parts.path == "/_matrix/client/api/v1/login/oauth2/callback"

    def check_client_secret(self, client_secret: str) -> bool:
        return hmac.compare_digest(client_secret, self.client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in {"client_secret_basic", "client_secret_post"}

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


@dataclass
class Code(AuthorizationCodeMixin):
    code: str
    client_id: str
    redirect_uri: str
    scope: str
    user: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None
    auth_time: int = field(default_factory=lambda: int(time.time()))

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.auth_time


class _Request(OAuth2Request):
    def __init__(self, method: str, uri: str, fields: dict[str, str], headers: Any) -> None:
        super().__init__(method, uri, headers=headers)
        self.payload = BasicOAuth2Payload(fields)
        self._fields = fields

    @property
    def args(self) -> dict[str, str]:
        return self._fields

    @property
    def form(self) -> dict[str, str]:
        return self._fields


class _Protocol(AuthorizationServer):
    """Authlib's server on requests and answers of http.server."""

    def __init__(self, owner: "AuthorisationServer") -> None:
        super().__init__()
        self.owner = owner
        self.register_token_generator("default", BearerTokenGenerator(lambda *_, **__: generate_token(42)))

    def query_client(self, client_id: str) -> Client | None:
        return self.owner.client if client_id == self.owner.client.client_id else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        self.owner.tokens.append(token)

    def create_oauth2_request(self, request: _Request) -> _Request:
        return request

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, bytes, list[tuple[str, str]]]:
        data = json.dumps(body).encode() if isinstance(body, dict) else str(body).encode()
        return status, data, list(headers)


class AuthorisationServer(LoopbackService):
    """`answer`: what people say: allow, deny, or page (a page with both, for browsers).

    `change`: claims that every ID token gets in place of the right ones. `algorithm`: none or HS256 to forge tokens
    with. `instead`: path -> a function of the handler that answers it. `asked`: all requests as (method, path, fields).
    """

    def __init__(self) -> None:
        os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # on loopback
        self.client = Client()
        self.codes: dict[str, Code] = {}
        self.tokens: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.people: dict[str, dict[str, Any]] = {}
        self.answer = "allow"
        self.change: dict[str, Any] = {}
        self.algorithm = "RS256"
        self.metadata: dict[str, Any] = {}
        self.instead: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.key = _first_key()
        super().__init__(self._handler())
        self.protocol = _Protocol(self)
        self.protocol.register_grant(*self._grant())

    def new_key(self) -> None:
        self.key = _new_key()

    @property
    def issuer(self) -> str:
        return self.url

    def provider(self, provider_id: str = "example", **more: Any) -> dict[str, Any]:
        """An entry of OAUTH_PROVIDERS."""
        return {
            "id": provider_id,
            "name": provider_id.title(),
            "issuer": self.issuer,
            "client_id": self.client.client_id,
            **more,
        }

    def visit(self, uri: str, person: str = "carol") -> str:
        """Where somebody who follows `uri`, and says what `answer` is, is sent back to."""
        request = urllib.request.Request(uri, headers={"Cookie": f"person={person}"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.build_opener(_Stay).open(request)
        with caught.value as answered:
            assert answered.code == 302, answered.read()
            return str(answered.headers["location"])

    def _grant(self) -> tuple[type[AuthorizationCodeGrant], list[Any]]:
        owner = self

        class Grant(AuthorizationCodeGrant):
            TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]  # noqa: RUF012 - Authlib's way

            def save_authorization_code(self, code: str, request: Any) -> None:
                data = request.payload.data
                owner.codes[code] = Code(
                    code,
                    request.client.client_id,
                    request.payload.redirect_uri,
                    request.scope,
                    request.user,
                    *(data.get(key) for key in ("nonce", "code_challenge", "code_challenge_method")),
                )

            def query_authorization_code(self, code: str, client: Client) -> Code | None:
                found = owner.codes.get(code)
                return found if found is not None and found.client_id == client.client_id else None

            def delete_authorization_code(self, authorization_code: Code) -> None:
                del owner.codes[authorization_code.code]

            def authenticate_user(self, authorization_code: Code) -> str:
                return authorization_code.user

        class Required(CodeChallenge):
            """Authlib lets confidential clients do without PKCE: this provider does not."""

            SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]  # noqa: RUF012 - Authlib's way

            def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
                if not grant.request.payload.data.get("code_challenge"):
                    raise InvalidRequestError("Missing 'code_challenge'")
                super().validate_code_challenge(grant, redirect_uri)

        class Tokens(OpenIDCode):
            def exists_nonce(self, nonce: str, request: Any) -> bool:
                return any(code.nonce == nonce for code in owner.codes.values())

            def resolve_client_private_key(self, client: Client) -> RSAKey:
                return owner.key

            def get_client_algorithm(self, client: Client) -> str:
                return "RS256"

            def get_encode_header(self, client: Client) -> dict[str, str]:
                return {"alg": "RS256", "kid": owner.key.kid}

            def get_client_claims(self, client: Client) -> dict[str, Any]:
                return {"iss": owner.issuer, "aud": [client.client_id]}

            def generate_user_info(self, user: str, scope: str) -> UserInfo:
                known = {"sub": f"subject-of-{user}", "preferred_username": user, **owner.people.get(user, {})}
                return UserInfo(**{**known, **owner.change})

            def encode_id_token(self, token: dict[str, Any], request: Any) -> str:
                made = str(super().encode_id_token(token, request))
                return made if owner.algorithm == "RS256" else owner.forged(made)

        return Grant, [Required(required=True), Tokens(require_nonce=True)]

    def forged(self, token: str) -> str:
        """The same claims, without a signature, or with one by the public key as if that were a secret."""
        header = {"alg": self.algorithm, "kid": self.key.kid}
        signed = _base64(json.dumps(header).encode()) + "." + token.split(".")[1]
        if self.algorithm == "none":
            return signed + "."
        digest = hmac.digest(self.key.as_pem(private=False), signed.encode(), hashlib.sha256)
        return signed + "." + _base64(digest)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.serve("GET", dict(parse_qsl(urlsplit(self.path).query)))

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                self.serve("POST", dict(parse_qsl(self.rfile.read(length).decode())))

            def serve(self, method: str, fields: dict[str, str]) -> None:
                path = urlsplit(self.path).path
                owner.asked.append((method, path, fields))
                if path in owner.instead:
                    owner.instead[path](self)
                    return
                status, data, headers = owner.answered(method, path, fields, self.headers)
                self.send_response(status)
                for name, value in [*headers, ("Content-Length", str(len(data)))]:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        return Handler

    def answered(
        self, method: str, path: str, fields: dict[str, str], headers: Any
    ) -> tuple[int, bytes, list[tuple[str, str]]]:
        as_json = [("Content-Type", "application/json")]
        if path == "/.well-known/openid-configuration":
            return 200, json.dumps({**self.published(), **self.metadata}).encode(), as_json
        if path == "/jwks":
            return 200, json.dumps({"keys": [self.key.as_dict(private=False)]}).encode(), as_json
        if (method, path) == ("POST", "/token"):
            return self.protocol.create_token_response(_Request(method, self.issuer + path, fields, headers))
        if (method, path) == ("GET", "/authorize"):
            return self._authorize(fields, headers)
        return 404, b"{}", as_json

    def _authorize(self, fields: dict[str, str], headers: Any) -> tuple[int, bytes, list[tuple[str, str]]]:
        person = (headers.get("Cookie") or "person=carol").partition("person=")[2] or "carol"
        said = fields.pop("said", self.answer)
        request = _Request("GET", f"{self.issuer}/authorize?{urlencode(fields)}", fields, headers)
        try:
            grant = self.protocol.get_consent_grant(request, end_user=person)
        except OAuth2Error as error:
            refused: tuple[int, bytes, list[tuple[str, str]]] = self.protocol.handle_error_response(request, error)
            return refused
        if said == "page":
            links = "".join(
                f'<p><a id="{word}" href="/authorize?{html.escape(urlencode({**fields, "said": word}))}">{word}</a>'
                for word in ("allow", "deny")
            )
            page = f"<!doctype html><html lang=en><title>Example</title><h1>May it know you?</h1>{links}"
            return 200, page.encode(), [("Content-Type", "text/html; charset=utf-8")]
        granted = person if said == "allow" else None
        answer: tuple[int, bytes, list[tuple[str, str]]] = self.protocol.create_authorization_response(
            request, grant_user=granted, grant=grant
        )
        return answer

    def published(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
        }


def _new_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": generate_token(8), "use": "sig", "alg": "RS256"}, auto_kid=False)


@cache
def _first_key() -> RSAKey:
    """That of all servers of a test run: it takes longer to make than most tests."""
    return _new_key()


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are looked at, not followed."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
