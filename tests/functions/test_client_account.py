"""whoami, capabilities, password change and deactivation, through the handler of `client_account`."""

import sys
from types import SimpleNamespace

import pytest

from functions.harness import PASSWORD, call, invoke, payload, register
from homeserver import observability
from homeserver.matrix.access_token import token_hash
from homeserver.services import access_tokens, account
from homeserver.services.login_stages.stage import Origin
from homeserver.storage import accounts, sessions, tokens
from homeserver.storage.connection import Transaction
from homeserver.storage.profiles import Profile

V3 = "/_matrix/client/v3"
NEW = "a much better password"


def login(user="alice", password=PASSWORD, **more):
    identifier = {"type": "m.id.user", "user": user}
    body = {"type": "m.login.password", "identifier": identifier, "password": password, **more}
    return call("client_login", "POST", f"{V3}/login", body)


def whoami(token):
    return call("client_account", "GET", f"{V3}/account/whoami", token=token)


def proof(session=None, user="alice", password=PASSWORD):
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": password}
    return auth if session is None else auth | {"session": session}


@pytest.fixture
def post(checked):
    def send(path, body, token):
        return checked("client_account", "POST", f"{V3}/{path}", body, token=token)

    return send


@pytest.fixture
def crash_at(monkeypatch):
    """`crash_at(name)` breaks the next request off at a fault point: it is answered with 500."""

    def arm(name):
        def stop(step):
            if step == name:
                monkeypatch.setattr(observability, "fault_hook", None)
                raise RuntimeError(step)

        monkeypatch.setattr(observability, "fault_hook", stop)

    return arm


# ── whoami, capabilities ─────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["r0", "v3"])
def test_whoami_names_user_and_device(checked, alice, version):
    answer = checked("client_account", "GET", f"/_matrix/client/{version}/account/whoami", token=alice.token)
    assert answer.status == 200
    assert answer.json == {"user_id": alice.user_id, "device_id": alice.device_id, "is_guest": False}


@pytest.mark.parametrize("name", ["whoami", "password", "devices"])
def test_the_recorded_payloads_carry_a_token_that_nobody_has(name):
    answer = invoke("client_account", payload(f"client_account_{name}"))
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")


def test_the_capabilities_are_told_to_users(checked, alice):
    answer = checked("client_account", "GET", f"{V3}/capabilities", token=alice.token)
    assert answer.status == 200
    told = answer.json["capabilities"]
    assert told["m.room_versions"] == {
        "default": "12",
        "available": {str(version): "stable" for version in range(1, 13)},
    }
    assert {name: value["enabled"] for name, value in told.items() if "enabled" in value} == {
        "m.change_password": True,
        "m.set_displayname": True,
        "m.set_avatar_url": True,
        "m.profile_fields": True,
        "m.3pid_changes": False,
        "m.get_login_token": True,
        "m.forget_forced_upon_leave": False,
    }
    assert checked("client_account", "GET", f"{V3}/capabilities").errcode == "M_MISSING_TOKEN"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "account/whoami"), ("GET", "account/password"), ("POST", "devices"), ("PUT", "delete_devices")],
)
def test_another_method_is_answered_405(alice, method, path):
    answer = call("client_account", method, f"{V3}/{path}", token=alice.token)
    assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED")


# ── Password ─────────────────────────────────────────────────────────────────


def test_a_password_changes_after_authentication_and_other_devices_are_logged_out(alice, post):
    other = login(device_id="OTHER").json["access_token"]
    asked = post("account/password", {"new_password": NEW}, alice.token)
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
    assert login().status == 200
    done = post("account/password", {"new_password": NEW, "auth": proof(asked.json["session"])}, alice.token)
    assert (done.status, done.json) == (200, {})
    assert whoami(alice.token).status == 200
    assert whoami(other).errcode == "M_UNKNOWN_TOKEN"
    assert [device.device_id for device in accounts.list_devices(alice.user_id)] == [alice.device_id]
    assert login(password=PASSWORD).errcode == "M_FORBIDDEN"
    assert login(password=NEW).status == 200
    assert sessions.load(asked.json["session"]) is None


def test_other_devices_stay_logged_in_when_the_client_asks_so(alice, post):
    other = login(device_id="OTHER").json["access_token"]
    body = {"new_password": NEW, "logout_devices": False, "auth": proof()}
    assert post("account/password", body, alice.token).status == 200
    assert whoami(other).status == 200


def test_a_wrong_password_does_not_complete_the_stage(alice, bob, post):
    session = post("account/password", {"new_password": NEW}, alice.token).json["session"]
    wrong = post("account/password", {"new_password": NEW, "auth": proof(session, password="no")}, alice.token)
    assert (wrong.status, wrong.errcode, wrong.json["completed"]) == (401, "M_FORBIDDEN", [])
    assert wrong.json["session"] == session
    of_bob = post("account/password", {"new_password": NEW, "auth": proof(session, user="bob")}, alice.token)
    assert (of_bob.status, of_bob.errcode) == (401, "M_FORBIDDEN")
    assert login(password=PASSWORD).status == 200


def test_the_older_user_key_completes_the_password_stage(alice, post):
    auth = {"type": "m.login.password", "user": "@alice:example.org", "password": PASSWORD}
    assert post("account/password", {"new_password": NEW, "auth": auth}, alice.token).status == 200


def test_a_session_of_another_user_or_operation_is_unknown(alice, bob, post):
    of_alice = post("account/password", {"new_password": NEW}, alice.token).json["session"]
    stolen = {"new_password": NEW, "auth": proof(of_alice, user="bob")}
    answer = post("account/password", stolen, bob.token)
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN")
    moved = post("account/deactivate", {"auth": proof(of_alice)}, alice.token)
    assert (moved.status, moved.errcode) == (401, "M_UNKNOWN")
    assert login(user="bob").status == login().status == 200


def test_a_used_session_changes_no_second_password(alice, post):
    session = post("account/password", {"new_password": NEW}, alice.token).json["session"]
    assert post("account/password", {"new_password": NEW, "auth": proof(session)}, alice.token).status == 200
    again = post("account/password", {"new_password": "third", "auth": {"session": session}}, alice.token)
    assert (again.status, again.errcode) == (401, "M_UNKNOWN")
    assert login(password=NEW).status == 200


def test_a_claimed_session_is_refused_to_a_request_with_another_body(alice, post, crash_at):
    session = post("account/password", {"new_password": NEW}, alice.token).json["session"]
    crash_at("account.password_changed")
    assert post("account/password", {"new_password": NEW, "auth": proof(session)}, alice.token).status == 500
    other = {"new_password": NEW, "logout_devices": False, "auth": {"session": session}}
    refused = post("account/password", other, alice.token)
    assert (refused.status, refused.errcode) == (401, "M_UNKNOWN")
    assert refused.json["session"] != session


def test_a_password_change_goes_on_after_a_crash_with_the_same_session(alice, post, crash_at):
    other = login(device_id="OTHER").json["access_token"]
    session = post("account/password", {"new_password": NEW}, alice.token).json["session"]
    crash_at("account.password_changed")
    assert post("account/password", {"new_password": NEW, "auth": proof(session)}, alice.token).status == 500
    assert whoami(other).status == 200
    # The stage is complete: the old password, which is right no more, is not asked again.
    assert post("account/password", {"new_password": NEW, "auth": proof(session)}, alice.token).status == 200
    assert whoami(other).errcode == "M_UNKNOWN_TOKEN"
    assert sessions.load(session) is None


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ("{", "M_NOT_JSON"),
        ([], "M_BAD_JSON"),
        ({}, "M_MISSING_PARAM"),
        ({"new_password": 1}, "M_BAD_JSON"),
        ({"new_password": ""}, "M_WEAK_PASSWORD"),
        ({"new_password": "x" * 513}, "M_INVALID_PARAM"),
        ({"new_password": NEW, "logout_devices": 1}, "M_BAD_JSON"),
        ({"new_password": NEW, "auth": []}, "M_BAD_JSON"),
    ],
)
def test_a_malformed_password_change_is_refused(alice, post, body, errcode):
    answer = post("account/password", body, alice.token)
    assert (answer.status, answer.errcode) == (400, errcode)
    assert login().status == 200


@pytest.mark.parametrize(
    ("auth", "errcode"),
    [
        ({"type": "m.login.password"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": PASSWORD}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": PASSWORD, "identifier": 1}, "M_BAD_JSON"),
        ({"type": "m.login.dummy"}, "M_UNRECOGNIZED"),
        ({"session": "unknown"}, "M_UNKNOWN"),
    ],
)
def test_a_malformed_attempt_is_told_with_the_flows(alice, post, auth, errcode):
    answer = post("account/password", {"new_password": NEW, "auth": auth}, alice.token)
    assert (answer.status, answer.errcode) == (401, errcode)
    assert answer.json["flows"] == [{"stages": ["m.login.password"]}]


@pytest.mark.parametrize("path", ["account/password", "account/deactivate", "delete_devices"])
def test_nobody_is_authenticated_without_a_token(post, path):
    answer = post(path, {"new_password": NEW, "devices": []}, None)
    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


# ── Deactivation ─────────────────────────────────────────────────────────────


@pytest.fixture
def departures(monkeypatch):
    """The users who were made to leave their rooms."""
    left = []
    monkeypatch.setitem(sys.modules, "homeserver.services.membership", SimpleNamespace(leave_all_rooms=left.append))
    return left


def test_a_deactivated_account_is_gone_for_every_token_and_every_login(alice, bob, post, departures):
    phone = login(device_id="PHONE", refresh_token=True).json
    session = post("account/deactivate", {}, alice.token).json["session"]
    assert whoami(alice.token).status == 200
    done = post("account/deactivate", {"auth": proof(session)}, alice.token)
    assert (done.status, done.json) == (200, {"id_server_unbind_result": "success"})
    assert departures == [alice.user_id]
    assert {whoami(token).errcode for token in (alice.token, phone["access_token"])} == {"M_UNKNOWN_TOKEN"}
    refresh = call("client_login", "POST", f"{V3}/refresh", {"refresh_token": phone["refresh_token"]})
    assert refresh.errcode == "M_UNKNOWN_TOKEN"
    refused = login()
    assert (refused.status, refused.errcode) == (403, "M_USER_DEACTIVATED")
    record = accounts.load_account(alice.user_id)
    assert (record.password, record.deactivated, record.deactivating, record.erased) == (None, True, None, None)
    assert Profile.fetch(alice.user_id) is None
    assert accounts.list_devices(alice.user_id) == []
    assert sessions.load(session) is None
    assert whoami(bob.token).status == 200


def test_the_name_of_a_deactivated_account_stays_taken(alice, post, departures):
    post("account/deactivate", {"auth": proof(), "erase": True}, alice.token)
    assert accounts.load_account(alice.user_id).erased is True
    body = {"username": "alice", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    assert call("client_login", "POST", f"{V3}/register", body).errcode == "M_USER_IN_USE"


def test_a_login_during_the_deactivation_fails(alice, post, departures, crash_at):
    session = post("account/deactivate", {}, alice.token).json["session"]
    crash_at("account.deactivating")
    assert post("account/deactivate", {"auth": proof(session)}, alice.token).status == 500
    refused = login(device_id="LATE")
    assert (refused.status, refused.errcode) == (403, "M_USER_DEACTIVATED")
    assert accounts.load_device(alice.user_id, "LATE") is None


@pytest.mark.parametrize("step", ["account.deactivating", "account.rooms_left"])
def test_a_deactivation_goes_on_after_a_crash_with_the_same_session(alice, post, departures, crash_at, step):
    phone = login(device_id="PHONE").json["access_token"]
    session = post("account/deactivate", {}, alice.token).json["session"]
    crash_at(step)
    assert post("account/deactivate", {"auth": proof(session)}, alice.token).status == 500
    assert whoami(alice.token).status == 200
    assert post("account/deactivate", {"auth": {"session": session}}, alice.token).status == 200
    assert {whoami(token).errcode for token in (alice.token, phone)} == {"M_UNKNOWN_TOKEN"}
    assert tokens.load(token_hash(alice.token)) is None
    assert departures[-1] == alice.user_id


def test_two_identical_deactivations_at_once_are_both_answered(alice, post, departures, monkeypatch):
    session = post("account/deactivate", {}, alice.token).json["session"]
    body = {"auth": proof(session)}
    rivals = []
    commit = Transaction.commit
    requester = access_tokens.requester_of(alice.token)

    def rival_first(transaction):
        if not rivals:
            rivals.append(None)
            rivals[0] = account.deactivate(requester, body, Origin(""))
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", rival_first)
    answer = post("account/deactivate", body, alice.token)
    assert (answer.status, answer.json) == (200, {"id_server_unbind_result": rivals[0]})
    assert accounts.load_account(alice.user_id).deactivated is True


def test_a_password_cannot_be_changed_while_the_account_is_being_deactivated(alice, post, departures, crash_at):
    crash_at("account.deactivating")
    assert post("account/deactivate", {"auth": proof()}, alice.token).status == 500
    answer = post("account/password", {"new_password": NEW, "auth": proof()}, alice.token)
    assert (answer.status, answer.errcode) == (403, "M_USER_DEACTIVATED")


@pytest.mark.parametrize("body", [{"erase": "yes"}, {"id_server": 1}])
def test_a_malformed_deactivation_is_refused(alice, post, body):
    answer = post("account/deactivate", body | {"auth": proof()}, alice.token)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    assert accounts.load_account(alice.user_id).active


# ── Devices ──────────────────────────────────────────────────────────────────


def test_devices_are_listed_with_what_is_known_of_them(checked, alice):
    name = {"initial_device_display_name": "Phone"}
    identifier = {"type": "m.id.user", "user": "alice"}
    body = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD, "device_id": "PHONE", **name}
    call("client_login", "POST", f"{V3}/login", body, address="198.51.100.7")
    answer = checked("client_account", "GET", f"{V3}/devices", token=alice.token)
    assert answer.status == 200
    devices = {device["device_id"]: device for device in answer.json["devices"]}
    assert set(devices) == {alice.device_id, "PHONE"}
    assert (devices["PHONE"]["display_name"], devices["PHONE"]["last_seen_ip"]) == ("Phone", "198.51.100.7")
    created = accounts.load_device(alice.user_id, "PHONE").created
    assert devices["PHONE"]["last_seen_ts"] == created
    assert "display_name" not in devices[alice.device_id]
    one = checked("client_account", "GET", f"{V3}/devices/PHONE", token=alice.token)
    assert (one.status, one.json) == (200, devices["PHONE"])


@pytest.mark.parametrize("device_id", ["a/b", "a b", "ä%25", "#:x"])
def test_a_device_id_may_be_anything_that_a_path_can_carry(checked, alice, device_id):
    from urllib.parse import quote

    assert login(device_id=device_id).status == 200
    path = f"{V3}/devices/{quote(device_id, safe='')}"
    assert checked("client_account", "GET", path, token=alice.token).json["device_id"] == device_id


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("device_id", ["NOPE", "x" * 300])
def test_a_device_of_nobody_is_not_found(checked, alice, bob, method, device_id):
    body = {"display_name": "x"} if method == "PUT" else None
    answer = checked("client_account", method, f"{V3}/devices/{device_id}", body, token=alice.token)
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    foreign = checked("client_account", method, f"{V3}/devices/{bob.device_id}", body, token=alice.token)
    assert (foreign.status, foreign.errcode) == (404, "M_NOT_FOUND")


def test_a_device_is_renamed_and_keeps_its_token(checked, alice):
    path = f"{V3}/devices/{alice.device_id}"
    assert checked("client_account", "PUT", path, {"display_name": "Laptop"}, token=alice.token).json == {}
    assert checked("client_account", "PUT", path, {}, token=alice.token).status == 200
    assert checked("client_account", "GET", path, token=alice.token).json["display_name"] == "Laptop"
    bad = {"errcode": "M_BAD_JSON"}
    wrong = checked("client_account", "PUT", path, {"display_name": 1}, token=alice.token)
    assert {"errcode": wrong.errcode} == bad
    long = checked("client_account", "PUT", path, {"display_name": "x" * 257}, token=alice.token)
    assert (long.status, long.errcode) == (400, "M_INVALID_PARAM")


def test_deleting_a_device_needs_authentication_and_revokes_its_token(checked, alice):
    phone = login(device_id="PHONE").json["access_token"]
    path = f"{V3}/devices/PHONE"
    asked = checked("client_account", "DELETE", path, {}, token=alice.token)
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
    assert whoami(phone).status == 200
    session = asked.json["session"]
    other = checked("client_account", "DELETE", f"{V3}/devices/OTHER", {"auth": proof(session)}, token=alice.token)
    assert (other.status, other.errcode) == (401, "M_UNKNOWN")
    done = checked("client_account", "DELETE", path, {"auth": proof(session)}, token=alice.token)
    assert (done.status, done.json) == (200, {})
    assert whoami(phone).errcode == "M_UNKNOWN_TOKEN"
    assert whoami(alice.token).status == 200
    again = checked("client_account", "DELETE", path, {"auth": proof()}, token=alice.token)
    assert again.status == 200


def test_several_devices_are_deleted_at_once_and_only_ones_own(post, alice, bob):
    phones = [login(device_id=f"D{n}").json["access_token"] for n in range(3)]
    body = {"devices": ["D0", "D1", "NOPE", bob.device_id], "auth": proof()}
    assert post("delete_devices", body, alice.token).json == {}
    assert [whoami(token).status for token in phones] == [401, 401, 200]
    assert whoami(bob.token).status == 200


def test_a_user_can_delete_the_device_in_use(post, alice):
    body = {"devices": [alice.device_id], "auth": proof()}
    assert post("delete_devices", body, alice.token).status == 200
    assert whoami(alice.token).errcode == "M_UNKNOWN_TOKEN"


@pytest.mark.parametrize(
    ("body", "errcode"),
    [({}, "M_MISSING_PARAM"), ({"devices": "D"}, "M_BAD_JSON"), ({"devices": [1]}, "M_BAD_JSON")],
)
def test_a_malformed_deletion_is_refused(post, alice, body, errcode):
    answer = post("delete_devices", body, alice.token)
    assert (answer.status, answer.errcode) == (400, errcode)


def test_users_registered_beside_each_other_have_devices_of_their_own(checked):
    first, second = register(device_id="SAME"), register(device_id="SAME")
    assert whoami(first.token).json["user_id"] == first.user_id
    call("client_login", "POST", f"{V3}/logout", token=first.token)
    assert whoami(second.token).json["user_id"] == second.user_id
