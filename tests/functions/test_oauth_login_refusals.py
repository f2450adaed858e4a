"""Logins at another server that are refused: states, codes, ID tokens, providers that fail; secrets."""

import json
import logging
import time
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest

from functions.authorisation_server import SECRET
from functions.oauth_logins import (
    CALLBACK,
    answering,
    carol,
    come_back,
    configure,
    hugely,
    one,
    other_provider,
    provider,
    slowly,
    submit,
)
from homeserver.adapters import aws, oauth_client
from homeserver.matrix.access_token import token_hash
from homeserver.services import oauth_requests
from homeserver.storage import oauth_states, sessions

__all__ = ["carol", "configure", "one", "other_provider", "provider"]


# ── Refusals ────────────────────────────────────────────────────────────────────


def test_who_says_no_at_the_provider_is_not_logged_in(carol, one):
    one.answer = "deny"
    begun = submit(user="carol").json
    location = one.visit(begun["uri"])
    assert "error=access_denied" in location
    answer = come_back(location, "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    after = submit(session=begun["session"])
    assert (after.status, after.errcode) == (403, "M_FORBIDDEN")


def test_an_error_of_the_provider_is_a_bad_gateway(carol, one):
    begun = submit().json
    location = one.visit(begun["uri"])
    answer = come_back(location, "application/json", code=None, error="server_error")
    assert (answer.status, answer.errcode) == (502, "M_UNKNOWN")
    assert submit(session=begun["session"]).status == 502


def test_errors_are_pages_for_browsers(carol, one):
    answer = come_back(one.visit(submit().json["uri"]), state="x" * 43)
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("state", ["x" * 43, "", "y" * 5000, None])
def test_a_state_that_was_never_given_is_refused(carol, one, state):
    begun = submit().json
    location = one.visit(begun["uri"])
    answer = come_back(location, "application/json", state=state, proof=begun["session"])
    assert answer.status == 400
    assert answer.errcode in {"M_UNKNOWN", "M_MISSING_PARAM"}
    assert all(path != "/token" for _, path, _ in one.asked)
    assert submit(session=begun["session"]).errcode == "M_LOGIN_OAUTH2_NOT_YET"


def test_a_state_counts_once(carol, one):
    begun = submit().json
    location = one.visit(begun["uri"])
    assert come_back(location).status == 200
    again = come_back(location, "application/json", proof=begun["session"])
    assert (again.status, again.errcode) == (400, "M_UNKNOWN")


def test_of_two_who_bring_a_state_at_once_one_is_answered(carol, one, monkeypatch):
    state = dict(parse_qsl(urlsplit(submit().json["uri"]).query))["state"]
    fetch, taken = oauth_states.OauthState.fetch, []

    def overtaken(key):
        found = fetch(key)
        monkeypatch.setattr(oauth_states.OauthState, "fetch", fetch)
        taken.append(oauth_states.take(token_hash(state)))
        return found

    monkeypatch.setattr(oauth_states.OauthState, "fetch", overtaken)
    taken.append(oauth_states.take(token_hash(state)))
    assert [found is not None for found in taken] == [True, False]


def test_a_state_counts_for_ten_minutes(carol, one, monkeypatch):
    begun = submit().json
    location = one.visit(begun["uri"])
    now = time.time()
    monkeypatch.setattr(oauth_states.time, "time", lambda: now + 601)
    answer = come_back(location, "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")


def test_a_code_that_was_used_is_refused_with_another_state(carol, one):
    first, second = submit().json, submit().json
    used = dict(parse_qsl(urlsplit(one.visit(first["uri"])).query))
    assert come_back(f"{CALLBACK}?{urlencode(used)}").status == 200
    answer = come_back(one.visit(second["uri"]), "application/json", code=used["code"], proof=second["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


def test_the_code_of_another_login_is_refused_for_its_verifier(carol, one):
    """What an attacker does who lets a victim's browser bring the attacker's code."""
    attackers, victims = submit().json, submit().json
    code = dict(parse_qsl(urlsplit(one.visit(attackers["uri"], "mallory")).query))["code"]
    answer = come_back(one.visit(victims["uri"]), "application/json", code=code, proof=victims["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert one.asked[-1][1] == "/token"


def test_a_request_without_a_challenge_gets_no_code(one):
    uri, _, query = submit().json["uri"].partition("?")
    kept = {key: value for key, value in parse_qsl(query) if not key.startswith("code_challenge")}
    back = dict(parse_qsl(urlsplit(one.visit(f"{uri}?{urlencode(kept)}")).query))
    assert (back["error"], "code" in back) == ("invalid_request", False)


def test_a_token_request_without_the_verifier_gets_no_token(carol, one, monkeypatch):
    begun = submit().json
    location = one.visit(begun["uri"])
    ask = oauth_client.fetch_json

    def without(method, url, *, form=None, **more):
        return ask(method, url, form={**form, "code_verifier": ""} if form else None, **more)

    monkeypatch.setattr(oauth_client, "fetch_json", without)
    answer = come_back(location, "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (502, "M_UNKNOWN")


def test_a_wrong_client_secret_is_a_bad_gateway_and_logged_without_it(carol, one, caplog, monkeypatch):
    monkeypatch.setattr("homeserver.observability.log.propagate", True)
    one.client.client_secret = "another"
    begun = submit().json
    with caplog.at_level(logging.DEBUG):
        answer = come_back(one.visit(begun["uri"]), "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (502, "M_UNKNOWN")
    assert "invalid_client" in caplog.text
    assert SECRET not in caplog.text


NOW = int(time.time())


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "another"},
        {"nonce": ""},
        {"nonce": 1},
        {"aud": ["somebody-else"]},
        {"aud": ["eigenserver", "somebody-else"]},  # no azp
        {"aud": ["eigenserver", "somebody-else"], "azp": "somebody-else"},
        {"azp": "somebody-else"},
        {"iss": "https://elsewhere.test"},
        {"exp": NOW - 3600},
        {"exp": None},
        {"iat": NOW - 3600},
        {"iat": NOW + 3600},
        {"sub": ""},
        {"sub": "s" * 256},
        {"sub": 7},
        {"nbf": NOW + 3600},
        {"iat": str(NOW)},
        {"iat": "soon"},
        {"iat": [NOW]},
    ],
    ids=str,
)
def test_an_id_token_that_is_not_right_in_every_way_is_refused(carol, one, change):
    one.change = change
    begun = submit().json
    answer = come_back(one.visit(begun["uri"]), "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert submit(session=begun["session"]).status == 403


def test_an_id_token_for_several_of_whom_this_server_is_the_party_is_taken(carol, one):
    one.change = {"aud": ["eigenserver", "somebody-else"], "azp": "eigenserver"}
    begun = submit().json
    answer = come_back(one.visit(begun["uri"]), "application/json", proof=begun["session"])
    assert answer.json["user_id"] == carol.user_id


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_an_id_token_without_a_signature_by_the_provider_is_refused(carol, one, algorithm):
    one.algorithm = algorithm
    begun = submit().json
    answer = come_back(one.visit(begun["uri"]), "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


def test_an_id_token_signed_with_a_key_of_the_same_name_is_refused(carol, one):
    assert come_back(one.visit(submit().json["uri"])).status == 200  # now the keys are known
    key_id = one.key.kid
    one.new_key()
    one.key = type(one.key).import_key({**one.key.as_dict(private=True), "kid": key_id})
    begun = submit().json
    answer = come_back(one.visit(begun["uri"]), "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


def test_an_answer_that_names_another_issuer_is_refused(carol, one):
    begun = submit().json
    location = one.visit(begun["uri"])
    answer = come_back(location, "application/json", proof=begun["session"], iss="https://elsewhere.test")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert all(path != "/token" for _, path, _ in one.asked)


def test_where_the_provider_promises_its_name_an_answer_without_it_is_refused(carol, one):
    one.metadata = {"authorization_response_iss_parameter_supported": True}
    for named, status in ((None, 403), (one.issuer, 200)):
        begun = submit().json
        answer = come_back(one.visit(begun["uri"]), "application/json", proof=begun["session"], iss=named)
        assert answer.status == status


# ── A provider that fails ───────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "how",
    [
        slowly,
        hugely,
        answering(500, b"{}"),
        answering(302, b"{}"),
        answering(200, b"<html>"),
        answering(200, b"[]"),
        answering(200, b"{}"),
        answering(200, b'{"id_token": 5}'),
        answering(200, json.dumps({"id_token": "x" * 20_000}).encode()),
    ],
    ids=["slow", "huge", "500", "302", "html", "list", "no token", "a number", "a long token"],
)
def test_a_token_endpoint_that_makes_no_sense_is_a_bad_gateway(carol, one, monkeypatch, how):
    monkeypatch.setattr(oauth_client, "SECONDS", 0.5)
    begun = submit().json
    location = one.visit(begun["uri"])
    one.instead["/token"] = how
    started = time.monotonic()
    answer = come_back(location, "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (502, "M_UNKNOWN")
    assert time.monotonic() - started < 3
    assert submit(session=begun["session"]).status == 502


def test_a_provider_that_is_down_when_somebody_comes_back_is_a_bad_gateway(carol, one):
    begun = submit().json
    location = one.visit(begun["uri"])
    one.close()
    answer = come_back(location, "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (502, "M_UNKNOWN")


@pytest.mark.parametrize("data", [b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [1, {"kty": "RSA"}]}'])
def test_a_provider_without_usable_keys_logs_nobody_in(carol, one, data):
    begun = submit().json
    location = one.visit(begun["uri"])
    one.instead["/jwks"] = answering(200, data)
    answer = come_back(location, "application/json", proof=begun["session"])
    assert answer.status in {403, 502}
    assert submit(session=begun["session"]).status == answer.status


def test_metadata_of_another_issuer_or_with_odd_addresses_is_not_used(one):
    for change in (
        {"issuer": "https://elsewhere.test"},
        {"token_endpoint": "http://elsewhere.test/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
    ):
        oauth_client.forget_providers()
        one.metadata = change
        assert (submit().status, submit().errcode) == (502, "M_UNKNOWN")


# ── Secrets ─────────────────────────────────────────────────────────────────────


def stored_everywhere() -> str:
    """Everything that lies in the tables, as text."""
    client = aws.client("dynamodb")
    found = []
    for name in client.list_tables()["TableNames"]:
        found += client.scan(TableName=name)["Items"]
    return repr(found)


def test_nothing_secret_is_stored_or_logged(carol, one, caplog, capfd, monkeypatch):
    monkeypatch.setattr("homeserver.observability.log.propagate", True)
    with caplog.at_level(logging.DEBUG):
        begun = submit(user="carol").json
        asked = dict(parse_qsl(urlsplit(begun["uri"]).query))
        before = stored_everywhere()
        location = one.visit(begun["uri"])
        page = come_back(location)
        one.change = {"nonce": "another"}
        failed = submit().json
        assert come_back(one.visit(failed["uri"])).status == 403
    code = dict(parse_qsl(urlsplit(location).query))["code"]
    verifier = next(fields["code_verifier"] for _, path, fields in one.asked if path == "/token")
    tokens = [text for token in one.tokens for text in (token["access_token"], token["id_token"])]
    secrets = [SECRET, asked["state"], asked["nonce"], code, verifier, "subject-of-carol", *tokens]
    assert len(secrets) == 10
    everything = before + stored_everywhere()
    # What the other side of the test logs is its own affair.
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("authlib")]
    logged = "\n".join(ours) + "".join(capfd.readouterr())
    for secret in secrets:
        assert secret not in everything
        assert secret not in logged
        assert secret not in page.json
    assert "an ID token is refused" in logged
    assert "eigenserver-sessions" in logged  # what the libraries log was looked at, too


def test_verifier_and_nonce_take_state_salt_and_secret(one, monkeypatch):
    from dataclasses import replace

    from homeserver.services.oauth_providers import providers

    (provider,) = providers()
    made = {
        oauth_requests._derived(who, what, salt, state)
        for who in (provider, replace(provider, client_secret="x"), replace(provider, id="y"))
        for what in ("verifier", "nonce")
        for salt in (b"1" * 32, b"2" * 32)
        for state in ("a", "b")
    }
    assert len(made) == 24
    assert SECRET not in repr(provider)


def test_a_session_of_the_wrong_table_item_is_no_session(one):
    """The table of sessions has states in it, too: their keys are no session IDs."""
    state = dict(parse_qsl(urlsplit(submit().json["uri"]).query))["state"]
    assert sessions.load(f"oauth/{token_hash(state)}") is None
    assert parse_qs(urlsplit(submit().json["uri"]).query)["state"] != [state]
