"""The draft's login, one request at a time: what is offered, the password alone, and what is refused."""

import pytest

from functions.drafting import (
    EMAIL_CODE,
    EMAIL_URL,
    OLD_L,
    PASSWORD,
    V3,
    L,
    flows,
    login,
    refusal,
    whoami,
)
from functions.harness import PASSWORD as SECRET
from functions.harness import User, call, invoke, payload
from functions.login_machine import LoginMachine
from functions.mailbox import Mailbox
from homeserver.services import passwords
from homeserver.storage import accounts
from homeserver.storage.sessions import Session

RIGHT = {"type": PASSWORD, "user": "alice", "password": SECRET}
TWO = [EMAIL_CODE, PASSWORD]


def nothing_is_stored(machine: LoginMachine) -> bool:
    return list(Session.scan()) == [] and machine.executions == {}


# ── What is offered ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", [L, OLD_L])
def test_the_password_alone_is_offered_in_both_shapes_of_2014(prefix):
    answer = call("client_login", "GET", f"{prefix}/login")
    assert (answer.status, answer.json) == (200, {"type": PASSWORD, "flows": [{"type": PASSWORD}]})


def test_several_flows_are_offered_in_their_order_and_the_first_alone_too(server, mailbox: Mailbox):
    server(LOGIN_FLOWS=flows(TWO, [PASSWORD], [EMAIL_URL]))
    stages = {"type": EMAIL_CODE, "stages": TWO}
    assert call("client_login", "GET", f"{L}/login").json == {
        **stages,
        "flows": [stages, {"type": PASSWORD}, {"type": EMAIL_URL}],
    }


def test_today_s_clients_are_offered_what_takes_one_request(server, checked, mailbox: Mailbox):
    token = {"type": "m.login.token", "get_login_token": True}
    server(LOGIN_FLOWS=flows(TWO, [PASSWORD]))
    # The others are on a page of this server, which clients know as SSO.
    page = {"type": "m.login.sso"}
    assert checked("client_login", "GET", f"{V3}/login").json == {"flows": [{"type": PASSWORD}, page, token]}
    server(LOGIN_FLOWS=flows(TWO))
    assert checked("client_login", "GET", f"{V3}/login").json == {"flows": [page, token]}


# ── The password alone ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", [L, OLD_L])
@pytest.mark.parametrize("name", ["alice", "@alice:example.org"])
def test_the_password_logs_in_with_one_request_that_stores_no_session(alice: User, machine, prefix, name):
    answer = call("client_login", "POST", f"{prefix}/login", {"type": PASSWORD, "user": name, "password": SECRET})
    assert answer.status == 200
    assert set(answer.json) == {"user_id", "access_token", "home_server", "device_id"}
    assert (answer.json["user_id"], answer.json["home_server"]) == ("@alice:example.org", "example.org")
    told = whoami(answer.json["access_token"]).json
    assert (told["user_id"], told["device_id"]) == ("@alice:example.org", answer.json["device_id"])
    assert nothing_is_stored(machine)


def test_the_recorded_payload_logs_a_user_in(alice: User):
    answer = invoke("client_login", payload("client_login_draft"))
    assert (answer.status, answer.json["user_id"]) == (200, alice.user_id)
    assert accounts.load_device(alice.user_id, answer.json["device_id"]).seen_ip == "205.255.255.176"


def test_the_identifier_of_today_is_understood(alice: User):
    identifier = {"type": "m.id.user", "user": "alice"}
    answer = login({"type": PASSWORD, "identifier": identifier, "password": SECRET})
    assert (answer.status, answer.json["user_id"]) == (200, alice.user_id)


def test_what_is_said_of_the_device_counts(alice: User):
    answer = login({**RIGHT, "device_id": "PHONE", "initial_device_display_name": "Phone", "refresh_token": True})
    assert set(answer.json) > {"refresh_token", "expires_in_ms"}
    assert answer.json["device_id"] == "PHONE"
    assert accounts.load_device(alice.user_id, "PHONE").name == "Phone"


@pytest.mark.parametrize("user", ["alice", "nobody", "@alice:elsewhere.org", "no name!"])
def test_an_unknown_user_and_a_wrong_password_are_answered_alike_after_the_same_work(
    alice: User, machine, monkeypatch, user
):
    work = []
    passwords._nobodys_hash("low")  # made once a process
    real = passwords._hasher
    monkeypatch.setattr(passwords, "_hasher", lambda cost: work.append(cost) or real(cost))
    answer = login({"type": PASSWORD, "user": user, "password": "wrong"})
    wrong = {"errcode": "M_FORBIDDEN", "error": "The user name or the password is wrong."}
    assert (answer.status, answer.json, work) == (403, wrong, ["low"])
    assert nothing_is_stored(machine)


def test_guesses_are_limited_however_they_are_asked(server, alice: User):
    server(RATE_LIMITS="on")
    wrong = {**RIGHT, "password": "wrong"}
    assert {refusal(login(wrong, address=f"192.0.2.{number}")) for number in range(10)} == {(403, "M_FORBIDDEN")}
    answer = login(RIGHT, address="192.0.2.99")
    assert refusal(answer) == (429, "M_LIMIT_EXCEEDED")
    assert answer.json["retry_after_ms"] > 0
    assert int(answer.headers["retry-after"]) >= 1
    assert refusal(call("client_login", "POST", f"{V3}/login", RIGHT, address="192.0.2.98")) == refusal(answer)


# ── What is refused ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", [L, OLD_L])
@pytest.mark.parametrize("path", ["login", "register"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("no json", (400, "M_NOT_JSON")),
        (b"\xff\xfe", (400, "M_NOT_JSON")),
        ([], (400, "M_BAD_JSON")),
        ("null", (400, "M_BAD_JSON")),
        ({"type": 7}, (400, "M_BAD_JSON")),
        ({"type": PASSWORD, "session": 7}, (400, "M_BAD_JSON")),
        ({"session": "S"}, (400, "M_MISSING_PARAM")),
        ({"type": PASSWORD, "user": ["alice"], "password": "x"}, (400, "M_BAD_JSON")),
        ({"type": PASSWORD, "user": "alice", "password": 1}, (400, "M_BAD_JSON")),
        ({"type": PASSWORD, "user": "new", "password": "x", "device_id": 3}, (400, "M_BAD_JSON")),
        ({"type": PASSWORD, "user": "new", "password": "x", "device_id": ""}, (400, "M_INVALID_PARAM")),
        ({"type": PASSWORD, "user": "new", "password": "x", "refresh_token": 1}, (400, "M_BAD_JSON")),
        ({"type": "m.login.riddle"}, (400, "M_UNKNOWN")),
        ({"type": "m.login.dummy"}, (400, "M_UNKNOWN")),
        ({"type": EMAIL_CODE, "user": "new", "email": "a@b.c"}, (400, "M_UNKNOWN")),
        ({"type": PASSWORD, "user": "new", "password": "x", "session": "unknown"}, (401, "M_UNKNOWN")),
        ({"type": PASSWORD, "user": "new", "password": "x", "session": ""}, (401, "M_UNKNOWN")),
        ({"type": PASSWORD, "user": "new", "password": "x", "session": "nonce/x"}, (401, "M_UNKNOWN")),
        ({"type": PASSWORD, "user": "new", "password": "x", "session": "S" * 3000}, (401, "M_UNKNOWN")),
    ],
)
def test_what_makes_no_sense_is_refused(machine, prefix, path, body, expected):
    assert refusal(call("client_login", "POST", f"{prefix}/{path}", body)) == expected
    assert nothing_is_stored(machine)


def test_an_empty_login_names_what_is_missing():
    assert (login({}).json["errcode"], login({}).json["error"]) == ("M_MISSING_PARAM", "type is required.")


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ({"type": PASSWORD}, "password"),
        ({"type": PASSWORD, "user": "alice"}, "password"),
        ({"type": PASSWORD, "password": "x"}, "user"),
        ({"type": EMAIL_CODE, "user": "alice"}, "email"),
        ({"type": EMAIL_CODE, "email": "a@b.test"}, "user"),
        ({"type": EMAIL_URL, "user": "alice"}, "email"),
    ],
)
def test_a_missing_key_is_named(server, mailbox: Mailbox, machine, body, missing):
    server(LOGIN_FLOWS=flows([PASSWORD], [EMAIL_CODE], [EMAIL_URL]))
    answer = login(body)
    assert refusal(answer) == (400, "M_MISSING_PARAM")
    assert missing in answer.json["error"]
    assert nothing_is_stored(machine)


@pytest.mark.parametrize("prefix", [L, OLD_L])
@pytest.mark.parametrize("path", ["login", "register"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_a_wrong_method_is_405(prefix, path, method):
    for function in ("client_login", "server_discovery"):  # the second is who answers what has no route
        answer = call(function, method, f"{prefix}/{path}", {})
        assert (answer.status, answer.errcode, answer.headers["allow"]) == (405, "M_UNRECOGNIZED", "GET, POST")


@pytest.mark.parametrize("path", ["/matrix/client/api/v1/sync", "/_matrix/client/api/v2/login", f"{L}/login/"])
def test_addresses_that_never_were_are_404(path):
    assert refusal(call("client_login", "POST", path, RIGHT)) == (404, "M_UNRECOGNIZED")


@pytest.mark.parametrize("path", [f"{L}/login", f"{V3}/login"])
def test_the_password_is_no_way_around_a_second_factor(server, alice: User, mailbox: Mailbox, machine, path):
    server(LOGIN_FLOWS=flows(TWO))
    answer = call("client_login", "POST", path, RIGHT)
    assert refusal(answer) == (400, "M_UNKNOWN")
    assert nothing_is_stored(machine)
    assert (login(RIGHT).json["error"], mailbox.events) == ("Bad login type", [])


def test_a_deactivated_account_is_told_from_a_wrong_password_as_everywhere(alice: User):
    accounts.Account(alice.user_id, "account").update([accounts.Account.deactivating.set(True)])
    assert refusal(login(RIGHT)) == (403, "M_USER_DEACTIVATED")
    assert refusal(login({**RIGHT, "password": "wrong"})) == (403, "M_USER_DEACTIVATED")
