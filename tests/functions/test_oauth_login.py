"""Logging in at another server, `m.login.oauth2`, against a real authorisation server: what works."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from functions.harness import PASSWORD, call, register
from functions.oauth_logins import (
    CALLBACK,
    ELSEWHERE,
    HTML,
    OAUTH2,
    L,
    carol,
    come_back,
    configure,
    confirmation,
    linked,
    one,
    other_provider,
    provider,
    submit,
    whoami,
)
from homeserver.adapters import oauth_client

__all__ = ["carol", "configure", "one", "other_provider", "provider"]


# ── The way there ───────────────────────────────────────────────────────────────


def test_the_uri_of_one_provider_is_its_authorisation_request(one):
    answer = submit(user="carol")
    assert answer.status == 200
    assert set(answer.json) == {"type", "session", "uri"}
    assert answer.json["type"] == OAUTH2
    uri, _, query = answer.json["uri"].partition("?")
    assert uri == f"{one.issuer}/authorize"
    asked = dict(parse_qsl(query))
    assert {key: asked[key] for key in ("response_type", "client_id", "scope", "code_challenge_method")} == {
        "response_type": "code",
        "client_id": "eigenserver",
        "scope": "openid profile",
        "code_challenge_method": "S256",
    }
    assert asked["redirect_uri"] == f"https://example.org{L}/login/oauth2/callback"
    assert [len(asked[key]) for key in ("state", "nonce", "code_challenge")] == [43, 43, 43]


def test_two_logins_share_no_state_nonce_or_challenge(one):
    first, second = (dict(parse_qsl(submit().json["uri"].partition("?")[2])) for _ in range(2))
    assert all(first[key] != second[key] for key in ("state", "nonce", "code_challenge"))


def test_a_user_of_another_server_is_refused_at_once(one):
    answer = submit(user="@carol:elsewhere.test")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


def test_a_user_who_does_not_exist_is_answered_like_one_who_does(one):
    register("carol")
    known, unknown = submit(user="carol"), submit(user="nobody")
    assert known.status == unknown.status == 200
    assert set(known.json) == set(unknown.json)


def test_while_nobody_has_come_back_a_submission_is_answered_not_yet_and_not_counted(one):
    session = submit(user="carol").json["session"]
    for _ in range(7):
        answer = submit(session=session)
        assert (answer.status, answer.errcode) == (400, "M_LOGIN_OAUTH2_NOT_YET")
        assert answer.json["retry_after_ms"] == 2000


def test_a_provider_that_cannot_be_asked_for_its_pages_is_a_bad_gateway(configure, provider):
    configure((provider, {}))
    provider.close()
    answer = submit()
    assert (answer.status, answer.errcode) == (502, "M_UNKNOWN")


def test_with_its_endpoints_in_the_settings_a_provider_is_not_asked_for_them(configure, provider):
    names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
    configure((provider, {key: f"{provider.issuer}/{path}" for key, path in names.items()}))
    register("carol")
    linked(provider, "@carol:example.org", "carol")
    begun = submit().json
    assert provider.asked == []
    assert come_back(provider.visit(begun["uri"])).status == 200
    assert submit(session=begun["session"]).json["user_id"] == "@carol:example.org"
    assert "/.well-known/openid-configuration" not in {path for _, path, _ in provider.asked}


# ── The way back ────────────────────────────────────────────────────────────────


def test_a_browser_sees_a_page_and_the_client_then_gets_the_login(carol, one):
    begun = submit(user="carol").json
    page = come_back(one.visit(begun["uri"]))
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "@carol:example.org" in page.json
    assert "syt_" not in page.json
    assert begun["session"] not in page.json
    done = submit(session=begun["session"])
    assert done.status == 200
    assert set(done.json) >= {"user_id", "access_token", "home_server", "device_id"}
    assert whoami(done.json["access_token"]).json["user_id"] == carol.user_id
    assert submit(session=begun["session"]).status == 401


@pytest.mark.parametrize("how", ["header", "cookie"])
def test_who_shows_the_session_and_wants_no_page_gets_the_login_from_the_redirect_uri(carol, one, how):
    begun = submit().json
    location = one.visit(begun["uri"])
    shown = {"proof": begun["session"]} if how == "header" else {"cookies": [f"session={begun['session']}"]}
    answer = come_back(location, "application/json", **shown)
    assert answer.status == 200
    assert answer.json["user_id"] == carol.user_id
    assert whoami(answer.json["access_token"]).status == 200
    assert submit(session=begun["session"]).status == 401


@pytest.mark.parametrize(
    ("accept", "proof"), [("application/json", None), ("application/json", "another"), (HTML, "right"), ("*/*", None)]
)
def test_without_the_session_or_for_a_browser_the_redirect_uri_gives_no_token(carol, one, accept, proof):
    begun = submit().json
    shown = begun["session"] if proof == "right" else proof
    answer = come_back(one.visit(begun["uri"]), accept, proof=shown)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "access_token" not in answer.json
    assert submit(session=begun["session"]).json["user_id"] == carol.user_id


def test_the_first_of_two_stages_is_answered_with_the_next(configure, provider):
    configure((provider, {}), flows=[[OAUTH2, "m.login.password"]])
    register("carol")
    linked(provider, "@carol:example.org", "carol")
    begun = submit().json
    answer = come_back(provider.visit(begun["uri"]), "application/json", proof=begun["session"])
    assert answer.json == {"next": "m.login.password", "session": begun["session"]}
    wrong = {"type": "m.login.password", "session": begun["session"], "user": "dave", "password": PASSWORD}
    assert call("client_login", "POST", f"{L}/login", wrong).status == 400
    right = {"type": "m.login.password", "session": begun["session"], "password": PASSWORD}
    assert call("client_login", "POST", f"{L}/login", right).json["user_id"] == "@carol:example.org"


def test_the_provider_gets_the_secret_in_the_header_or_in_the_body_as_the_operator_says(configure, provider):
    for auth in ("client_secret_basic", "client_secret_post"):
        configure((provider, {"token_auth": auth, "register": True}))
        begun = submit().json
        assert come_back(provider.visit(begun["uri"])).status == 200
        fields = provider.asked[-2][2] if provider.asked[-1][1] == "/jwks" else provider.asked[-1][2]
        assert ("client_secret" in fields) == (auth == "client_secret_post")
        assert len(fields["code_verifier"]) == 43


def test_a_key_that_the_provider_has_changed_is_fetched_when_it_is_met(carol, one, monkeypatch):
    assert come_back(one.visit(submit().json["uri"])).status == 200
    one.new_key()
    monkeypatch.setattr(oauth_client, "LEAST_KEYS_S", 0.0)
    begun = submit().json
    assert come_back(one.visit(begun["uri"])).status == 200
    assert submit(session=begun["session"]).json["user_id"] == carol.user_id


# ── Several providers ───────────────────────────────────────────────────────────


def test_of_several_providers_one_is_picked_on_a_page(configure, provider, other_provider):
    configure((provider, {"provider_id": "example"}), (other_provider, {"provider_id": "other"}))
    register("carol")
    linked(other_provider, "@carol:example.org", "carol")
    begun = submit().json
    assert begun["uri"] == f"https://example.org{L}/login/oauth2/pick?session={begun['session']}"
    page = come_back(begun["uri"])
    assert page.status == 200
    assert "Example" in page.json
    assert "Other" in page.json
    assert provider.asked == other_provider.asked == []
    chosen = come_back(begun["uri"], provider="other")
    assert chosen.status == 303
    assert chosen.headers["location"].startswith(f"{other_provider.issuer}/authorize?")
    assert come_back(other_provider.visit(chosen.headers["location"])).status == 200
    assert submit(session=begun["session"]).json["user_id"] == "@carol:example.org"


def test_who_picks_elsewhere_than_the_login_was_begun_is_asked_too(configure, provider, other_provider):
    configure((provider, {"provider_id": "example"}), (other_provider, {"provider_id": "other"}))
    register("carol")
    linked(provider, "@carol:example.org", "carol")
    begun = submit(address=ELSEWHERE).json
    chosen = come_back(begun["uri"], provider="example").headers["location"]
    page = come_back(provider.visit(chosen))
    assert ELSEWHERE in page.json
    assert submit(session=begun["session"]).errcode == "M_LOGIN_OAUTH2_NOT_YET"
    assert come_back(f"{CALLBACK}?confirm={confirmation(page)}").status == 200
    assert submit(session=begun["session"]).json["user_id"] == "@carol:example.org"


def test_the_answer_of_one_provider_is_none_of_another(configure, provider, other_provider):
    configure((provider, {"provider_id": "example"}), (other_provider, {"provider_id": "other"}))
    register("carol")
    linked(other_provider, "@carol:example.org", "carol")
    begun = submit().json
    to_one = come_back(begun["uri"], provider="example").headers["location"]
    to_other = come_back(begun["uri"], provider="other").headers["location"]
    state = dict(parse_qsl(urlsplit(to_one).query))["state"]
    answer = come_back(other_provider.visit(to_other), "application/json", state=state, proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("query", ["session=unknown", "session=a/b", "session="])
def test_for_an_unknown_session_there_is_nothing_to_pick(configure, provider, other_provider, query):
    configure((provider, {"provider_id": "example"}), (other_provider, {"provider_id": "other"}))
    assert come_back(f"https://example.org{L}/login/oauth2/pick?{query}").status == 401


def test_without_a_session_or_with_an_unknown_provider_there_is_nothing_to_pick(configure, provider, other_provider):
    configure((provider, {"provider_id": "example"}), (other_provider, {"provider_id": "other"}))
    assert come_back(f"https://example.org{L}/login/oauth2/pick").status == 400
    assert come_back(submit().json["uri"], provider="third").status == 404
