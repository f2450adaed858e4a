"""Login, logout and refresh, through the handlers of `client_login` and `client_account`."""

import pytest

from functions.harness import PASSWORD, call, http_event, invoke, payload, register
from homeserver.matrix.access_token import claimed_user, token_hash
from homeserver.services import access_tokens, passwords
from homeserver.storage import accounts, tokens
from homeserver.storage.connection import Transaction, TransactionCancelled

V3 = "/_matrix/client/v3"


FLOWS = {"flows": [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}]}


def login_body(user="alice", password=PASSWORD, **more):
    return {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
        **more,
    }


@pytest.fixture
def login(checked):
    def log_in(user="alice", password=PASSWORD, **more):
        return checked("client_login", "POST", f"{V3}/login", login_body(user, password, **more))

    return log_in


@pytest.fixture
def whoami():
    def who_am_i(token):
        return call("client_account", "GET", f"{V3}/account/whoami", token=token)

    return who_am_i


@pytest.fixture
def refresh(checked):
    def refresh_token(token):
        return checked("client_login", "POST", f"{V3}/refresh", {"refresh_token": token})

    return refresh_token


@pytest.mark.parametrize("version", ["r0", "v3"])
def test_the_logins_of_one_request_are_offered(checked, version):
    answer = checked("client_login", "GET", f"/_matrix/client/{version}/login")
    assert (answer.status, answer.json) == (200, FLOWS)


def test_the_recorded_payloads_log_a_user_in():
    assert invoke("client_login", payload("client_login_flows")).json == FLOWS
    registered = invoke("client_login", payload("client_login_register"))
    assert (registered.status, registered.json["user_id"]) == (200, "@alice:example.org")
    answer = invoke("client_login", payload("client_login_password"))
    assert answer.status == 200
    assert (answer.json["user_id"], answer.json["device_id"]) == ("@alice:example.org", "PHONE")
    device = accounts.load_device("@alice:example.org", "PHONE")
    assert (device.name, device.seen_ip) == ("Alice's phone", "205.255.255.176")


def test_the_recorded_refresh_of_an_unknown_token_is_refused():
    answer = invoke("client_login", payload("client_login_refresh"))
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize("name", ["alice", "@alice:example.org", "Alice", "@ALICE:example.org"])
def test_a_user_logs_in_by_localpart_or_full_id_in_any_case(alice, login, whoami, name):
    answer = login(name)
    assert answer.status == 200
    assert answer.json["user_id"] == "@alice:example.org"
    assert len(answer.json["device_id"]) == 10
    assert answer.json["access_token"] != alice.token
    assert set(answer.json) == {"user_id", "device_id", "access_token"}
    assert whoami(answer.json["access_token"]).json == {
        "user_id": "@alice:example.org",
        "device_id": answer.json["device_id"],
        "is_guest": False,
    }


def test_the_older_user_key_still_logs_in(checked, alice):
    body = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
    answer = checked("client_login", "POST", f"{V3}/login", body)
    assert (answer.status, answer.json["user_id"]) == (200, "@alice:example.org")


def test_well_known_is_told_when_the_operator_said_the_address(server, alice, login):
    server(PUBLIC_BASE_URL="https://matrix.example.org/")
    assert login().json["well_known"] == {"m.homeserver": {"base_url": "https://matrix.example.org"}}


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", "x" * 10_000),
        ("nobody", PASSWORD),
        ("@alice:elsewhere.org", PASSWORD),
        ("no such name!", PASSWORD),
        ("", PASSWORD),
        ("a" * 3000, PASSWORD),
    ],
)
def test_wrong_credentials_are_refused_alike(alice, login, user, password):
    answer = login(user, password)
    assert (answer.status, answer.json) == (
        403,
        {"errcode": "M_FORBIDDEN", "error": "The user name or the password is wrong."},
    )


@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_a_user_that_does_not_exist_costs_the_same_work(monkeypatch, alice, login, user):
    work = []
    real = passwords._hasher
    monkeypatch.setattr(passwords, "_hasher", lambda cost: work.append(cost) or real(cost))
    assert login(user, "wrong").status == 403
    assert work == ["low"]


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ("no json", 400, "M_NOT_JSON"),
        (b"\xff\xfe", 400, "M_NOT_JSON"),
        ([], 400, "M_BAD_JSON"),
        ("null", 400, "M_BAD_JSON"),
        ({}, 400, "M_MISSING_PARAM"),
        ({"type": 7}, 400, "M_BAD_JSON"),
        ({"type": "m.login.token", "token": "x"}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.token"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.riddle"}, 400, "M_UNKNOWN"),
        ({"type": "m.login.password"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": 1, "user": "alice"}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "x", "user": ["alice"]}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "x", "identifier": "alice"}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.user"}}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.bird"}}, 400, "M_UNKNOWN"),
        (
            {"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.phone", "phone": "1"}},
            403,
            "M_FORBIDDEN",
        ),
        ({"type": "m.login.password", "password": "x", "medium": "email", "address": "a@b.c"}, 403, "M_FORBIDDEN"),
        (login_body(device_id=3), 400, "M_BAD_JSON"),
        (login_body(device_id=""), 400, "M_INVALID_PARAM"),
        (login_body(device_id="D" * 256), 400, "M_INVALID_PARAM"),
        (login_body(initial_device_display_name={}), 400, "M_BAD_JSON"),
        (login_body(refresh_token="yes"), 400, "M_BAD_JSON"),
    ],
)
def test_a_malformed_login_is_refused(alice, checked, body, status, errcode):
    answer = checked("client_login", "POST", f"{V3}/login", body)
    assert (answer.status, answer.errcode) == (status, errcode)
    assert [device.device_id for device in accounts.list_devices(alice.user_id)] == [alice.device_id]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_another_method_is_answered_405(method):
    answer = call("client_login", method, f"{V3}/login")
    assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED")


def test_an_unknown_endpoint_of_the_function_is_answered_404():
    answer = call("client_login", "GET", f"{V3}/login/nothing")
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


def test_a_login_with_a_known_device_revokes_what_the_device_had(alice, login, whoami):
    first = login(device_id="PHONE", initial_device_display_name="Phone", refresh_token=True).json
    second = login(device_id="PHONE", initial_device_display_name="Ignored").json
    assert second["device_id"] == first["device_id"] == "PHONE"
    assert whoami(second["access_token"]).status == 200
    refused = whoami(first["access_token"])
    assert (refused.status, refused.errcode, "soft_logout" in refused.json) == (401, "M_UNKNOWN_TOKEN", False)
    assert whoami(alice.token).status == 200
    assert accounts.load_device(alice.user_id, "PHONE").name == "Phone"
    assert accounts.load_device(alice.user_id, "PHONE").token_hashes == {token_hash(second["access_token"])}
    assert tokens.load(token_hash(first["refresh_token"])) is None


def test_a_token_says_whose_it_claims_to_be_and_is_stored_only_as_a_hash(alice):
    assert claimed_user(alice.token, "example.org") == "@alice:example.org"
    record = tokens.load(token_hash(alice.token))
    assert alice.token not in str(record.serialize())
    assert (record.user, record.device, record.kind) == (alice.user_id, alice.device_id, "access")


def test_a_token_for_somebody_else_with_the_same_randomness_is_unknown(alice, bob, whoami):
    random_part = alice.token[-43:]
    forged = bob.token[: -len(random_part)] + random_part
    assert claimed_user(forged, "example.org") == "@bob:example.org"
    assert whoami(forged).errcode == "M_UNKNOWN_TOKEN"


@pytest.mark.parametrize(
    "token", ["nonsense", "eig_", "eig_YWxpY2U_" + "A" * 43, "eig_" + "A" * 5000, "eig_ÿ_" + "A" * 43]
)
def test_an_unknown_token_is_refused(token):
    answer = call("client_account", "GET", f"{V3}/account/whoami", query={"access_token": token})
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert "soft_logout" not in answer.json


def test_a_missing_token_is_refused():
    answer = call("client_account", "GET", f"{V3}/account/whoami")
    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


def test_a_refresh_token_is_no_access_token(alice, login, whoami):
    assert whoami(login(refresh_token=True).json["refresh_token"]).errcode == "M_UNKNOWN_TOKEN"


# ── Logout ───────────────────────────────────────────────────────────────────


def test_logout_revokes_this_device_and_no_other(alice, login, checked, whoami):
    other = login(device_id="OTHER").json["access_token"]
    answer = checked("client_login", "POST", f"{V3}/logout", token=alice.token)
    assert (answer.status, answer.json) == (200, {})
    assert whoami(alice.token).errcode == "M_UNKNOWN_TOKEN"
    assert whoami(other).status == 200
    assert accounts.load_device(alice.user_id, alice.device_id) is None


def test_logout_all_revokes_every_token_of_the_user_and_of_nobody_else(alice, bob, login, refresh, whoami):
    mine = [login(device_id=f"D{n}", refresh_token=True).json for n in range(3)]
    answer = call("client_login", "POST", f"{V3}/logout/all", token=alice.token)
    assert (answer.status, answer.json) == (200, {})
    assert {whoami(token).errcode for token in [alice.token, *(m["access_token"] for m in mine)]} == {"M_UNKNOWN_TOKEN"}
    assert {refresh(m["refresh_token"]).errcode for m in mine} == {"M_UNKNOWN_TOKEN"}
    assert accounts.list_devices(alice.user_id) == []
    assert whoami(bob.token).status == 200


def test_a_refresh_that_wins_the_race_against_logout_all_is_revoked_too(alice, login, whoami, monkeypatch):
    phone = login(device_id="PHONE", refresh_token=True).json
    late = []
    commit = Transaction.commit

    def refresh_first(transaction):
        if not late:
            late.append(None)
            late[0] = access_tokens.refresh_tokens(phone["refresh_token"])
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", refresh_first)
    assert call("client_login", "POST", f"{V3}/logout/all", token=alice.token).status == 200
    assert late[0].access_token != phone["access_token"]
    assert tokens.load(token_hash(late[0].access_token)) is None
    assert tokens.load(token_hash(late[0].refresh_token)) is None
    assert whoami(late[0].access_token).errcode == "M_UNKNOWN_TOKEN"


@pytest.mark.parametrize("path", ["logout", "logout/all"])
def test_logout_needs_a_token(checked, path):
    answer = checked("client_login", "POST", f"{V3}/{path}")
    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


# ── Refresh tokens ───────────────────────────────────────────────────────────


@pytest.fixture
def clock(monkeypatch):
    """Milliseconds that are added to the time by which tokens expire."""
    offset = {"ms": 0}
    real = access_tokens.now_ms
    monkeypatch.setattr(access_tokens, "now_ms", lambda: real() + offset["ms"])
    return offset


def test_only_a_client_that_can_refresh_gets_a_token_that_expires(alice, login, whoami, clock):
    answer = login(refresh_token=True).json
    assert answer["expires_in_ms"] == 3_600_000
    assert set(answer) == {"user_id", "device_id", "access_token", "refresh_token", "expires_in_ms"}
    clock["ms"] = 3_600_001
    expired = whoami(answer["access_token"])
    assert (expired.status, expired.errcode, expired.json["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", True)
    assert whoami(alice.token).status == 200


def test_the_time_to_live_of_an_expiring_token_lies_after_that_of_its_refresh_token(alice, login):
    answer = login(refresh_token=True).json
    access, refresh = (tokens.load(token_hash(answer[name])) for name in ("access_token", "refresh_token"))
    assert access.valid_until < refresh.valid_until
    assert access.expires == refresh.expires > refresh.valid_until / 1000
    assert tokens.load(token_hash(alice.token)).expires is None


def test_a_refresh_gives_a_new_pair_for_the_same_device(alice, login, refresh, whoami, clock):
    old = login(device_id="PHONE", refresh_token=True).json
    clock["ms"] = 3_700_000
    answer = refresh(old["refresh_token"])
    assert answer.status == 200
    assert set(answer.json) == {"access_token", "refresh_token", "expires_in_ms"}
    assert answer.json["expires_in_ms"] == 3_600_000
    assert answer.json["refresh_token"] != old["refresh_token"]
    assert whoami(answer.json["access_token"]).json["device_id"] == "PHONE"


@pytest.mark.parametrize("use", ["access_token", "refresh_token"])
def test_the_old_refresh_token_works_until_a_new_token_is_used(alice, login, refresh, whoami, use):
    old = login(refresh_token=True).json["refresh_token"]
    lost = refresh(old).json
    new = refresh(old)
    assert new.status == 200
    assert whoami(lost["access_token"]).errcode == "M_UNKNOWN_TOKEN"
    assert refresh(lost["refresh_token"]).errcode == "M_UNKNOWN_TOKEN"
    if use == "access_token":
        assert whoami(new.json["access_token"]).status == 200
    else:
        assert refresh(new.json["refresh_token"]).status == 200
    refused = refresh(old)
    assert (refused.status, refused.errcode, "soft_logout" in refused.json) == (401, "M_UNKNOWN_TOKEN", False)


def test_the_old_access_token_lives_until_it_expires_or_is_two_refreshes_old(alice, login, refresh, whoami):
    first = login(refresh_token=True).json
    second = refresh(first["refresh_token"]).json
    assert whoami(first["access_token"]).status == 200
    refresh(second["refresh_token"])
    assert whoami(first["access_token"]).errcode == "M_UNKNOWN_TOKEN"
    assert whoami(second["access_token"]).status == 200


def test_a_device_that_refreshes_for_ever_keeps_four_tokens(alice, login, refresh):
    token = login(device_id="PHONE", refresh_token=True).json["refresh_token"]
    for _ in range(6):
        token = refresh(token).json["refresh_token"]
    hashes = accounts.load_device(alice.user_id, "PHONE").token_hashes
    assert len(hashes) == 4
    assert {record.hash for record in tokens.Token.scan() if record.device == "PHONE"} == hashes


def test_a_first_use_is_one_write_and_later_uses_are_one_read(server, alice, login, refresh, whoami):
    token = refresh(login(refresh_token=True).json["refresh_token"]).json["access_token"]
    server(COST_METER="on")
    assert whoami(token).headers["server-timing"].startswith("rounds;desc=2, calls;desc=2,")
    assert whoami(token).headers["server-timing"].startswith("rounds;desc=1, calls;desc=1, rru;desc=1, wru;desc=0,")


def test_an_expired_refresh_token_asks_for_a_new_login_that_keeps_the_device(alice, login, refresh, clock):
    token = login(refresh_token=True).json["refresh_token"]
    clock["ms"] = 366 * 24 * 3_600_000
    answer = refresh(token)
    assert (answer.status, answer.errcode, answer.json["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", True)


def test_a_refresh_after_logout_is_refused(alice, login, refresh):
    answer = login(refresh_token=True).json
    call("client_login", "POST", f"{V3}/logout", token=answer["access_token"])
    assert refresh(answer["refresh_token"]).errcode == "M_UNKNOWN_TOKEN"


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"refresh_token": 3}, 400, "M_BAD_JSON"),
        ({"refresh_token": "nonsense"}, 401, "M_UNKNOWN_TOKEN"),
        ({"refresh_token": "x" * 100_000}, 401, "M_UNKNOWN_TOKEN"),
        ("{", 400, "M_NOT_JSON"),
    ],
)
def test_a_malformed_refresh_is_refused(checked, body, status, errcode):
    answer = checked("client_login", "POST", f"{V3}/refresh", body)
    assert (answer.status, answer.errcode) == (status, errcode)


def test_an_access_token_is_no_refresh_token(alice, refresh):
    assert refresh(alice.token).errcode == "M_UNKNOWN_TOKEN"


# ── Where the token may stand ────────────────────────────────────────────────


def test_the_token_in_the_query_string_follows_the_setting(server, alice):
    def ask():
        return call("client_account", "GET", f"{V3}/account/whoami", query={"access_token": alice.token}).status

    assert ask() == 200
    server(QUERY_TOKENS="off")
    assert ask() == 401


def test_a_header_that_is_not_a_bearer_token_is_a_missing_token(alice):
    event = http_event("GET", f"{V3}/account/whoami", headers={"Authorization": f"Basic {alice.token}"})
    assert invoke("client_account", event).errcode == "M_MISSING_TOKEN"


# ── Passwords ────────────────────────────────────────────────────────────────


def test_a_hash_of_older_parameters_is_renewed_at_login(alice, login):
    before = accounts.load_account(alice.user_id)
    old = passwords.PasswordHasher(memory_cost=16, time_cost=1, parallelism=1).hash(PASSWORD)
    assert before.change_password_hash(before.password, old)
    assert login().status == 200
    after = accounts.load_account(alice.user_id).password
    assert after != old
    assert "$m=8,t=1,p=1$" in after
    assert login().status == 200


def test_a_login_that_checked_the_old_password_fails_when_it_changes_meanwhile(alice, login, monkeypatch):
    real = passwords.needs_rehash

    def change_in_between(stored):
        monkeypatch.setattr(passwords, "needs_rehash", real)
        account = accounts.load_account(alice.user_id)
        assert account.change_password_hash(account.password, passwords.hash_password("another"))
        return False

    monkeypatch.setattr(passwords, "needs_rehash", change_in_between)
    assert login(device_id="INTRUDER").errcode == "M_FORBIDDEN"
    assert accounts.load_device(alice.user_id, "INTRUDER") is None


@pytest.mark.parametrize("what", ["login", "known device", "refresh", "logout"])
def test_a_transaction_that_collides_with_another_is_tried_again(alice, login, refresh, monkeypatch, what):
    phone = login(device_id="PHONE", refresh_token=True).json
    commit = Transaction.commit
    collisions = []

    def collide_once(transaction):
        if not collisions:
            collisions.append(True)
            raise TransactionCancelled({}, conflict=True)
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", collide_once)
    match what:
        case "login":
            assert login().status == 200
        case "known device":
            assert login(device_id="PHONE").status == 200
        case "refresh":
            assert refresh(phone["refresh_token"]).status == 200
        case _:
            assert call("client_login", "POST", f"{V3}/logout", token=alice.token).status == 200
            assert accounts.load_device(alice.user_id, alice.device_id) is None
    assert collisions == [True]


def test_every_user_of_the_harness_is_a_new_one():
    assert register().user_id != register().user_id
