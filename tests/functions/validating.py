"""Validations of e-mail addresses, as a client and the person at it go through them."""

from typing import Any

from functions.harness import Answer, User, call
from functions.mailbox import Mailbox
from homeserver.services import email_validation

V3 = "/_matrix/client/v3"
PLACES = {
    "register": ("client_login", f"{V3}/register/email/requestToken"),
    "add": ("client_account", f"{V3}/account/3pid/email/requestToken"),
    "password": ("client_account", f"{V3}/account/password/email/requestToken"),
}
IDENTITY = "m.login.email.identity"


def request_body(address: str, secret: str = "s3cret", attempt: int = 1, **more: Any) -> dict[str, Any]:
    """What a client sends to ask for a mail."""
    return {"client_secret": secret, "email": address, "send_attempt": attempt, **more}


def ask(purpose: str, address: str, secret: str = "s3cret", attempt: int = 1, **more: Any) -> Answer:
    """Ask for a mail."""
    function, path = PLACES[purpose]
    return call(function, "POST", path, request_body(address, secret, attempt, **more))


def sid_of(purpose: str, address: str, secret: str = "s3cret") -> str:
    """The session of a mail that was asked for."""
    answer = ask(purpose, address, secret)
    assert answer.status == 200, answer.json
    sid: str = answer.json["sid"]
    return sid


def proved(mailbox: Mailbox, purpose: str, address: str, secret: str = "s3cret") -> dict[str, str]:
    """Credentials of an address whose mail was asked for and whose link was followed."""
    sid = sid_of(purpose, address, secret)
    email_validation.submit_token(sid, None, mailbox.token(to=address.lower()))
    return {"sid": sid, "client_secret": secret}


def by_password(user: User) -> dict[str, Any]:
    """The stage that asks for the password."""
    identifier = {"type": "m.id.user", "user": user.user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": user.password}


def add_address(mailbox: Mailbox, user: User, address: str, secret: str = "s3cret") -> dict[str, str]:
    """Add an address to an account; the credentials that did it."""
    credentials = proved(mailbox, "add", address, secret)
    body = {**credentials, "auth": by_password(user)}
    answer = call("client_account", "POST", f"{V3}/account/3pid/add", body, token=user.token)
    assert answer.status == 200, answer.json
    return credentials


def addresses(user: User) -> list[str]:
    """The addresses that an account is listed with."""
    answer = call("client_account", "GET", f"{V3}/account/3pid", token=user.token)
    return [threepid["address"] for threepid in answer.json["threepids"]]
