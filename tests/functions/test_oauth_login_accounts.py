"""Whose accounts at providers are whose here: claims, links, new accounts, the end of an account."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from functions.harness import PASSWORD, call, register
from functions.oauth_logins import (
    CALLBACK,
    ELSEWHERE,
    HERE,
    OAUTH,
    OAUTH2,
    carol,
    come_back,
    configure,
    confirmation,
    link_uri,
    linked,
    links,
    log_in_as,
    one,
    other_provider,
    provider,
    submit,
    whoami,
)
from homeserver.services import oauth_accounts, oauth_login
from homeserver.services.login_stages.stage import Origin
from homeserver.storage import oauth_identities
from homeserver.storage.accounts import load_account

__all__ = ["carol", "configure", "one", "other_provider", "provider"]


# ── Whose account it is ─────────────────────────────────────────────────────────


def test_somebody_else_than_was_named_is_refused(carol, one):
    dave = register("dave")
    linked(one, dave.user_id, "dave")
    begun = submit(user="carol").json
    answer = come_back(one.visit(begun["uri"], "dave"), "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert submit(session=begun["session"]).status == 403


def test_an_account_that_is_linked_to_nobody_is_refused(carol, one):
    begun = submit().json
    answer = come_back(one.visit(begun["uri"], "mallory"), "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert load_account("@mallory:example.org") is None


def test_a_session_cannot_change_its_user_after_all(carol, one):
    begun = submit().json
    assert come_back(one.visit(begun["uri"])).status == 200
    answer = submit(session=begun["session"], user="dave")
    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")
    assert submit(session=begun["session"], user="carol").status == 200


def test_who_comes_back_from_another_network_is_asked_first(carol, one):
    """Somebody can begin a login and send the address to another person: who then logs the sender in."""
    begun = submit(address=ELSEWHERE, user="carol").json
    page = come_back(one.visit(begun["uri"]))
    assert page.status == 200
    assert ELSEWHERE in page.json
    assert submit(session=begun["session"]).errcode == "M_LOGIN_OAUTH2_NOT_YET"
    token = confirmation(page)
    assert come_back(f"{CALLBACK}?state={token}&code=x").status == 400  # a confirmation is no state
    assert submit(session=begun["session"]).errcode == "M_LOGIN_OAUTH2_NOT_YET"


def test_the_confirmation_counts_once(carol, one):
    begun = submit(address=ELSEWHERE).json
    page = come_back(one.visit(begun["uri"]))
    token = confirmation(page)
    back = f"{CALLBACK}?confirm={token}"
    assert come_back(back).status == 200
    assert submit(session=begun["session"]).json["user_id"] == carol.user_id
    assert come_back(back).status == 400


def test_who_shows_the_session_is_not_asked(carol, one):
    begun = submit(address=ELSEWHERE).json
    answer = come_back(one.visit(begun["uri"]), "application/json", proof=begun["session"])
    assert answer.json["user_id"] == carol.user_id


# ── New accounts ────────────────────────────────────────────────────────────────


def test_a_provider_that_may_register_makes_an_account_once(configure, provider):
    configure((provider, {"register": True, "displayname_claim": "name"}), REGISTRATION="closed")
    provider.people["erin"] = {"preferred_username": "Erin.Ä@mail.test", "name": "Erin Example"}
    first, second = log_in_as(provider, "erin"), log_in_as(provider, "erin")
    assert first.json["user_id"] == second.json["user_id"] == "@erin.a:example.org"
    account = load_account("@erin.a:example.org")
    assert account is not None
    assert account.password is None
    name = call("client_user", "GET", "/_matrix/client/v3/profile/@erin.a:example.org").json["displayname"]
    assert name == "Erin Example"
    (link,) = oauth_identities.links_of("@erin.a:example.org")
    assert link.provider == "example"


def test_a_name_that_is_taken_gets_a_number_and_never_the_account(configure, provider):
    configure((provider, {"register": True}))
    erin = register("erin")
    provider.people["other"] = {"preferred_username": "erin"}
    assert [log_in_as(provider, person).json["user_id"] for person in ("erin", "other", "erin")] == [
        "@erin-2:example.org",
        "@erin-3:example.org",
        "@erin-2:example.org",
    ]
    assert oauth_identities.links_of(erin.user_id) == []


@pytest.mark.parametrize("claim", [None, "", "_", "漢字", 5, "---"])
def test_a_claim_that_gives_no_name_gets_one_by_chance(configure, provider, claim):
    configure((provider, {"register": True}))
    provider.people["erin"] = {"preferred_username": claim}
    user_id = log_in_as(provider, "erin").json["user_id"]
    assert user_id.startswith("@user-")
    assert len(user_id) == len("@user-12345678:example.org")


def test_a_display_name_that_cannot_be_stored_is_left_out(configure, provider):
    configure((provider, {"register": True, "displayname_claim": "name"}))
    for person, claim in (("erin", 5), ("finn", "  "), ("gwen", ["Gwen"])):
        provider.people[person] = {"name": claim}
        user_id = log_in_as(provider, person).json["user_id"]
        profile = call("client_user", "GET", f"/_matrix/client/v3/profile/{user_id}").json
        assert profile["displayname"] == person


def test_a_named_user_gets_no_new_account(configure, provider):
    configure((provider, {"register": True}))
    register("carol")
    begun = submit(user="carol").json
    answer = come_back(provider.visit(begun["uri"], "erin"), "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert load_account("@erin:example.org") is None


def test_two_first_logins_at_once_make_one_account(configure, provider, monkeypatch):
    configure((provider, {"register": True}))
    first, second = submit().json, submit().json
    locations = [provider.visit(begun["uri"], "erin") for begun in (first, second)]
    overtaken = []

    def meanwhile(name):
        monkeypatch.setattr(oauth_accounts, "fault_point", lambda _: None)
        query = dict(parse_qsl(urlsplit(locations[1]).query))
        origin = Origin(HERE, "", "https://example.org")
        overtaken.append(oauth_login.callback(query, origin, accept="", proof=second["session"], browser=None))

    monkeypatch.setattr(oauth_accounts, "fault_point", meanwhile)
    answer = come_back(locations[0], "application/json", proof=first["session"])
    assert answer.json["user_id"] == overtaken[0].user_id == "@erin:example.org"
    assert submit(session=second["session"]).json["user_id"] == "@erin:example.org"
    assert load_account("@erin-2:example.org") is None


# ── Links ───────────────────────────────────────────────────────────────────────


def test_a_user_links_an_account_and_logs_in_with_it(one):
    carol = register("carol")
    assert call("client_account", "POST", f"{OAUTH}/link", {}, token=carol.token).status == 401
    assert link_uri(carol, password="wrong").status == 401
    answer = link_uri(carol)
    assert answer.status == 200
    assert set(answer.json) == {"uri"}
    page = come_back(one.visit(answer.json["uri"]))
    assert page.status == 200
    assert "@carol:example.org" in page.json
    (link,) = links(carol.token)
    assert set(link) == {"id", "provider", "name", "linked_ts"}
    assert (link["provider"], link["name"]) == ("example", "Example")
    assert log_in_as(one, "carol").json["user_id"] == carol.user_id


def test_a_link_ends(one, carol):
    (link,) = links(carol.token)
    dave = register("dave")
    path = f"{OAUTH}/links/{link['id']}"
    assert call("client_account", "DELETE", path, token=dave.token).status == 404
    assert call("client_account", "DELETE", path, token=carol.token).status == 200
    assert links(carol.token) == []
    assert call("client_account", "DELETE", path, token=carol.token).status == 404
    assert log_in_as(one, "carol").status == 403


def test_an_account_that_is_linked_to_somebody_is_linked_to_nobody_else(one, carol):
    dave = register("dave")
    answer = come_back(one.visit(link_uri(dave).json["uri"], "carol"), "application/json")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert links(dave.token) == []
    assert log_in_as(one, "carol").json["user_id"] == carol.user_id


def test_linking_the_same_account_again_changes_nothing(one, carol):
    assert come_back(one.visit(link_uri(carol).json["uri"])).status == 200
    assert len(links(carol.token)) == 1


def test_a_link_that_was_begun_elsewhere_is_asked_for(one):
    carol = register("carol")
    uri = link_uri(carol).json["uri"]
    page = come_back(one.visit(uri), address=ELSEWHERE)
    assert links(carol.token) == []
    token = confirmation(page)
    assert come_back(f"{CALLBACK}?confirm={token}", address=ELSEWHERE).status == 200
    assert len(links(carol.token)) == 1


def test_the_last_way_to_log_in_cannot_be_given_up(configure, provider):
    configure((provider, {"register": True}))
    token = log_in_as(provider, "erin").json["access_token"]
    (link,) = links(token)
    answer = call("client_account", "DELETE", f"{OAUTH}/links/{link['id']}", token=token)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


def test_links_need_a_token_and_a_provider(one, carol):
    for method, path in (("POST", "link"), ("GET", "links"), ("DELETE", "links/x")):
        assert call("client_account", method, f"{OAUTH}/{path}", {}).status == 401
    assert link_uri(carol, {"provider": "third"}).status == 404
    assert link_uri(carol, {"provider": 5}).status == 404


def test_a_deactivated_user_has_no_links_and_the_account_is_free_again(one, carol):
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "carol"}, "password": PASSWORD}
    done = call("client_account", "POST", "/_matrix/client/v3/account/deactivate", {"auth": auth}, token=carol.token)
    assert done.status == 200
    assert oauth_identities.links_of(carol.user_id) == []
    assert log_in_as(one, "carol").status == 403
    dave = register("dave")
    assert come_back(one.visit(link_uri(dave).json["uri"], "carol")).status == 200
    assert log_in_as(one, "carol").json["user_id"] == dave.user_id


def test_who_has_no_password_ends_the_account_with_a_login_at_the_provider(configure, provider):
    configure((provider, {"register": True}))
    user = log_in_as(provider, "erin").json
    path, token = "/_matrix/client/v3/account/deactivate", user["access_token"]
    asked = call("client_account", "POST", path, {}, token=token)
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": [OAUTH2]}])
    auth = {"type": OAUTH2, "session": asked.json["session"]}
    waiting = call("client_account", "POST", path, {"auth": auth}, token=token)
    assert waiting.status == 401
    assert come_back(provider.visit(waiting.json["uri"], "erin")).status == 200
    assert call("client_account", "POST", path, {"auth": auth}, token=token).status == 200
    assert whoami(token).status == 401
    assert oauth_identities.links_of(user["user_id"]) == []
    assert log_in_as(provider, "erin").json["user_id"] == "@erin-2:example.org"


def test_a_user_who_is_deactivated_meanwhile_is_not_logged_in(one, carol):
    begun = submit().json
    location = one.visit(begun["uri"])
    account = load_account(carol.user_id)
    account.deactivating = True
    account.save()
    answer = come_back(location, "application/json", proof=begun["session"])
    assert (answer.status, answer.errcode) == (403, "M_USER_DEACTIVATED")
