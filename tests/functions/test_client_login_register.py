"""Registration, through the handler of `client_login`."""

import hashlib
import hmac
import time

import pytest

from functions.harness import PASSWORD, User, call, invoke, payload
from homeserver.matrix.access_token import token_hash
from homeserver.services import login_sessions, registration
from homeserver.services.login_stages.stage import Origin
from homeserver.storage import accounts, registration_tokens, sessions
from homeserver.storage.connection import Transaction
from homeserver.storage.profiles import Profile, profile_fields

V3 = "/_matrix/client/v3"
DUMMY = {"type": "m.login.dummy"}


def body(username="carol", **more):
    return {"username": username, "password": PASSWORD, **more}


@pytest.fixture
def register(checked):
    def send(request, **more):
        return checked("client_login", "POST", f"{V3}/register", request, **more)

    return send


def no_account_of(localpart):
    return accounts.load_account(f"@{localpart}:example.org") is None


def test_without_auth_the_flows_are_told_and_nothing_is_created(register):
    answer = register(body())
    assert answer.status == 401
    assert answer.json["flows"] == [{"stages": ["m.login.dummy"]}]
    assert (answer.json["params"], answer.json["completed"]) == ({}, [])
    assert len(answer.json["session"]) >= 32
    assert no_account_of("carol")


@pytest.mark.parametrize("version", ["r0", "v3"])
def test_a_session_with_the_dummy_stage_registers_and_logs_in(checked, version):
    path = f"/_matrix/client/{version}/register"
    session = checked("client_login", "POST", path, body()).json["session"]
    answer = checked(
        "client_login",
        "POST",
        path,
        body(auth=DUMMY | {"session": session}, device_id="PHONE", initial_device_display_name="Phone"),
    )
    assert answer.status == 200
    assert set(answer.json) == {"user_id", "device_id", "access_token"}
    assert (answer.json["user_id"], answer.json["device_id"]) == ("@carol:example.org", "PHONE")
    whoami = call("client_account", "GET", f"{V3}/account/whoami", token=answer.json["access_token"])
    assert whoami.json["user_id"] == "@carol:example.org"
    assert accounts.load_device("@carol:example.org", "PHONE").name == "Phone"
    assert sessions.load(session) is None


def test_one_request_without_a_session_registers(register):
    answer = register(body(auth=DUMMY))
    assert (answer.status, answer.json["user_id"]) == (200, "@carol:example.org")
    assert list(sessions.Session.scan()) == []


def test_the_new_account_has_a_hashed_password_and_the_localpart_as_its_name(register):
    register(body(auth=DUMMY))
    account = accounts.load_account("@carol:example.org")
    assert account.password.startswith("$argon2id$")
    assert (account.admin, account.active) == (None, True)
    assert abs(account.created - time.time() * 1000) < 60_000
    assert profile_fields(Profile.fetch("@carol:example.org")) == {"displayname": "carol"}


def test_a_name_is_made_where_none_is_given(register):
    first, second = (register({"password": PASSWORD, "auth": DUMMY}).json["user_id"] for _ in range(2))
    assert first != second
    assert first.endswith(":example.org")


def test_inhibit_login_gives_no_token_and_no_device(register):
    answer = register(body(auth=DUMMY, inhibit_login=True))
    assert (answer.status, answer.json) == (200, {"user_id": "@carol:example.org"})
    assert accounts.list_devices("@carol:example.org") == []


def test_refresh_tokens_are_given_to_clients_that_ask(register):
    answer = register(body(auth=DUMMY, refresh_token=True))
    assert set(answer.json) == {"user_id", "device_id", "access_token", "refresh_token", "expires_in_ms"}
    again = call("client_login", "POST", f"{V3}/refresh", {"refresh_token": answer.json["refresh_token"]})
    assert again.status == 200


@pytest.mark.parametrize("auth", [None, DUMMY])
def test_a_taken_name_is_refused_before_and_with_authentication(alice, register, auth):
    answer = register(body("alice") | ({"auth": auth} if auth else {}))
    assert (answer.status, answer.errcode) == (400, "M_USER_IN_USE")


@pytest.mark.parametrize("name", ["Alice", "al ice", "ålice", "@alice:example.org", "", "a:b", "a" * 250, "a#b"])
def test_a_name_outside_the_grammar_is_refused(register, name):
    answer = register(body(name))
    assert (answer.status, answer.errcode) == (400, "M_INVALID_USERNAME")


def test_the_longest_name_is_255_bytes_of_user_id(register):
    name = "a" * (255 - len("@:example.org"))
    assert register(body(name, auth=DUMMY)).json["user_id"] == f"@{name}:example.org"
    assert register(body(name + "a", auth=DUMMY)).errcode == "M_INVALID_USERNAME"


@pytest.mark.parametrize(
    ("request_body", "status", "errcode"),
    [
        ("x", 400, "M_NOT_JSON"),
        ("[]", 400, "M_BAD_JSON"),
        (body(5), 400, "M_BAD_JSON"),
        (body() | {"password": 5}, 400, "M_BAD_JSON"),
        (body() | {"password": ""}, 400, "M_WEAK_PASSWORD"),
        (body() | {"password": "ä" * 257}, 400, "M_INVALID_PARAM"),
        (body(inhibit_login="no"), 400, "M_BAD_JSON"),
        (body(device_id=[]), 400, "M_BAD_JSON"),
        (body(auth="dummy"), 400, "M_BAD_JSON"),
        (body(auth={"type": 1}), 400, "M_BAD_JSON"),
        (body(auth=DUMMY | {"session": 1}), 400, "M_BAD_JSON"),
        ({"username": "carol", "auth": DUMMY}, 400, "M_MISSING_PARAM"),
        (body(auth={"type": "m.login.password"}), 401, "M_UNRECOGNIZED"),
        (body(auth=DUMMY | {"session": "unknown"}), 401, "M_UNKNOWN"),
        (body(auth=DUMMY | {"session": ""}), 401, "M_UNKNOWN"),
        (body(auth=DUMMY | {"session": "x" * 5000}), 401, "M_UNKNOWN"),
    ],
)
def test_a_malformed_registration_creates_nothing(register, request_body, status, errcode):
    answer = register(request_body)
    assert (answer.status, answer.errcode) == (status, errcode)
    assert list(accounts.Account.scan()) == []


def test_a_password_of_512_bytes_registers(register):
    assert register(body(auth=DUMMY) | {"password": "ä" * 256}).status == 200


def test_a_session_is_used_up_by_one_account(register):
    session = register(body()).json["session"]
    assert register(body(auth=DUMMY | {"session": session})).status == 200
    again = register(body("dave", auth=DUMMY | {"session": session}))
    assert (again.status, again.errcode) == (401, "M_UNKNOWN")
    assert again.json["session"] != session
    assert no_account_of("dave")


def test_a_session_expires(register, monkeypatch):
    session = register(body()).json["session"]
    real = time.time
    monkeypatch.setattr(sessions.time, "time", lambda: real() + login_sessions.SESSION_SECONDS + 1)
    answer = register(body(auth=DUMMY | {"session": session}))
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN")
    assert no_account_of("carol")


def test_a_session_of_another_operation_does_not_register(alice, register):
    devices = call("client_account", "POST", f"{V3}/delete_devices", {"devices": []}, token=alice.token)
    answer = register(body(auth=DUMMY | {"session": devices.json["session"]}))
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN")


def test_a_crash_at_the_commit_leaves_nothing_and_the_same_session_registers_after_it(register, monkeypatch):
    session = register(body()).json["session"]
    request = body(auth=DUMMY | {"session": session})

    def crash(transaction):
        raise OSError("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(Transaction, "commit", crash)
        failed = call("client_login", "POST", f"{V3}/register", request)
        assert (failed.status, failed.errcode) == (500, "M_UNKNOWN")
    assert no_account_of("carol")
    assert Profile.fetch("@carol:example.org") is None
    assert register(request).status == 200


def test_of_two_registrations_of_one_name_the_later_commit_is_refused(register, monkeypatch):
    rivals = []
    commit = Transaction.commit

    def rival_first(transaction):
        if not rivals:
            rivals.append(None)
            rivals[0] = registration.register("user", body(auth=DUMMY) | {"password": "rival"}, Origin("192.0.2.2"))
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", rival_first)
    answer = register(body(auth=DUMMY))
    assert (answer.status, answer.errcode) == (400, "M_USER_IN_USE")
    user_id, login = rivals[0]
    assert [device.device_id for device in accounts.list_devices(user_id)] == [login.device_id]


def test_guests_and_other_kinds_are_refused(register):
    answer = register({}, query={"kind": "guest"})
    assert (answer.status, answer.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert register({}, query={"kind": "bird"}).errcode == "M_INVALID_PARAM"


def test_a_closed_server_registers_nobody(server, register):
    server(REGISTRATION="closed")
    answer = register(body(auth=DUMMY))
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert no_account_of("carol")


# ── User names ───────────────────────────────────────────────────────────────


def test_availability_of_user_names(checked, alice):
    def ask(query):
        answer = checked("client_login", "GET", f"{V3}/register/available", query=query)
        return answer.status, answer.json.get("available"), answer.errcode

    assert ask({"username": "carol"}) == (200, True, None)
    assert ask({"username": "alice"}) == (400, None, "M_USER_IN_USE")
    assert ask({"username": "Alice"}) == (400, None, "M_INVALID_USERNAME")
    assert ask({}) == (400, None, "M_MISSING_PARAM")


# ── Registration tokens ──────────────────────────────────────────────────────


@pytest.fixture
def token_server(server):
    server(REGISTRATION="token", REGISTRATION_TOKEN="let.me-in")


def with_token(token, **more):
    return {"type": "m.login.registration_token", "token": token, **more}


def test_a_token_server_wants_the_token(token_server, register):
    answer = register(body())
    assert answer.json["flows"] == [{"stages": ["m.login.registration_token"]}]
    session = answer.json["session"]
    wrong = register(body(auth=with_token("wrong", session=session)))
    assert (wrong.status, wrong.errcode, wrong.json["session"]) == (401, "M_FORBIDDEN", session)
    assert wrong.json["completed"] == []
    assert register(body(auth=DUMMY | {"session": session})).errcode == "M_UNRECOGNIZED"
    assert register(body(auth={"type": "m.login.registration_token", "session": session})).errcode == "M_MISSING_PARAM"
    assert no_account_of("carol")
    assert register(body(auth=with_token("let.me-in", session=session))).status == 200


def test_without_a_configured_token_no_token_is_right(server, register):
    server(REGISTRATION="token")
    assert register(body(auth=with_token(""))).errcode == "M_FORBIDDEN"


def test_a_stored_token_counts_the_accounts_made_with_it(token_server, register):
    registration_tokens.create(token_hash("party"), uses_allowed=2, expiry_time=None)
    assert register(body("carol", auth=with_token("party"))).status == 200
    given_up = register(body("dave")).json["session"]
    assert register({"username": "dave", "auth": with_token("party", session=given_up)}).errcode == "M_MISSING_PARAM"
    assert registration_tokens.load(token_hash("party")).completed == 1
    assert register(body("erin", auth=with_token("party"))).status == 200
    refused = register(body("frank", auth=with_token("party")))
    assert (refused.status, refused.errcode) == (401, "M_FORBIDDEN")
    assert no_account_of("frank")


def test_two_registrations_cannot_both_have_the_last_use(token_server, register, monkeypatch):
    registration_tokens.create(token_hash("last"), uses_allowed=1, expiry_time=None)
    rivals = []
    commit = Transaction.commit

    def rival_first(transaction):
        if not rivals:
            rivals.append(None)
            rivals[0] = registration.register("user", body("rival", auth=with_token("last")), Origin("192.0.2.2"))
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", rival_first)
    answer = register(body(auth=with_token("last")))
    assert rivals[0][0] == "@rival:example.org"
    assert (answer.status, answer.errcode) == (401, "M_FORBIDDEN")
    assert no_account_of("carol")
    assert registration_tokens.load(token_hash("last")).completed == 1


def test_an_expired_token_is_refused(token_server, register):
    registration_tokens.create(token_hash("old"), uses_allowed=None, expiry_time=int(time.time() * 1000) - 1)
    assert register(body(auth=with_token("old"))).errcode == "M_FORBIDDEN"


def test_the_validity_of_registration_tokens_can_be_asked(server, token_server, checked):
    now = int(time.time() * 1000)
    registration_tokens.create(token_hash("old"), uses_allowed=None, expiry_time=now - 1)
    registration_tokens.create(token_hash("fresh"), uses_allowed=None, expiry_time=now + 60_000)
    registration_tokens.create(token_hash("spent"), uses_allowed=0, expiry_time=None)

    def ask(query):
        return checked(
            "client_login", "GET", "/_matrix/client/v1/register/m.login.registration_token/validity", query=query
        )

    answers = {token: ask({"token": token}).json for token in ("let.me-in", "fresh", "old", "spent", "wrong")}
    valid = {"let.me-in": True, "fresh": True, "old": False, "spent": False, "wrong": False}
    assert answers == {token: {"valid": is_valid} for token, is_valid in valid.items()}
    assert ask({}).errcode == "M_MISSING_PARAM"
    server(REGISTRATION="closed")
    assert (ask({"token": "fresh"}).status, ask({"token": "fresh"}).errcode) == (403, "M_FORBIDDEN")


# ── Registration by shared secret ────────────────────────────────────────────

ADMIN = "/_synapse/admin/v1/register"
SECRET = "only the operator knows"


def signed(nonce, user="root", password=PASSWORD, *, admin=False, secret=SECRET, **more):
    parts = [nonce, user, password, "admin" if admin else "notadmin"]
    if more.get("user_type"):
        parts.append(more["user_type"])
    mac = hmac.new(secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()
    return {"nonce": nonce, "username": user, "password": password, "admin": admin, "mac": mac, **more}


@pytest.fixture
def nonce(server):
    server(REGISTRATION="closed", REGISTRATION_SHARED_SECRET=SECRET)

    def fetch():
        answer = call("client_login", "GET", ADMIN)
        assert answer.status == 200
        return answer.json["nonce"]

    return fetch


def test_the_recorded_request_for_a_nonce_is_answered(nonce):
    answer = invoke("client_login", payload("client_login_admin_register"))
    assert (answer.status, len(answer.json["nonce"])) == (200, 64)


@pytest.mark.parametrize("admin", [True, False])
def test_the_shared_secret_registers_on_a_closed_server(nonce, admin):
    answer = call("client_login", "POST", ADMIN, signed(nonce(), admin=admin, displayname="The Root"))
    assert answer.status == 200
    assert (answer.json["user_id"], answer.json["home_server"]) == ("@root:example.org", "example.org")
    user = User(answer.json["user_id"], answer.json["device_id"], answer.json["access_token"])
    whoami = call("client_account", "GET", f"{V3}/account/whoami", token=user.token)
    assert whoami.json == {"user_id": user.user_id, "device_id": user.device_id, "is_guest": False}
    assert bool(accounts.load_account(user.user_id).admin) is admin
    assert profile_fields(Profile.fetch(user.user_id)) == {"displayname": "The Root"}


def test_a_nonce_works_once(nonce):
    first = nonce()
    assert call("client_login", "POST", ADMIN, signed(first)).status == 200
    answer = call("client_login", "POST", ADMIN, signed(first, "second"))
    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")
    assert no_account_of("second")


def test_a_wrong_mac_uses_the_nonce_up(nonce):
    first = nonce()
    answer = call("client_login", "POST", ADMIN, signed(first, secret="guess"))
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert call("client_login", "POST", ADMIN, signed(first)).errcode == "M_UNKNOWN"
    assert no_account_of("root")


def test_the_mac_covers_the_rights(nonce):
    answer = call("client_login", "POST", ADMIN, signed(nonce(), admin=False) | {"admin": True})
    assert answer.status == 403


def test_a_nonce_expires_after_a_minute(nonce, monkeypatch):
    first = nonce()
    real = time.time
    monkeypatch.setattr(sessions.time, "time", lambda: real() + 61)
    assert call("client_login", "POST", ADMIN, signed(first)).errcode == "M_UNKNOWN"


def test_a_taken_name_and_a_bad_name_are_refused_for_the_operator_too(nonce):
    assert call("client_login", "POST", ADMIN, signed(nonce())).status == 200
    assert call("client_login", "POST", ADMIN, signed(nonce())).errcode == "M_USER_IN_USE"
    assert call("client_login", "POST", ADMIN, signed(nonce(), "Root")).errcode == "M_INVALID_USERNAME"


def test_an_unknown_user_type_is_refused(nonce):
    assert call("client_login", "POST", ADMIN, signed(nonce(), user_type="bot")).errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize("missing", ["nonce", "username", "password", "mac"])
def test_every_field_of_the_shared_secret_call_is_required(nonce, missing):
    request = signed(nonce())
    del request[missing]
    assert call("client_login", "POST", ADMIN, request).errcode == "M_MISSING_PARAM"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_secret_the_call_is_not_enabled(method):
    answer = call("client_login", method, ADMIN, signed("nonce", secret="") if method == "POST" else None)
    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")
