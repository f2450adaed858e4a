"""E-mail addresses of accounts: adding, listing, removing; in a registration, in a login, at an account's end."""

import pytest

from functions.harness import PASSWORD, call
from functions.validating import IDENTITY, V3, add_address, addresses, by_password, proved, sid_of
from homeserver import observability
from homeserver.services import email_validation, threepids
from homeserver.services.login_stages.stage import Origin
from homeserver.storage import threepids as stored
from homeserver.storage import validations
from homeserver.storage.accounts import ACCOUNT, Account, load_account
from homeserver.storage.connection import StoreConnection, Transaction
from homeserver.storage.threepids import EMAIL

ADDRESS = "alice@example.com"


@pytest.fixture
def post(checked):
    def send(path, body, user=None, **more):
        token = user.token if user is not None else None
        return checked("client_account", "POST", f"{V3}/{path}", body, token=token, **more)

    return send


def add(post, user, credentials):
    return post("account/3pid/add", {**credentials, "auth": by_password(user)}, user)


# ── Adding and listing ───────────────────────────────────────────────────────


def test_an_address_is_added_after_authentication_and_listed(checked, post, mailbox, alice):
    credentials = proved(mailbox, "add", "Alice@Example.com")
    before = email_validation.now_ms()
    asked = post("account/3pid/add", credentials, alice)
    assert (asked.status, asked.json["flows"], addresses(alice)) == (401, [{"stages": ["m.login.password"]}], [])
    done = post(
        "account/3pid/add", {**credentials, "auth": {**by_password(alice), "session": asked.json["session"]}}, alice
    )
    assert (done.status, done.json) == (200, {})
    listed = checked("client_account", "GET", f"{V3}/account/3pid", token=alice.token)
    (threepid,) = listed.json["threepids"]
    assert (listed.status, threepid["medium"], threepid["address"]) == (200, "email", ADDRESS)
    assert threepid["validated_at"] <= before <= threepid["added_at"] <= email_validation.now_ms()
    assert stored.user_of(EMAIL, ADDRESS) == alice.user_id


@pytest.mark.parametrize("key", ["three_pid_creds", "threePidCreds"])
def test_the_deprecated_endpoint_takes_credentials_and_asks_for_authentication_too(post, mailbox, alice, key):
    credentials = proved(mailbox, "add", ADDRESS) | {"id_server": "id.example.com", "id_access_token": "x"}
    asked = post("account/3pid", {key: credentials}, alice)
    assert (asked.status, asked.errcode, addresses(alice)) == (401, "M_UNAUTHORIZED", [])
    assert asked.json["flows"] == [{"stages": ["m.login.password"]}]
    done = post("account/3pid", {key: credentials, "auth": by_password(alice)}, alice)
    assert (done.status, done.json, addresses(alice)) == (200, {}, [ADDRESS])


@pytest.mark.parametrize(
    ("body", "errcode"),
    [({}, "M_MISSING_PARAM"), ({"three_pid_creds": "x"}, "M_BAD_JSON"), ({"three_pid_creds": {}}, "M_MISSING_PARAM")],
)
def test_credentials_of_the_wrong_shape_are_refused(post, mailbox, alice, body, errcode):
    answer = post("account/3pid", body, alice)
    assert (answer.status, answer.errcode) == (400, errcode)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"sid": None}, (400, "M_MISSING_PARAM")),
        ({"client_secret": None}, (400, "M_MISSING_PARAM")),
        ({"sid": 1}, (400, "M_BAD_JSON")),
        ({"client_secret": "a b"}, (400, "M_INVALID_PARAM")),
        ({"client_secret": "another"}, (403, "M_THREEPID_AUTH_FAILED")),
        ({"sid": "unknown"}, (403, "M_THREEPID_AUTH_FAILED")),
    ],
)
def test_a_wrong_proof_adds_nothing_and_asks_for_no_password(post, mailbox, alice, change, refusal):
    answer = post("account/3pid/add", proved(mailbox, "add", ADDRESS) | change, alice)
    assert ((answer.status, answer.errcode), addresses(alice)) == (refusal, [])


def test_an_address_whose_link_was_not_followed_is_not_added(post, mailbox, alice):
    credentials = {"sid": sid_of("add", ADDRESS), "client_secret": "s3cret"}
    early = add(post, alice, credentials)
    assert (early.status, early.errcode, addresses(alice)) == (403, "M_THREEPID_AUTH_FAILED", [])
    email_validation.submit_token(credentials["sid"], None, mailbox.token())
    assert add(post, alice, credentials).status == 200


def test_a_wrong_password_adds_nothing(post, mailbox, alice):
    body = {**proved(mailbox, "add", ADDRESS), "auth": {**by_password(alice), "password": "wrong"}}
    answer = post("account/3pid/add", body, alice)
    assert (answer.status, answer.errcode, addresses(alice)) == (401, "M_FORBIDDEN", [])


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "3pid"), ("POST", "3pid"), ("POST", "3pid/add"), ("POST", "3pid/delete")],
)
def test_addresses_are_the_business_of_who_is_logged_in_and_no_guest(checked, server, mailbox, method, path):
    place = ("client_account", method, f"{V3}/account/{path}")
    nobody = checked(*place, None if method == "GET" else {})
    assert (nobody.status, nobody.errcode) == (401, "M_MISSING_TOKEN")
    server(GUEST_ACCOUNTS="on")
    guest = call("client_login", "POST", f"{V3}/register?kind=guest", {}).json["access_token"]
    refused = checked(*place, None if method == "GET" else {}, token=guest)
    assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")


@pytest.mark.parametrize("path", ["3pid/bind", "3pid/unbind"])
def test_nothing_is_bound_at_identity_servers(call, alice, path):
    answer = call("client_account", "POST", f"{V3}/account/{path}", {}, token=alice.token)
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


def test_the_capability_is_told_where_there_is_mail(call, mailbox, server, alice):
    def told():
        answer = call("client_account", "GET", f"{V3}/capabilities", token=alice.token)
        return answer.json["capabilities"]["m.3pid_changes"]

    assert told() == {"enabled": True}
    server(MAIL_FROM="")
    assert told() == {"enabled": False}


def test_an_account_has_a_bounded_number_of_addresses(post, mailbox, alice, monkeypatch):
    monkeypatch.setattr(threepids, "MOST_ADDRESSES", 2)
    for number in range(2):
        add_address(mailbox, alice, f"alice{number}@example.com")
    answer = add(post, alice, proved(mailbox, "add", ADDRESS))
    assert (answer.status, answer.errcode) == (403, "M_THREEPID_DENIED")
    assert addresses(alice) == ["alice0@example.com", "alice1@example.com"]


# ── One address, one account ─────────────────────────────────────────────────


def test_of_two_accounts_that_add_an_address_the_first_has_it(post, mailbox, alice, bob):
    of_alice, of_bob = (proved(mailbox, "add", ADDRESS, secret) for secret in ("secret-a", "secret-b"))
    assert add(post, alice, of_alice).status == 200
    late = add(post, bob, of_bob)
    assert (late.status, late.errcode, addresses(bob)) == (400, "M_THREEPID_IN_USE", [])
    assert stored.user_of(EMAIL, ADDRESS) == alice.user_id


def test_a_race_for_an_address_has_one_winner(post, mailbox, alice, bob, monkeypatch):
    of_alice, of_bob = (proved(mailbox, "add", ADDRESS, secret) for secret in ("secret-a", "secret-b"))
    commit, faster = Transaction.commit, []

    def overtaken(transaction):
        if not faster:
            faster.append("bob")
            threepids.add_validated(bob.user_id, {**of_bob, "auth": by_password(bob)}, Origin("192.0.2.2"))
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", overtaken)
    late = add(post, alice, of_alice)
    assert (faster, late.status, late.errcode) == (["bob"], 400, "M_THREEPID_IN_USE")
    assert (addresses(alice), addresses(bob), stored.user_of(EMAIL, ADDRESS)) == ([], [ADDRESS], bob.user_id)
    assert validations.load(of_alice["sid"]).claimed_by is None


def test_a_used_proof_is_refused_to_another_account_and_after_the_address_was_removed(post, mailbox, alice, bob):
    credentials = add_address(mailbox, alice, ADDRESS)
    assert add(post, bob, credentials).errcode == "M_THREEPID_AUTH_FAILED"
    assert post("account/3pid/delete", {"medium": "email", "address": ADDRESS}, alice).status == 200
    for user in (alice, bob):
        replayed = add(post, user, credentials)
        assert (replayed.status, replayed.errcode, addresses(user)) == (403, "M_THREEPID_AUTH_FAILED", [])
    assert add_address(mailbox, bob, ADDRESS, "s3cret-of-bob")
    assert stored.user_of(EMAIL, ADDRESS) == bob.user_id


def test_a_request_whose_answer_was_lost_can_be_repeated(post, mailbox, alice):
    credentials = add_address(mailbox, alice, ADDRESS)
    added_at = stored.list_of(alice.user_id)[0].added_at
    assert add(post, alice, credentials).status == 200
    assert [(one.address, one.added_at) for one in stored.list_of(alice.user_id)] == [(ADDRESS, added_at)]


def test_a_crash_before_the_transaction_leaves_nothing_and_the_same_request_goes_on(post, mailbox, alice, monkeypatch):
    credentials = proved(mailbox, "add", ADDRESS)
    session = post("account/3pid/add", credentials, alice).json["session"]
    body = {**credentials, "auth": {**by_password(alice), "session": session}}

    def stop(transaction):
        raise RuntimeError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(Transaction, "commit", stop)
        assert post("account/3pid/add", body, alice).status == 500
    assert (addresses(alice), stored.user_of(EMAIL, ADDRESS)) == ([], None)
    assert post("account/3pid/add", body, alice).status == 200
    assert addresses(alice) == [ADDRESS]


# ── Removing ─────────────────────────────────────────────────────────────────


def test_a_removed_address_can_be_added_by_somebody_else(post, mailbox, alice, bob):
    add_address(mailbox, alice, ADDRESS)
    add_address(mailbox, alice, "second@example.com", "another")
    for _ in range(2):
        answer = post("account/3pid/delete", {"medium": "email", "address": "ALICE@example.com"}, alice)
        assert (answer.status, answer.json) == (200, {"id_server_unbind_result": "no-support"})
    assert addresses(alice) == ["second@example.com"]
    add_address(mailbox, bob, ADDRESS, "secret-of-bob")
    assert addresses(bob) == [ADDRESS]


def test_nobody_removes_the_address_of_somebody_else(post, mailbox, alice, bob):
    add_address(mailbox, alice, ADDRESS)
    answer = post("account/3pid/delete", {"medium": "email", "address": ADDRESS, "id_server": "id.example.com"}, bob)
    assert (answer.status, answer.json) == (200, {"id_server_unbind_result": "no-support"})
    assert (addresses(alice), stored.user_of(EMAIL, ADDRESS)) == ([ADDRESS], alice.user_id)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"address": ADDRESS}, "M_MISSING_PARAM"),
        ({"medium": "email"}, "M_MISSING_PARAM"),
        ({"medium": 5, "address": ADDRESS}, "M_BAD_JSON"),
        ({"medium": "email", "address": [ADDRESS]}, "M_BAD_JSON"),
        ({"medium": "email", "address": ADDRESS, "id_server": 5}, "M_BAD_JSON"),
        ({"medium": "pigeon", "address": ADDRESS}, "M_INVALID_PARAM"),
        ({"medium": "email", "address": "alice"}, "M_INVALID_PARAM"),
    ],
)
def test_a_removal_of_the_wrong_shape_is_refused(post, alice, body, errcode):
    answer = post("account/3pid/delete", body, alice)
    assert (answer.status, answer.errcode) == (400, errcode)


def test_the_end_of_an_account_frees_its_addresses_also_after_a_crash(post, mailbox, alice, bob, monkeypatch):
    add_address(mailbox, alice, ADDRESS)
    add_address(mailbox, alice, "second@example.com", "another")
    session = post("account/deactivate", {}, alice).json["session"]
    body = {"auth": {**by_password(alice), "session": session}}

    def stop(step):
        if step == "account.rooms_left":
            raise RuntimeError(step)

    with monkeypatch.context() as broken:
        broken.setattr(observability, "fault_hook", stop)
        assert post("account/deactivate", body, alice).status == 500
    assert len(stored.list_of(alice.user_id)) == 2
    assert post("account/deactivate", body, alice).status == 200
    assert (stored.list_of(alice.user_id), stored.user_of(EMAIL, ADDRESS)) == ([], None)
    add_address(mailbox, bob, ADDRESS, "secret-of-bob")


def test_no_address_is_added_to_an_account_that_is_ending(post, mailbox, alice):
    credentials = proved(mailbox, "add", ADDRESS)
    session = post("account/3pid/add", credentials, alice).json["session"]
    body = {**credentials, "auth": {**by_password(alice), "session": session}}

    commit = Transaction.commit

    def ended(transaction):
        Account(alice.user_id, ACCOUNT).update([Account.deactivating.set(True)])
        commit(transaction)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "commit", ended)
        answer = post("account/3pid/add", body, alice)
    assert (answer.status, answer.errcode) == (403, "M_USER_DEACTIVATED")
    assert stored.list_of(alice.user_id) == []


# ── In a registration ────────────────────────────────────────────────────────


@pytest.fixture
def by_mail(server, mailbox):
    server(REGISTRATION="open", REGISTRATION_FLOWS='[["m.login.email.identity"]]')


def register(checked, name, credentials=None, key="threepid_creds", session=None):
    body = {"username": name, "password": PASSWORD}
    if credentials is not None:
        body["auth"] = {"type": IDENTITY, key: credentials}
        if session is not None:
            body["auth"]["session"] = session
    return checked("client_login", "POST", f"{V3}/register", body)


@pytest.mark.parametrize("key", ["threepid_creds", "threepidCreds"])
def test_a_registration_by_mail_binds_the_address_that_was_proved(checked, mailbox, by_mail, key):
    asked = register(checked, "carol")
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": [IDENTITY]}])
    credentials = {"sid": sid_of("register", "carol@example.com"), "client_secret": "s3cret"}
    early = register(checked, "carol", credentials, key, asked.json["session"])
    assert (early.status, early.errcode, early.json["completed"]) == (401, "M_THREEPID_AUTH_FAILED", [])
    email_validation.submit_token(credentials["sid"], None, mailbox.token())
    done = register(checked, "carol", credentials, key, asked.json["session"])
    assert (done.status, done.json["user_id"]) == (200, "@carol:example.org")
    (threepid,) = stored.list_of("@carol:example.org")
    assert (threepid.medium, threepid.address) == ("email", "carol@example.com")
    assert validations.load(credentials["sid"]).claimed_by == "@carol:example.org"


def test_waiting_for_the_link_is_no_wrong_answer_and_wrong_ones_end_the_session(checked, mailbox, by_mail):
    session = register(checked, "carol").json["session"]
    credentials = {"sid": sid_of("register", "carol@example.com"), "client_secret": "s3cret"}
    for _ in range(6):
        assert register(checked, "carol", credentials, session=session).errcode == "M_THREEPID_AUTH_FAILED"
    wrong = credentials | {"client_secret": "wrong"}
    answers = [register(checked, "carol", wrong, session=session) for _ in range(5)]
    assert [answer.status for answer in answers] == [401, 401, 401, 401, 429]


@pytest.mark.parametrize(
    ("credentials", "errcode"),
    [
        (None, "M_MISSING_PARAM"),
        ("x", "M_BAD_JSON"),
        ({"sid": "x"}, "M_MISSING_PARAM"),
        ({"sid": "x", "client_secret": "ä"}, "M_INVALID_PARAM"),
    ],
)
def test_a_stage_with_credentials_of_the_wrong_shape_is_not_completed(checked, mailbox, by_mail, credentials, errcode):
    body = {"username": "carol", "password": PASSWORD, "auth": {"type": IDENTITY, "threepid_creds": credentials}}
    answer = checked("client_login", "POST", f"{V3}/register", body)
    assert (answer.status, answer.errcode) == (401, errcode)


def test_a_proof_makes_one_account_only(checked, mailbox, by_mail):
    credentials = proved(mailbox, "register", "carol@example.com")
    assert register(checked, "carol", credentials).status == 200
    again = register(checked, "dave", credentials)
    assert (again.status, again.errcode) == (401, "M_THREEPID_IN_USE")
    freed = Transaction()
    stored.remove(freed, "@carol:example.org", EMAIL, "carol@example.com")
    freed.commit()
    replayed = register(checked, "dave", credentials)
    assert (replayed.status, replayed.errcode) == (401, "M_THREEPID_AUTH_FAILED")
    assert load_account("@dave:example.org") is None


def test_a_proof_for_another_purpose_makes_no_account(checked, mailbox, by_mail):
    answer = register(checked, "carol", proved(mailbox, "add", "carol@example.com"))
    assert (answer.status, answer.errcode) == (401, "M_THREEPID_AUTH_FAILED")


def test_the_drafts_registration_takes_the_stage_and_binds_the_address_too(mailbox, by_mail, machine):
    place = ("client_login", "POST", "/_matrix/client/api/v1/register")
    credentials = proved(mailbox, "register", "carol@example.com")
    first = call(*place, {"type": IDENTITY, "threepidCreds": credentials})
    assert (first.status, first.json["next"]) == (200, "m.login.password")
    password = {"type": "m.login.password", "session": first.json["session"], "user": "carol", "password": PASSWORD}
    assert call(*place, password).json["user_id"] == "@carol:example.org"
    assert stored.user_of(EMAIL, "carol@example.com") == "@carol:example.org"
    used = call(*place, {"type": IDENTITY, "threepidCreds": credentials})
    assert (used.status, used.errcode) == (400, "M_THREEPID_IN_USE")


def test_an_address_that_was_added_elsewhere_in_between_makes_no_account(checked, alice, mailbox, by_mail, monkeypatch):
    credentials = proved(mailbox, "register", ADDRESS)
    of_alice = proved(mailbox, "add", ADDRESS, "secret-of-alice")
    commit, faster = Transaction.commit, []

    def overtaken(transaction):
        if not faster:
            faster.append("alice")
            threepids.add_validated(alice.user_id, {**of_alice, "auth": by_password(alice)}, Origin("192.0.2.2"))
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", overtaken)
    late = register(checked, "carol", credentials)
    assert (faster, late.status, late.errcode) == (["alice"], 400, "M_THREEPID_IN_USE")
    assert (load_account("@carol:example.org"), stored.user_of(EMAIL, ADDRESS)) == (None, alice.user_id)


# ── In a login ───────────────────────────────────────────────────────────────


def login(identifier, password=PASSWORD):
    return call("client_login", "POST", f"{V3}/login", {"type": "m.login.password", "password": password, **identifier})


def by_address(address, medium="email"):
    return {"identifier": {"type": "m.id.thirdparty", "medium": medium, "address": address}}


def test_a_user_logs_in_with_an_address_and_the_password(mailbox, alice):
    add_address(mailbox, alice, ADDRESS)
    for identifier in (by_address("Alice@Example.COM"), {"medium": "email", "address": ADDRESS}):
        answer = login(identifier)
        assert (answer.status, answer.json["user_id"]) == (200, alice.user_id)


@pytest.mark.parametrize(
    "identifier",
    [
        by_address("nobody@example.com"),
        by_address("not an address"),
        by_address("07700900001", "msisdn"),
        {"medium": "email", "address": "nobody@example.com"},
    ],
)
def test_an_address_that_nobody_has_is_answered_as_a_wrong_password(mailbox, alice, identifier):
    add_address(mailbox, alice, ADDRESS)
    wrong, unknown = login(by_address(ADDRESS), "wrong"), login(identifier)
    assert (wrong.status, wrong.errcode) == (403, "M_FORBIDDEN")
    assert (unknown.status, unknown.json) == (wrong.status, wrong.json)


@pytest.mark.parametrize(
    ("identifier", "errcode"),
    [
        ({"identifier": {"type": "m.id.thirdparty", "medium": "email"}}, "M_MISSING_PARAM"),
        ({"identifier": {"type": "m.id.thirdparty", "address": ADDRESS}}, "M_MISSING_PARAM"),
        (by_address(7), "M_BAD_JSON"),
        ({"medium": "email"}, "M_MISSING_PARAM"),
    ],
)
def test_an_address_of_the_wrong_shape_is_refused(identifier, errcode):
    answer = login(identifier)
    assert (answer.status, answer.errcode) == (400, errcode)


def test_a_guess_costs_the_same_work_whether_somebody_has_the_address_or_not(mailbox, server, alice, monkeypatch):
    add_address(mailbox, alice, ADDRESS)
    server(RATE_LIMITS="on")
    send, asked = StoreConnection._make_api_call, []

    def counted(connection, operation, arguments):
        asked.append((operation, arguments["TableName"]))
        return send(connection, operation, arguments)

    monkeypatch.setattr(StoreConnection, "_make_api_call", counted)
    work = []
    for address in (ADDRESS, "nobody@example.com"):
        asked.clear()
        assert login(by_address(address), "wrong").errcode == "M_FORBIDDEN"
        work.append(list(asked))
    assert work[0] == work[1] != []


@pytest.mark.parametrize("address", [ADDRESS, "nobody@example.com"])
def test_guesses_are_counted_for_every_address(mailbox, server, alice, address):
    add_address(mailbox, alice, ADDRESS)
    server(RATE_LIMITS="on")
    answers = [login(by_address(address), "wrong") for _ in range(11)]
    assert [answer.errcode for answer in answers] == ["M_FORBIDDEN"] * 10 + ["M_LIMIT_EXCEEDED"]
