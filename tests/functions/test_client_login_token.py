"""Login tokens: `m.login.token`, and the endpoint that gives one to a device that is logged in."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from functions.harness import PASSWORD, User, call
from functions.login_machine import LoginMachine
from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import Forbidden, MatrixError
from homeserver.services import login, login_tokens, passwords
from homeserver.storage import accounts
from homeserver.storage.login_tokens import LoginToken
from homeserver.storage.sessions import Session

V1 = "/_matrix/client/v1"
V3 = "/_matrix/client/v3"
GET_TOKEN = f"{V1}/login/get_token"
REFUSED = (403, "M_FORBIDDEN")


def auth(user="alice", password=PASSWORD, **more):
    identifier = {"type": "m.id.user", "user": user}
    return {"auth": {"type": "m.login.password", "identifier": identifier, "password": password, **more}}


@pytest.fixture
def log_in(checked):
    def send(token, **more):
        return checked("client_login", "POST", f"{V3}/login", {"type": "m.login.token", "token": token, **more})

    return send


@pytest.fixture
def token(alice: User) -> str:
    return login_tokens.new_login_token(alice.user_id)


def refusal(answer):
    return answer.status, answer.errcode


# ── Logging in ──────────────────────────────────────────────────────────────────────────────────────


def test_a_token_logs_its_user_in_once(alice: User, log_in, token):
    answer = log_in(token, device_id="PHONE", initial_device_display_name="Phone")
    assert (answer.status, answer.json["user_id"], answer.json["device_id"]) == (200, alice.user_id, "PHONE")
    assert accounts.load_device(alice.user_id, "PHONE").name == "Phone"
    whoami = call("client_account", "GET", f"{V3}/account/whoami", token=answer.json["access_token"])
    assert whoami.json["user_id"] == alice.user_id
    again = log_in(token)
    assert refusal(again) == REFUSED
    assert again.json["error"] == "This login token is unknown, was used or has expired."


def test_refresh_tokens_are_given_to_clients_that_ask(log_in, token):
    assert "refresh_token" in log_in(token, refresh_token=True).json


@pytest.mark.parametrize("wrong", ["x", "", "x" * 10_000, "nonce/x"])
def test_any_other_text_is_no_token(alice: User, log_in, wrong):
    assert refusal(log_in(wrong)) == REFUSED


@pytest.mark.parametrize(
    ("body", "expected"),
    [({}, (400, "M_MISSING_PARAM")), ({"token": None}, (400, "M_MISSING_PARAM")), ({"token": 7}, (400, "M_BAD_JSON"))],
)
def test_a_login_without_a_token_is_malformed(checked, body, expected):
    assert refusal(checked("client_login", "POST", f"{V3}/login", {"type": "m.login.token", **body})) == expected


def test_a_token_is_good_for_two_minutes(alice: User, log_in, token):
    (stored,) = list(LoginToken.scan())
    assert 119 <= stored.expires - stored.created / 1000 <= 120
    stored.update([LoginToken.expires.set(stored.expires - 121)])
    assert refusal(log_in(token)) == REFUSED


def test_a_token_is_stored_as_its_hash_only(alice: User, token):
    (stored,) = list(LoginToken.scan())
    assert (stored.session, stored.user) == (f"login/{token_hash(token)}", alice.user_id)
    password = accounts.load_account(alice.user_id).password
    assert token not in str(stored.attribute_values)
    assert password not in str(stored.attribute_values)


def test_another_password_ends_the_tokens_of_before(alice: User, log_in, token):
    account = accounts.load_account(alice.user_id)
    assert account.change_password_hash(account.password, passwords.hash_password("another"))
    assert refusal(log_in(token)) == REFUSED
    assert log_in(login_tokens.new_login_token(alice.user_id)).status == 200


@pytest.mark.parametrize("state", ["deactivating", "deactivated"])
def test_the_end_of_the_account_ends_its_tokens(alice: User, log_in, token, state):
    accounts.load_account(alice.user_id).update([getattr(accounts.Account, state).set(True)])
    assert refusal(log_in(token)) == REFUSED
    with pytest.raises(Forbidden) as refused:
        login_tokens.new_login_token(alice.user_id)
    assert refused.value.errcode == "M_USER_DEACTIVATED"


def test_an_account_without_a_password_has_tokens_too(log_in):
    made = call("client_login", "POST", "/_matrix/client/api/v1/register", {"user_id": "erin"}).json
    assert log_in(login_tokens.new_login_token(made["user_id"])).json["user_id"] == made["user_id"]


def test_of_two_simultaneous_logins_with_a_token_one_is_made(alice: User, token):
    barrier = threading.Barrier(3)

    def submit():
        barrier.wait()
        try:
            return login.log_in({"type": "m.login.token", "token": token}, "192.0.2.1").user_id
        except MatrixError as refused:
            return refused.status

    with ThreadPoolExecutor(3) as threads:
        answers = [done.result() for done in [threads.submit(submit) for _ in range(3)]]
    assert sorted(answers, key=str) == [403, 403, alice.user_id]
    assert len(accounts.list_devices(alice.user_id)) == 2


def test_logins_with_tokens_are_limited_like_others(server, alice: User, log_in):
    server(RATE_LIMITS="on")
    statuses = [log_in("guess").status for _ in range(32)]
    assert statuses[:30] == [403] * 30
    assert 429 in statuses[30:]


# ── Getting one ─────────────────────────────────────────────────────────────────────────────────────


def test_a_device_gets_a_token_for_another_one_after_the_password(alice: User, checked, log_in, machine: LoginMachine):
    asked = checked("client_login", "POST", GET_TOKEN, {}, token=alice.token)
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
    body = auth(session=asked.json["session"])
    answer = checked("client_login", "POST", GET_TOKEN, body, token=alice.token)
    assert (answer.status, set(answer.json)) == (200, {"login_token", "expires_in_ms"})
    assert answer.json["expires_in_ms"] == 120_000
    assert Session.fetch(asked.json["session"]) is None
    assert log_in(answer.json["login_token"]).json["user_id"] == alice.user_id
    again = checked("client_login", "POST", GET_TOKEN, body, token=alice.token)
    assert again.status == 401
    assert machine.executions == {}


@pytest.mark.parametrize(
    "wrong", [auth(password="wrong"), auth(user="bob"), {"auth": {"type": "m.login.dummy"}}, {"auth": {}}]
)
def test_without_the_password_there_is_no_token(alice: User, bob: User, checked, wrong):
    answer = checked("client_login", "POST", GET_TOKEN, wrong, token=alice.token)
    assert answer.status == 401
    assert "login_token" not in answer.json
    assert list(LoginToken.scan(LoginToken.kind == "login_token")) == []


def test_who_is_not_logged_in_gets_none(server, checked):
    assert refusal(checked("client_login", "POST", GET_TOKEN, auth())) == (401, "M_MISSING_TOKEN")
    server(GUEST_ACCOUNTS="on")
    guest = call("client_login", "POST", f"{V3}/register", {}, query={"kind": "guest"}).json["access_token"]
    answer = checked("client_login", "POST", GET_TOKEN, {}, token=guest)
    assert refusal(answer) == (403, "M_GUEST_ACCESS_FORBIDDEN")


def test_the_session_of_something_else_gets_none(alice: User, checked):
    other = call("client_account", "POST", f"{V3}/account/deactivate", {}, token=alice.token).json["session"]
    answer = checked("client_login", "POST", GET_TOKEN, auth(session=other), token=alice.token)
    assert (answer.status, answer.json["error"]) == (401, "This session is unknown or has expired.")


@pytest.mark.parametrize("path", ["/_matrix/client/v3/login/get_token", "/_matrix/client/r0/login/get_token"])
def test_the_endpoint_has_one_version(alice: User, path):
    assert refusal(call("client_login", "POST", path, auth(), token=alice.token)) == (404, "M_UNRECOGNIZED")
