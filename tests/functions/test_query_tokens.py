"""Access tokens in the query string, and what the answer to such a request says to caches and pages."""

import pytest

from functions.harness import User, call, http_event, invoke

WHOAMI = "/_matrix/client/v3/account/whoami"
BACKFILL = "/_matrix/client/api/v1/rooms/!a:example.org/backfill"
SECRET_ADDRESS = {"referrer-policy": "no-referrer", "cache-control": "no-store"}


def headers_of(answer) -> dict[str, str]:
    return {name: answer.headers[name] for name in SECRET_ADDRESS if name in answer.headers}


@pytest.mark.parametrize(("allowed", "modern", "draft"), [("all", 200, 400), ("legacy", 401, 400), ("off", 401, 401)])
def test_the_setting_says_at_which_addresses_they_count(server, alice: User, allowed, modern, draft):
    server(QUERY_TOKENS=allowed)
    query = {"access_token": alice.token}
    assert call("client_account", "GET", WHOAMI, query=query).status == modern
    # 400: who asks is known, and the question has to say which server to ask.
    assert call("client_history", "GET", BACKFILL, query=query).status == draft


def test_two_different_tokens_are_refused(server, alice: User, bob: User):
    query = {"access_token": bob.token}
    answer = call("client_account", "GET", WHOAMI, token=alice.token, query=query)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert alice.token not in str(answer)
    assert bob.token not in str(answer)
    server(QUERY_TOKENS="legacy")
    assert call("client_account", "GET", WHOAMI, token=alice.token, query=query).json["user_id"] == alice.user_id
    assert call("client_history", "GET", BACKFILL, token=alice.token, query=query).errcode == "M_INVALID_PARAM"


def test_the_same_token_twice_is_one(alice: User):
    answer = call("client_account", "GET", WHOAMI, token=alice.token, query={"access_token": alice.token})
    assert (answer.status, answer.json["user_id"]) == (200, alice.user_id)


@pytest.mark.parametrize(("function", "path"), [("client_account", WHOAMI), ("client_sync", "/_matrix/client/v3/sync")])
@pytest.mark.parametrize("known", [True, False])
def test_an_address_with_a_token_is_kept_from_caches_and_other_pages(alice: User, function, path, known):
    token = alice.token if known and function == "client_account" else "unknown"
    answer = invoke(function, http_event("GET", path, query={"access_token": token}))
    assert answer.status == (200 if token == alice.token else 401)
    assert headers_of(answer) == SECRET_ADDRESS


def test_other_answers_say_nothing_about_caches(alice: User):
    assert headers_of(call("client_account", "GET", WHOAMI, token=alice.token)) == {}


def test_two_different_tokens_are_refused_by_sync_too(alice: User):
    event = http_event("GET", "/_matrix/client/v3/sync", token=alice.token, query={"access_token": "other"})
    answer = invoke("client_sync", event)
    assert (answer.status, answer.errcode, headers_of(answer)) == (400, "M_INVALID_PARAM", SECRET_ADDRESS)
