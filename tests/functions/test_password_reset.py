"""A new password by mail: for who cannot log in any more, and as another way for who is logged in."""

import json
import logging

import pytest

from functions.harness import PASSWORD, call
from functions.validating import IDENTITY, V3, add_address, by_password, proved, sid_of
from homeserver import observability
from homeserver.services import email_validation
from homeserver.storage import accounts, sessions, validations
from homeserver.storage import threepids as stored
from homeserver.storage.accounts import ACCOUNT, Account
from homeserver.storage.connection import Transaction
from homeserver.storage.threepids import EMAIL

ADDRESS = "alice@example.com"
NEW = "a much better password"


@pytest.fixture
def known(mailbox, alice):
    """Alice has an address."""
    add_address(mailbox, alice, ADDRESS)
    return alice


@pytest.fixture
def post(checked):
    def send(body, token=None):
        return checked("client_account", "POST", f"{V3}/account/password", body, token=token)

    return send


@pytest.fixture
def crash_after_the_change(monkeypatch):
    """The next request breaks off once the password is changed."""

    def stop(step):
        if step == "account.password_changed":
            monkeypatch.setattr(observability, "fault_hook", None)
            raise RuntimeError(step)

    monkeypatch.setattr(observability, "fault_hook", stop)


def login(password, user="alice", **more):
    identifier = {"type": "m.id.user", "user": user}
    body = {"type": "m.login.password", "identifier": identifier, "password": password, **more}
    return call("client_login", "POST", f"{V3}/login", body)


def whoami(token):
    return call("client_account", "GET", f"{V3}/account/whoami", token=token)


def reset(credentials, session=None, **more):
    auth = {"type": IDENTITY, "threepid_creds": credentials}
    return {"new_password": NEW, "auth": auth if session is None else auth | {"session": session}, **more}


# ── Without an access token ──────────────────────────────────────────────────


def test_whoever_reads_the_mail_sets_a_new_password_and_all_devices_are_logged_out(post, mailbox, known):
    other = login(PASSWORD).json["access_token"]
    asked = post({"new_password": NEW})
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": [IDENTITY]}])
    session, credentials = asked.json["session"], {"sid": sid_of("password", ADDRESS), "client_secret": "s3cret"}
    early = post(reset(credentials, session))
    assert (early.status, early.errcode, early.json["completed"]) == (401, "M_THREEPID_AUTH_FAILED", [])
    assert login(PASSWORD).status == 200
    email_validation.submit_token(credentials["sid"], None, mailbox.token())
    done = post(reset(credentials, session))
    assert (done.status, done.json) == (200, {})
    assert [whoami(token).errcode for token in (known.token, other)] == ["M_UNKNOWN_TOKEN"] * 2
    assert accounts.list_devices(known.user_id) == []
    assert (login(PASSWORD).errcode, login(NEW).status) == ("M_FORBIDDEN", 200)


def test_devices_stay_logged_in_when_the_client_asks_so(post, mailbox, known):
    assert post(reset(proved(mailbox, "password", ADDRESS), logout_devices=False)).status == 200
    assert (whoami(known.token).status, login(NEW).status) == (200, 200)


def test_the_older_key_of_the_stage_is_understood(post, mailbox, known):
    auth = {"type": IDENTITY, "threepidCreds": proved(mailbox, "password", ADDRESS)}
    assert post({"new_password": NEW, "auth": auth}).status == 200


def test_a_proof_sets_one_password(post, mailbox, known):
    credentials = proved(mailbox, "password", ADDRESS)
    assert post(reset(credentials)).status == 200
    assert validations.load(credentials["sid"]) is None
    again = post(reset(credentials) | {"new_password": "a third password"})
    assert (again.status, again.errcode) == (401, "M_THREEPID_AUTH_FAILED")
    assert login(NEW).status == 200


def test_two_sessions_with_one_proof_set_one_password(post, mailbox, known, monkeypatch):
    credentials = proved(mailbox, "password", ADDRESS)
    first, second = (post({"new_password": NEW}).json["session"] for _ in range(2))

    def stop(transaction):
        raise RuntimeError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(Transaction, "commit", stop)
        assert post(reset(credentials, second)).status == 500
    assert sessions.load(second).completed == [IDENTITY]
    assert post(reset(credentials, first)).status == 200
    late = post({"new_password": "a third password", "auth": {"session": second}})
    assert (late.status, late.errcode) == (403, "M_THREEPID_AUTH_FAILED")
    assert login(NEW).status == 200


@pytest.mark.parametrize("in_steps", [True, False])
def test_a_reset_goes_on_after_a_crash_with_the_same_request(post, mailbox, known, crash_after_the_change, in_steps):
    session = post({"new_password": NEW}).json["session"] if in_steps else None
    body = reset(proved(mailbox, "password", ADDRESS), session)
    assert post(body).status == 500
    assert (login(PASSWORD).errcode, whoami(known.token).status) == ("M_FORBIDDEN", 200)
    assert post(body).status == 200
    assert whoami(known.token).errcode == "M_UNKNOWN_TOKEN"
    assert (login(NEW).status, post(reset(body["auth"]["threepid_creds"])).errcode) == (200, "M_THREEPID_AUTH_FAILED")


def test_a_proof_whose_reset_broke_off_is_worth_nothing_for_another_account(
    post, mailbox, known, bob, crash_after_the_change
):
    credentials = proved(mailbox, "password", ADDRESS)
    assert post(reset(credentials)).status == 500
    moved = Transaction()
    stored.remove(moved, known.user_id, EMAIL, ADDRESS)
    moved.commit()
    moved = Transaction()
    stored.add(moved, bob.user_id, EMAIL, ADDRESS, validated_at=1, added_at=1)
    moved.commit()
    answer = post(reset(credentials))
    assert (answer.status, answer.errcode) == (401, "M_THREEPID_AUTH_FAILED")
    assert login(PASSWORD, "bob").status == 200


@pytest.mark.parametrize("purpose", ["add", "register"])
def test_who_followed_a_link_for_something_else_agreed_to_no_new_password(post, server, mailbox, alice, purpose):
    server(REGISTRATION_FLOWS='[["m.login.email.identity"]]')
    credentials = proved(mailbox, purpose, ADDRESS)
    add_address(mailbox, alice, ADDRESS, "secret-of-alice")
    answer = post(reset(credentials))
    assert (answer.status, answer.errcode) == (401, "M_THREEPID_AUTH_FAILED")
    assert login(PASSWORD).status == 200


def test_an_address_that_was_removed_in_between_sets_no_password(post, mailbox, known, monkeypatch):
    credentials = proved(mailbox, "password", ADDRESS)
    commit = Transaction.commit
    removed = []

    def late(transaction):
        if not removed:
            removed.append(ADDRESS)
            removal = Transaction()
            stored.remove(removal, known.user_id, EMAIL, ADDRESS)
            removal.commit()
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", late)
    answer = post(reset(credentials))
    assert (answer.status, answer.errcode) == (403, "M_THREEPID_AUTH_FAILED")
    assert login(PASSWORD).status == 200
    gone = post(reset(credentials))
    assert (gone.status, gone.errcode) == (401, "M_THREEPID_NOT_FOUND")


def test_an_account_that_is_ending_gets_no_new_password(post, mailbox, known):
    credentials = proved(mailbox, "password", ADDRESS)
    Account(known.user_id, ACCOUNT).update([Account.deactivating.set(True)])
    answer = post(reset(credentials))
    assert (answer.status, answer.errcode) == (403, "M_USER_DEACTIVATED")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"new_password": 5}, "M_BAD_JSON"),
        ({"new_password": ""}, "M_WEAK_PASSWORD"),
        ({"new_password": NEW, "logout_devices": "no"}, "M_BAD_JSON"),
        ({"new_password": NEW, "auth": "x"}, "M_BAD_JSON"),
    ],
)
def test_what_cannot_be_used_is_refused(post, mailbox, body, errcode):
    answer = post(body)
    assert (answer.status, answer.errcode) == (400, errcode)


def test_without_mail_a_password_is_changed_by_who_is_logged_in_only(post, alice):
    answer = post({"new_password": NEW})
    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


def test_a_token_that_is_unknown_is_no_reason_to_reset_by_mail(post, mailbox, known):
    answer = post({"new_password": NEW}, "unknown")
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")


def test_the_password_itself_is_no_stage_of_a_reset(post, mailbox, known):
    answer = post({"new_password": NEW, "auth": by_password(known)})
    assert (answer.status, answer.errcode) == (401, "M_UNRECOGNIZED")
    assert login(PASSWORD).status == 200


def test_a_login_token_from_before_is_worth_nothing_afterwards(post, mailbox, known):
    body = {"auth": by_password(known)}
    got = call("client_login", "POST", "/_matrix/client/v1/login/get_token", body, token=known.token)
    assert got.status == 200, got.json
    assert post(reset(proved(mailbox, "password", ADDRESS))).status == 200
    spent = call("client_login", "POST", f"{V3}/login", {"type": "m.login.token", "token": got.json["login_token"]})
    assert (spent.status, spent.errcode) == (403, "M_FORBIDDEN")


# ── With an access token ─────────────────────────────────────────────────────


def test_who_is_logged_in_and_has_an_address_has_two_ways(post, mailbox, known, bob):
    assert post({"new_password": NEW}, known.token).json["flows"] == [
        {"stages": ["m.login.password"]},
        {"stages": [IDENTITY]},
    ]
    assert post({"new_password": NEW}, bob.token).json["flows"] == [{"stages": ["m.login.password"]}]


def test_the_mail_is_as_good_as_the_password_and_the_requesters_device_stays(post, mailbox, known):
    other = login(PASSWORD).json["access_token"]
    assert post(reset(proved(mailbox, "password", ADDRESS)), known.token).status == 200
    assert (whoami(known.token).status, whoami(other).errcode) == (200, "M_UNKNOWN_TOKEN")
    assert login(NEW).status == 200


def test_the_address_of_somebody_else_changes_no_password(post, mailbox, known, bob):
    add_address(mailbox, bob, "bob@example.com", "secret-of-bob")
    credentials = proved(mailbox, "password", ADDRESS)
    answer = post(reset(credentials), bob.token)
    assert (answer.status, answer.errcode) == (401, "M_FORBIDDEN")
    assert (login(PASSWORD).status, login(PASSWORD, "bob").status) == (200, 200)


# ── Secrets ──────────────────────────────────────────────────────────────────


def test_nothing_secret_is_logged(post, mailbox, known, caplog, capfd):
    caplog.set_level(logging.DEBUG, "homeserver")
    credentials = proved(mailbox, "password", ADDRESS, "a-secret-of-the-client")
    token = mailbox.token()
    assert post(reset(credentials)).status == 200
    written = capfd.readouterr()
    for secret in (token, "a-secret-of-the-client", NEW):
        assert secret not in caplog.text + written.out + written.err + json.dumps(mailbox.events)
