"""The settings of OAuth providers."""

import json

import pytest

from homeserver.matrix.errors import NotFound
from homeserver.services.oauth_providers import Provider, provider_of, providers
from homeserver.settings import settings

GOOD = {"id": "example", "name": "Example", "issuer": "https://login.example.org", "client_id": "eigenserver"}


@pytest.fixture
def configure(monkeypatch):
    def set_environment(value, secrets=None, **more):
        text = value if isinstance(value, str) else json.dumps(value)
        given = {"example": "s3cret"} if secrets is None else secrets
        monkeypatch.setenv("OAUTH_PROVIDERS", text)
        monkeypatch.setenv("OAUTH_CLIENT_SECRETS", given if isinstance(given, str) else json.dumps(given))
        for name, setting in more.items():
            monkeypatch.setenv(name, setting)
        settings.cache_clear()

    yield set_environment
    settings.cache_clear()


def test_a_provider_needs_four_things_and_its_secret(configure):
    configure([GOOD])
    assert providers() == (
        Provider("example", "Example", "https://login.example.org", "eigenserver", "s3cret", ("openid", "profile")),
    )
    assert provider_of("example").name == "Example"
    with pytest.raises(NotFound):
        provider_of("other")


def test_without_the_setting_there_is_none(configure):
    configure("", "")
    assert providers() == ()


def test_everything_that_can_be_said_of_a_provider_is_read(configure):
    endpoints = {
        "authorization_endpoint": "https://login.example.org/a?tenant=1",
        "token_endpoint": "https://login.example.org/t",
        "jwks_uri": "https://login.example.org/k",
    }
    more = {
        "scopes": ["email"],
        "token_auth": "client_secret_post",
        "prompt": "select_account",
        "icon": "mxc://example.org/abc",
        "brand": "gitlab",
        "register": True,
        "localpart_claim": "nickname",
        "displayname_claim": "name",
    }
    configure([{**GOOD, **endpoints, **more}])
    (provider,) = providers()
    assert provider.scopes == ("openid", "email")
    assert provider.endpoints is not None
    assert provider.endpoints.authorization == "https://login.example.org/a?tenant=1"
    assert provider.endpoints.token_auth == "client_secret_post"
    assert (provider.prompt, provider.register) == ("select_account", True)
    assert (provider.localpart_claim, provider.displayname_claim) == ("nickname", "name")
    assert provider.shown() == {
        "id": "example",
        "name": "Example",
        "icon": "mxc://example.org/abc",
        "brand": "gitlab",
    }


def test_a_secret_is_never_part_of_what_is_printed(configure):
    configure([GOOD])
    assert "s3cret" not in repr(providers())
    configure([GOOD], '{"example": "s3cret" oh no')
    with pytest.raises(ValueError, match="OAUTH_CLIENT_SECRETS is no JSON") as caught:
        providers()
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "OAUTH_PROVIDERS is no JSON"),
        ({}, "must be a list"),
        ([1], "must be a list"),
        ([{**GOOD, "id": ""}], "needs id"),
        ([{key: value for key, value in GOOD.items() if key != "client_id"}], "needs client_id"),
        ([{**GOOD, "issuer": "http://login.example.org"}], "https"),
        ([{**GOOD, "issuer": "https://login.example.org?x"}], "may not have"),
        ([{**GOOD, "issuer": "https://user@login.example.org"}], "may not have"),
        ([{**GOOD, "issuer": "https://"}], "lacks its host"),
        ([{**GOOD, "issuer": "https://[::1"}], "no URL"),
        ([{**GOOD, "id": "a/b"}], "only have"),
        ([{**GOOD, "secret": "x"}], "has secret, which"),
        ([{**GOOD, "register": "yes"}], "register must be"),
        ([{**GOOD, "scopes": "openid"}], "scopes must be"),
        ([{**GOOD, "scopes": ["a b"]}], "scopes must be"),
        ([{**GOOD, "token_auth": "none"}], "token_auth must be"),
        ([{**GOOD, "icon": "https://x"}], "icon must be"),
        ([{**GOOD, "brand": "X Y"}], "brand must be"),
        ([{**GOOD, "token_endpoint": "https://login.example.org/t"}], "needs all of"),
        ([{**GOOD, "prompt": 5}], "prompt must be a string"),
        ([GOOD, GOOD], "an id twice"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_are_named(configure, value, words):
    configure(value)
    with pytest.raises(ValueError, match=words):
        providers()


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ({}, "no secret for example"),
        ({"example": ""}, "no secret for example"),
        ({"example": 5}, "must be an object"),
        ([], "must be an object"),
        ({"example": "x", "other": "y"}, "has other"),
    ],
)
def test_secrets_that_do_not_fit_are_named(configure, secrets, words):
    configure([GOOD], secrets)
    with pytest.raises(ValueError, match=words):
        providers()


def test_one_issuer_is_one_provider(configure):
    configure([GOOD, {**GOOD, "id": "again"}], {"example": "a", "again": "b"})
    with pytest.raises(ValueError, match="an issuer twice"):
        providers()


def test_a_provider_of_this_machine_needs_the_setting_for_it(configure):
    entry = {**GOOD, "issuer": "http://127.0.0.1:8000"}
    configure([entry], {"example": "loopback"})
    with pytest.raises(ValueError, match="https"):
        providers()
    configure([entry], {"example": "loopback"}, PLAIN_HTTP="loopback")
    assert providers()[0].issuer == "http://127.0.0.1:8000"
    configure([{**entry, "issuer": "http://192.0.2.1"}], {"example": "loopback"}, PLAIN_HTTP="loopback")
    with pytest.raises(ValueError, match="https"):
        providers()
