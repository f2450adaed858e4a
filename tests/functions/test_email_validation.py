"""Validations of e-mail addresses: asking for the mail, what is in it, following its link."""

import html
import json
import logging
import re
import time
from urllib.parse import urlencode

import pytest

from functions.harness import call, http_event, invoke
from functions.mailbox import text_of
from functions.validating import PLACES, V3, add_address, ask, request_body, sid_of
from homeserver import observability
from homeserver.adapters import aws
from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import MatrixError
from homeserver.services import email_validation
from homeserver.settings import table_name
from homeserver.storage import validations
from homeserver.storage.connection import Transaction, TransactionCancelled

FLOWS = '[["m.login.email.identity"]]'
MSISDN = [
    ("client_login", f"{V3}/register/msisdn/requestToken"),
    ("client_account", f"{V3}/account/3pid/msisdn/requestToken"),
    ("client_account", f"{V3}/account/password/msisdn/requestToken"),
]


@pytest.fixture
def ready(server, mailbox, alice):
    """A server with mail on which every purpose can be asked for; Alice has the address alice@example.com."""
    server(REGISTRATION_FLOWS=FLOWS)
    add_address(mailbox, alice, "alice@example.com")
    mailbox.mails.clear()
    mailbox.events.clear()
    return {"register": "new@example.com", "add": "new@example.com", "password": "alice@example.com"}


def refusal(action, *arguments):
    with pytest.raises(MatrixError) as refused:
        action(*arguments)
    return refused.value.status, refused.value.errcode


# ── Asking ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("purpose", PLACES)
@pytest.mark.parametrize("version", ["r0", "v3"])
def test_a_mail_with_a_link_is_sent_and_the_session_is_told(checked, ready, mailbox, purpose, version):
    function, path = PLACES[purpose]
    body = request_body(ready[purpose].upper())
    answer = checked(function, "POST", path.replace("v3", version), body)
    assert answer.status == 200
    assert set(answer.json) == {"sid", "submit_url"}
    assert re.fullmatch(r"[0-9a-zA-Z.=_-]{1,255}", answer.json["sid"])
    (mail,) = mailbox.mails
    assert mail["To"] == ready[purpose]
    link = mailbox.link()
    assert link.startswith(f"{answer.json['submit_url']}?sid={answer.json['sid']}&token=")
    assert mailbox.token() in text_of(mail).replace(link, "")
    assert link.replace("&", "&amp;") in mailbox.html()


@pytest.mark.parametrize(
    ("purpose", "words"),
    [("register", "make an account"), ("add", "add the address"), ("password", "set a new password for the account")],
)
def test_a_mail_says_what_it_is_for_and_who_asked(ready, mailbox, purpose, words):
    function, path = PLACES[purpose]
    agent = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"}
    call(function, "POST", path, request_body(ready[purpose]), headers=agent, address="198.51.100.7")
    text = mailbox.text()
    assert words in text
    assert "Firefox on Linux" in text
    assert "198.51.100.7" in text
    assert ("@alice:example.org" in text) == (purpose == "password")


BAD = [
    ({"client_secret": None}, "M_MISSING_PARAM"),
    ({"client_secret": 5}, "M_BAD_JSON"),
    ({"client_secret": ""}, "M_INVALID_PARAM"),
    ({"client_secret": "a" * 256}, "M_INVALID_PARAM"),
    ({"client_secret": "a b"}, "M_INVALID_PARAM"),
    ({"client_secret": "a\n"}, "M_INVALID_PARAM"),
    ({"client_secret": "ä"}, "M_INVALID_PARAM"),
    ({"send_attempt": None}, "M_MISSING_PARAM"),
    ({"send_attempt": "1"}, "M_BAD_JSON"),
    ({"send_attempt": True}, "M_BAD_JSON"),
    ({"send_attempt": 1.5}, "M_BAD_JSON"),
    ({"send_attempt": -1}, "M_INVALID_PARAM"),
    ({"send_attempt": 2**53}, "M_INVALID_PARAM"),
    ({"next_link": 7}, "M_BAD_JSON"),
    ({"next_link": "javascript:alert(1)"}, "M_INVALID_PARAM"),
    ({"next_link": "data:text/html,x"}, "M_INVALID_PARAM"),
    ({"next_link": "/relative"}, "M_INVALID_PARAM"),
    ({"next_link": "//example.com/x"}, "M_INVALID_PARAM"),
    ({"next_link": "https:///x"}, "M_INVALID_PARAM"),
    ({"next_link": "https://[::1"}, "M_INVALID_PARAM"),
    ({"next_link": "https://user:word@example.com/"}, "M_INVALID_PARAM"),
    ({"next_link": "https://example.com/\r\nX: y"}, "M_INVALID_PARAM"),
    ({"next_link": "https://example.com\\@evil.example"}, "M_INVALID_PARAM"),
    ({"next_link": "https://example.com/" + "x" * 2000}, "M_INVALID_PARAM"),
]
BAD_ADDRESSES = [
    ({"email": None}, "M_MISSING_PARAM"),
    ({"email": ["a@example.com"]}, "M_BAD_JSON"),
    ({"email": "nobody"}, "M_INVALID_PARAM"),
    ({"email": "a@example.com\r\nBcc: b@example.com"}, "M_INVALID_PARAM"),
    ({"email": "a@bücher.example"}, "M_INVALID_PARAM"),
]


@pytest.mark.parametrize("purpose", PLACES)
def test_what_cannot_be_used_is_refused_and_nothing_is_mailed(checked, ready, mailbox, purpose):
    function, path = PLACES[purpose]
    for change, errcode in [*BAD, *BAD_ADDRESSES]:
        answer = checked(function, "POST", path, request_body(ready[purpose]) | change)
        assert (answer.status, answer.errcode) == (400, errcode), change
    assert mailbox.events == []


@pytest.mark.parametrize(("purpose", "errcode"), [("register", "M_THREEPID_IN_USE"), ("add", "M_THREEPID_IN_USE")])
def test_an_address_that_an_account_has_is_refused(checked, ready, mailbox, purpose, errcode):
    function, path = PLACES[purpose]
    answer = checked(function, "POST", path, request_body("Alice@Example.com"))
    assert (answer.status, answer.errcode, mailbox.events) == (400, errcode, [])


def test_no_password_is_reset_by_an_address_that_nobody_has(checked, ready, mailbox):
    function, path = PLACES["password"]
    answer = checked(function, "POST", path, request_body("new@example.com"))
    assert (answer.status, answer.errcode, mailbox.events) == (400, "M_THREEPID_NOT_FOUND", [])


@pytest.mark.parametrize("purpose", PLACES)
def test_a_server_without_mail_says_so(checked, server, purpose):
    function, path = PLACES[purpose]
    answer = checked(function, "POST", path, request_body("new@example.com"))
    assert (answer.status, answer.errcode) == (403, "M_THREEPID_DENIED")


@pytest.mark.parametrize(
    ("settings", "errcode"),
    [({"REGISTRATION": "closed"}, "M_FORBIDDEN"), ({"REGISTRATION_FLOWS": ""}, "M_THREEPID_DENIED")],
)
def test_no_mail_is_sent_for_a_registration_that_has_no_place_for_it(checked, server, mailbox, settings, errcode):
    server(**settings)
    function, path = PLACES["register"]
    answer = checked(function, "POST", path, request_body("new@example.com"))
    assert (answer.status, answer.errcode, mailbox.events) == (403, errcode, [])


@pytest.mark.parametrize(("function", "path"), MSISDN)
def test_phone_numbers_are_not_supported_and_the_body_is_looked_at_all_the_same(checked, mailbox, function, path):
    body = {"client_secret": "s3cret", "country": "GB", "phone_number": "07700900001", "send_attempt": 1}
    answer = checked(function, "POST", path, body)
    assert (answer.status, answer.errcode) == (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
    for name in body:
        missing = checked(function, "POST", path, {key: value for key, value in body.items() if key != name})
        assert (missing.status, missing.errcode) == (400, "M_MISSING_PARAM")


@pytest.mark.parametrize(
    ("function", "path"),
    [("client_login", "register"), ("client_account", "account/3pid"), ("client_account", "account/password")],
)
def test_another_medium_or_method_is_no_endpoint(call, function, path):
    other = call(function, "POST", f"{V3}/{path}/pigeon/requestToken", {})
    assert (other.status, other.errcode) == (404, "M_UNRECOGNIZED")
    wrong = call(function, "GET", f"{V3}/{path}/email/requestToken")
    assert (wrong.status, wrong.errcode) == (405, "M_UNRECOGNIZED")


# ── Asking again ─────────────────────────────────────────────────────────────


def test_the_same_request_finds_its_session_and_mails_nothing_new(ready, mailbox):
    first, again, less = (ask("add", "new@example.com", attempt=attempt) for attempt in (2, 2, 1))
    assert first.json == again.json == less.json
    assert len(mailbox.mails) == 1


def test_a_greater_send_attempt_sends_another_mail_and_both_links_are_good(ready, mailbox):
    sid = ask("add", "new@example.com").json["sid"]
    first = mailbox.token()
    assert ask("add", "new@example.com", attempt=2).json["sid"] == sid
    second = mailbox.token()
    assert first != second
    assert not email_validation.look(sid, first).validated
    assert not email_validation.look(sid, second).validated


def test_another_secret_address_or_purpose_is_another_session(ready, mailbox):
    sids = [
        sid_of("add", "new@example.com"),
        sid_of("add", "new@example.com", "other"),
        sid_of("add", "newer@example.com"),
        sid_of("register", "new@example.com"),
    ]
    assert len(set(sids)) == len(mailbox.mails) == 4


def test_no_mail_follows_once_the_link_was_followed(ready, mailbox):
    sid = sid_of("add", "new@example.com")
    email_validation.submit_token(sid, None, mailbox.token())
    assert ask("add", "new@example.com", attempt=2).json["sid"] == sid
    assert len(mailbox.mails) == 1


def test_a_mail_that_was_never_asked_for_because_of_a_crash_is_asked_for_by_the_same_request_a_minute_later(
    ready, mailbox, monkeypatch
):
    def stop(step):
        if step == "email_validation.noted":
            raise RuntimeError(step)

    monkeypatch.setattr(observability, "fault_hook", stop)
    assert ask("add", "new@example.com").status == 500
    monkeypatch.setattr(observability, "fault_hook", None)
    assert ask("add", "new@example.com").status == 200
    assert mailbox.events == []
    later = email_validation.now_ms() + 61_000
    monkeypatch.setattr(email_validation, "now_ms", lambda: later)
    assert ask("add", "new@example.com").status == 200
    assert len(mailbox.mails) == 1


def test_a_mail_that_went_out_is_not_sent_again_when_its_event_comes_again(ready, mailbox):
    ask("add", "new@example.com")
    assert mailbox.run() is False
    assert len(mailbox.mails) == 1


def test_a_mail_that_failed_is_sent_by_the_next_try_and_its_link_is_good(ready, mailbox):
    mailbox.hold()
    sid = sid_of("add", "new@example.com")
    mailbox.fails.append(lambda: (503, {"__type": "ServiceUnavailable", "message": "later"}))
    with pytest.raises(Exception, match="ServiceUnavailable"):
        mailbox.run()
    mailbox.fails.clear()
    mailbox.deliver()
    assert len(mailbox.mails) == 1
    email_validation.submit_token(sid, "s3cret", mailbox.token())
    assert len(validations.load(sid).tokens) == 2


def test_no_mail_goes_to_an_address_that_found_an_account_in_between(bob, ready, mailbox):
    mailbox.hold()
    ask("add", "new@example.com", "secret-of-alice")
    mailbox.deliver()
    mailbox.mails.clear()
    mailbox.hold()
    ask("add", "new@example.com", "secret-of-alice", attempt=2)
    sid = sid_of("add", "new@example.com", "secret-of-bob")
    mailbox.run()
    email_validation.submit_token(sid, None, mailbox.token())
    body = {"sid": sid, "client_secret": "secret-of-bob"}
    auth = {"type": "m.login.password", "user": "bob", "password": bob.password}
    added = call("client_account", "POST", f"{V3}/account/3pid/add", body | {"auth": auth}, token=bob.token)
    assert added.status == 200
    mailbox.mails.clear()
    mailbox.deliver()
    assert mailbox.mails == []


# ── Limits ───────────────────────────────────────────────────────────────────


def test_questions_whether_an_address_is_known_are_few_for_one_network_address(ready, server):
    server(RATE_LIMITS="on")
    answers = [ask("password", f"guess{number}@example.com") for number in range(11)]
    assert [answer.errcode for answer in answers] == ["M_THREEPID_NOT_FOUND"] * 10 + ["M_LIMIT_EXCEEDED"]
    assert (answers[-1].status, answers[-1].json["retry_after_ms"] > 0) == (429, True)
    function, path = PLACES["password"]
    other = call(function, "POST", path, request_body("guess@example.com"), address="198.51.100.9")
    assert other.errcode == "M_THREEPID_NOT_FOUND"


def test_nobody_is_flooded_with_mails_whoever_asks(ready, server, mailbox):
    server(RATE_LIMITS="on")
    function, path = PLACES["add"]
    statuses = [
        call(function, "POST", path, request_body("new@example.com", f"s{n}"), address=f"198.51.100.{n}").status
        for n in range(5)
    ]
    assert (statuses, len(mailbox.mails)) == ([200, 200, 200, 429, 429], 3)


# ── Following the link ───────────────────────────────────────────────────────


def test_looking_at_the_page_shows_who_asked_and_confirms_nothing(ready, mailbox):
    function, path = PLACES["add"]
    before = email_validation.now_ms()
    agent = {"user-agent": "curl/8.0"}
    answer = call(function, "POST", path, request_body("new@example.com"), headers=agent, address="198.51.100.7")
    sid, token = answer.json["sid"], mailbox.token()
    view = email_validation.look(sid, token)
    assert (view.purpose, view.address, view.asked_from, view.device) == (
        "add",
        "new@example.com",
        "198.51.100.7",
        "curl",
    )
    assert before <= view.asked_at <= email_validation.now_ms()
    assert view.validated is False
    assert email_validation.look(sid, token).validated is False
    credentials = {"sid": sid, "client_secret": "s3cret"}
    assert refusal(email_validation.validated, credentials, "add") == (403, "M_THREEPID_AUTH_FAILED")


def test_confirming_validates_the_address_and_names_the_next_link(ready, mailbox):
    link = "https://app.example.com/#/done?x=1"
    sid = ask("add", "new@example.com", next_link=link).json["sid"]
    assert email_validation.submit_token(sid, None, mailbox.token()) == link
    assert email_validation.submit_token(sid, None, mailbox.token()) == link
    proof = email_validation.validated({"sid": sid, "client_secret": "s3cret"}, "add")
    assert (proof.sid, proof.address, proof.claimed_by) == (sid, "new@example.com", None)
    assert email_validation.look(sid, mailbox.token()).validated is True


def test_a_client_confirms_with_the_token_that_a_person_typed(ready, mailbox):
    sid = sid_of("add", "new@example.com")
    body = {"sid": sid, "client_secret": "s3cret", "token": mailbox.token()}
    for name in body:
        wrong = {key: value for key, value in body.items() if key != name}
        assert refusal(email_validation.submit_from_client, wrong, "192.0.2.1") == (400, "M_MISSING_PARAM")
    other = {**body, "client_secret": "another"}
    assert refusal(email_validation.submit_from_client, other, "192.0.2.1") == (400, "M_INVALID_PARAM")
    assert validations.load(sid).validated_at is None
    email_validation.submit_from_client(body, "192.0.2.1")
    assert validations.load(sid).validated_at is not None


def test_the_link_shows_a_page_whose_button_confirms(ready, mailbox):
    link = "https://app.example.com/?a=<b>&c"
    sid = ask("add", "new@example.com", next_link=link).json["sid"]
    place = mailbox.link().removeprefix("https://").partition("/")[2]
    shown = call("client_login_pages", "GET", f"/{place}")
    assert (shown.status, "new@example.com" in shown.json) == (200, True)
    assert validations.load(sid).validated_at is None
    body = urlencode({"sid": sid, "token": mailbox.token()})
    event = http_event("POST", email_validation.SUBMIT_PATH, body)
    event["headers"]["content-type"] = "application/x-www-form-urlencoded"
    done = invoke("client_login_pages", event)
    assert (done.status, html.escape(link) in done.json, link in done.json) == (200, True, False)
    assert validations.load(sid).validated_at is not None


def test_a_client_confirms_at_the_address_that_it_was_told(ready, mailbox):
    answer = ask("add", "new@example.com")
    place = "/" + answer.json["submit_url"].removeprefix("https://").partition("/")[2]
    body = {"sid": answer.json["sid"], "client_secret": "s3cret", "token": "wrong"}
    wrong = call("client_login_pages", "POST", place, body)
    assert (wrong.status, wrong.errcode) == (400, "M_TOKEN_INCORRECT")
    assert call("client_login_pages", "POST", place, {}).errcode == "M_MISSING_PARAM"
    right = call("client_login_pages", "POST", place, body | {"token": mailbox.token()})
    assert (right.status, right.json) == (200, {"success": True})


def test_a_wrong_token_and_one_of_another_session_confirm_nothing(ready, mailbox):
    other = sid_of("add", "other@example.com")
    others_token = mailbox.token()
    sid = sid_of("add", "new@example.com")
    for token in ("wrong", "", others_token):
        assert refusal(email_validation.submit_token, sid, None, token) == (400, "M_TOKEN_INCORRECT")
        assert refusal(email_validation.look, sid, token) == (400, "M_TOKEN_INCORRECT")
    assert validations.load(sid).validated_at is None
    assert validations.load(other).validated_at is None


def test_a_session_that_nobody_has_or_that_has_expired_is_unknown(ready, mailbox, monkeypatch):
    for sid in ("", "x", "x" * 43, "x" * 300, "nonce/x", "\ud800"):
        assert refusal(email_validation.look, sid, "token") == (400, "M_SESSION_EXPIRED")
    sid, now = sid_of("add", "new@example.com"), time.time()
    assert validations.load(sid).expires == pytest.approx(now + 86_400, abs=5)
    monkeypatch.setattr(time, "time", lambda: now + 86_500)
    assert refusal(email_validation.look, sid, mailbox.token()) == (400, "M_SESSION_EXPIRED")
    credentials = {"sid": sid, "client_secret": "s3cret"}
    assert refusal(email_validation.validated, credentials, "add") == (403, "M_THREEPID_AUTH_FAILED")


def test_an_expired_session_that_is_still_stored_gives_way_to_a_new_one(ready, mailbox, monkeypatch):
    sid, old = sid_of("add", "new@example.com"), mailbox.token()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_500)
    monkeypatch.setattr(email_validation, "now_ms", lambda: int((now + 86_500) * 1000))
    assert ask("add", "new@example.com").json["sid"] == sid
    assert len(mailbox.mails) == 2
    assert refusal(email_validation.look, sid, old) == (400, "M_TOKEN_INCORRECT")
    assert email_validation.look(sid, mailbox.token()).validated is False


@pytest.mark.parametrize(
    ("change", "purpose", "expected"),
    [
        ({"client_secret": "another"}, "add", (403, "M_THREEPID_AUTH_FAILED")),
        ({"sid": "unknown"}, "add", (403, "M_THREEPID_AUTH_FAILED")),
        ({}, "register", (403, "M_THREEPID_AUTH_FAILED")),
        ({}, "password", (403, "M_THREEPID_AUTH_FAILED")),
        ({"client_secret": "a b"}, "add", (400, "M_INVALID_PARAM")),
        ({"sid": None}, "add", (400, "M_MISSING_PARAM")),
        ({"sid": 5}, "add", (400, "M_BAD_JSON")),
    ],
)
def test_a_proof_is_good_for_its_client_and_its_purpose_only(ready, mailbox, change, purpose, expected):
    sid = sid_of("add", "new@example.com")
    email_validation.submit_token(sid, None, mailbox.token())
    credentials = {"sid": sid, "client_secret": "s3cret"} | change
    assert refusal(email_validation.validated, credentials, purpose) == expected


# ── Secrets ──────────────────────────────────────────────────────────────────


def test_tokens_and_client_secrets_are_nowhere_but_in_the_mail(ready, mailbox, caplog, capfd):
    caplog.set_level(logging.DEBUG, "homeserver")
    sid = sid_of("add", "new@example.com", "a-secret-of-the-client")
    token = mailbox.token()
    email_validation.submit_token(sid, "a-secret-of-the-client", token)
    stored = json.dumps(aws.client("dynamodb").scan(TableName=table_name("SESSIONS"))["Items"])
    assert token_hash(token) in stored
    written = capfd.readouterr()
    for secret in (token, "a-secret-of-the-client"):
        assert secret not in stored
        assert secret not in caplog.text + written.out + written.err
        assert secret not in json.dumps(mailbox.events)


# ── Using the proof up ───────────────────────────────────────────────────────


def claims(sid, user_id):
    transaction = Transaction()
    validations.claim(transaction, sid, user_id)
    try:
        transaction.commit()
    except TransactionCancelled as lost:
        if lost.failed("validation"):
            return False
        raise
    return True


def test_a_proof_is_used_up_for_one_user_who_may_repeat_it(ready, mailbox):
    sid = sid_of("add", "new@example.com")
    assert not claims(sid, "@alice:example.org")  # nobody followed the link
    email_validation.submit_token(sid, None, mailbox.token())
    assert claims(sid, "@alice:example.org")
    assert claims(sid, "@alice:example.org")
    assert not claims(sid, "@bob:example.org")
    assert validations.load(sid).claimed_by == "@alice:example.org"


def test_a_proof_that_has_expired_or_was_removed_cannot_be_used(ready, mailbox, monkeypatch):
    sid, now = sid_of("add", "new@example.com"), time.time()
    email_validation.submit_token(sid, None, mailbox.token())
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: now + 86_500)
        assert not claims(sid, "@alice:example.org")
    removal = Transaction()
    validations.remove(removal, sid)
    removal.commit()
    assert not claims(sid, "@alice:example.org")
    assert not claims("x" * 43, "@alice:example.org")


def test_a_proof_that_was_used_up_is_asked_for_anew_with_the_same_secret(ready, mailbox):
    sid = sid_of("add", "new@example.com")
    email_validation.submit_token(sid, None, mailbox.token())
    old = mailbox.token()
    assert claims(sid, "@alice:example.org")
    assert sid_of("add", "new@example.com") == sid
    assert (len(mailbox.mails), validations.load(sid).claimed_by, validations.load(sid).validated_at) == (2, None, None)
    assert refusal(email_validation.look, sid, old) == (400, "M_TOKEN_INCORRECT")
