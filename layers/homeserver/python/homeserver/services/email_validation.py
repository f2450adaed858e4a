"""Proof that somebody reads an e-mail address: a link is mailed to it, and following the link makes that known.

Source: client-server API v1.19, `/register/email/requestToken`, `/account/3pid/email/requestToken`,
`/account/password/email/requestToken` and, for what is at `submit_url`, identity service API,
`/validate/email/submitToken`.

A validation is for one purpose: who followed a link that said "add this address" has not agreed to a new password. Its
ID follows from purpose, client secret and address, so the same request finds the same validation and mails nothing new;
and whoever has the ID and the secret has asked for exactly this address.

As the specification wants it, a request tells whether an address is known here. So these questions are few for one
network address (rate_limits.take_mail_request).
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.email_address import normalised
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, MissingParam
from homeserver.observability import fault_point
from homeserver.services import login_flows, rate_limits
from homeserver.services.attempts import attempts
from homeserver.services.bodies import required_text
from homeserver.services.clock import now_ms
from homeserver.services.login_stages.stage import NotYet, Origin
from homeserver.services.mails import base_url, device_name, request_mail
from homeserver.storage import threepids, validations
from homeserver.storage.threepids import EMAIL
from homeserver.storage.validations import LIFE_SECONDS, Validation

Purpose = Literal["register", "add", "password"]
SUBMIT_PATH = "/_matrix/client/unstable/org.eigenserver/validate/email/submit_token"

_CLIENT_SECRET = re.compile(r"[0-9a-zA-Z.=_-]{1,255}", re.ASCII)
_LARGEST_ATTEMPT = 2**53 - 1
_LONGEST_LINK = 2000
_MAIL_OVERDUE_MS = 60_000  # a mail takes seconds; one that is not out by then may be asked for by the same request


@dataclass(frozen=True, slots=True)
class ValidationView:
    """What the page behind a mailed link shows before anything is confirmed. Times in milliseconds."""

    purpose: Purpose
    address: str
    asked_from: str
    device: str
    asked_at: int
    validated: bool


@dataclass(frozen=True, slots=True)
class ValidatedAddress:
    """An address that was proved. `claimed_by`: the user for whom the proof was used up."""

    sid: str
    address: str
    validated_at: int
    claimed_by: str | None


# ── Asking for a mail ───────────────────────────────────────────────────────────────────────────────


def request_token(purpose: Purpose, body: Mapping[str, Any], origin: Origin) -> dict[str, str]:
    """What the three `email/requestToken` endpoints do; the answer has `sid` and `submit_url`.

    A mail goes out for the first request, and for one with a greater `send_attempt` than all before. `id_server` is
    ignored, as the specification says of servers that validate themselves.
    Raises MissingParam, BadJson, InvalidParam, M_THREEPID_IN_USE, M_THREEPID_NOT_FOUND, LimitExceeded,
    M_THREEPID_DENIED (403: this server sends no mail), Forbidden (nobody can register).
    """
    secret = client_secret_of(body)
    address = _address(body)
    send_attempt, next_link = _send_attempt(body), _next_link(body)
    _check_offered(purpose)
    rate_limits.take_mail_request(origin.address)
    _check_address(purpose, address)
    sid = _sid(purpose, secret, address)
    asked = {
        "send_attempt": send_attempt,
        "next_link": next_link,
        "base_url": base_url(origin),
        "asked_from": origin.address,
        "device": device_name(origin.user_agent),
    }
    if _note(sid, purpose, address, asked):
        fault_point("email_validation.noted")
        request_mail("validation", sid, origin)
    return {"sid": sid, "submit_url": base_url(origin) + SUBMIT_PATH}


def refuse_phone_number(body: Mapping[str, Any]) -> NoReturn:
    """What the `msisdn/requestToken` endpoints do. Raises MissingParam, BadJson, InvalidParam for a wrong body.

    Always raises M_THREEPID_MEDIUM_NOT_SUPPORTED: this server sends no text messages.
    """
    client_secret_of(body)
    for name in ("country", "phone_number"):
        required_text(body, name)
    _send_attempt(body)
    _next_link(body)
    raise MatrixError("This server knows no phone numbers.", errcode="M_THREEPID_MEDIUM_NOT_SUPPORTED")


def client_secret_of(body: Mapping[str, Any]) -> str:
    """`client_secret` of a body. Raises MissingParam, BadJson, InvalidParam."""
    secret = required_text(body, "client_secret")
    if not _CLIENT_SECRET.fullmatch(secret):
        raise InvalidParam("client_secret has between 1 and 255 of the characters 0-9, a-z, A-Z and .=_-")
    return secret


def _address(body: Mapping[str, Any]) -> str:
    try:
        return normalised(required_text(body, "email"))
    except ValueError as error:
        raise InvalidParam(str(error)) from None


def _send_attempt(body: Mapping[str, Any]) -> int:
    attempt = body.get("send_attempt")
    if attempt is None:
        raise MissingParam("send_attempt is required.")
    if not isinstance(attempt, int) or isinstance(attempt, bool):
        raise BadJson("send_attempt must be an integer.")
    if not 0 <= attempt <= _LARGEST_ATTEMPT:
        raise InvalidParam(f"send_attempt must be from 0 to {_LARGEST_ATTEMPT}.")
    return attempt


def _next_link(body: Mapping[str, Any]) -> str | None:
    link = body.get("next_link")
    if link is None:
        return None
    if not isinstance(link, str):
        raise BadJson("next_link must be a string.")
    # Shown as a link on a page of this server: nothing that runs there (javascript:), and nothing unprintable.
    if len(link) > _LONGEST_LINK or not link.isascii() or not link.isprintable() or " " in link or "\\" in link:
        raise InvalidParam("next_link must be an address as it stands in a browser.")
    try:
        parts = urlsplit(link)
    except ValueError:
        raise InvalidParam("next_link is no address.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise InvalidParam("next_link must begin with https:// or http://")
    return link


def _check_offered(purpose: Purpose) -> None:
    if not login_flows.has_mail():
        raise Forbidden("This server sends no mail.", errcode="M_THREEPID_DENIED")
    if purpose == "register":
        flows = login_flows.registration_flows()
        if not flows:
            raise Forbidden("Nobody can register on this server.")
        if not any(login_flows.EMAIL_IDENTITY in flow for flow in flows):
            raise Forbidden("New accounts of this server have no e-mail address.", errcode="M_THREEPID_DENIED")


def _check_address(purpose: Purpose, address: str) -> None:
    known = threepids.user_of(EMAIL, address) is not None
    if purpose == "password" and not known:
        raise MatrixError("No account has this e-mail address.", errcode="M_THREEPID_NOT_FOUND")
    if purpose != "password" and known:
        raise in_use()


def in_use() -> MatrixError:
    """The address belongs to an account already."""
    return MatrixError("This e-mail address belongs to an account already.", errcode="M_THREEPID_IN_USE")


def _sid(purpose: str, secret: str, address: str) -> str:
    return token_hash(f"{purpose} {secret} {address}")


def _note(sid: str, purpose: Purpose, address: str, asked: dict[str, Any]) -> bool:
    """Store what was asked for; whether there is a mail to send."""
    allowed = False
    for _ in attempts("This address"):
        found = validations.load(sid)
        if found is not None and not _wants_mail(found, asked["send_attempt"]):
            return False
        if not allowed:
            rate_limits.take_mail_to(address)
            allowed = True
        now = now_ms()
        times = {"asked": now, "expires": now // 1000 + LIFE_SECONDS}
        if found is None:
            fresh = Validation(validations.key_of(sid), purpose=purpose, address=address, created=now, tokens=[])
            for name, value in {**asked, **times}.items():
                setattr(fresh, name, value)
            if validations.create(fresh):
                return True
        else:
            used: dict[str, Any] = {"claimed_by": None, "validated_at": None, "mailed": None, "tokens": []}
            if validations.change(found, {**asked, **times, **(used if found.claimed_by is not None else {})}):
                return True
    raise AssertionError("unreachable: attempts() raises")


def _wants_mail(found: Validation, send_attempt: int) -> bool:
    if found.claimed_by is not None:
        return True  # used up: the client begins anew
    if found.validated_at is not None or send_attempt < found.send_attempt:
        return False
    if send_attempt > found.send_attempt:
        return True
    return found.mailed != found.send_attempt and now_ms() - found.asked > _MAIL_OVERDUE_MS


# ── Following the link ──────────────────────────────────────────────────────────────────────────────


def look(sid: str, token: str) -> ValidationView:
    """What a mailed link is about. Changes nothing. Raises what submit_token does."""
    found = _with_token(sid, token)
    return ValidationView(
        found.purpose,  # type: ignore[arg-type]  # the attribute is text; its values are those of Purpose
        found.address,
        found.asked_from,
        found.device,
        int(found.asked),
        found.validated_at is not None,
    )


def submit_token(sid: str, client_secret: str | None, token: str) -> str | None:
    """Confirm that whoever has the token reads the address. Returns the link to show next, if there is one.

    `client_secret`: None where a person follows the link, whose browser does not know it. Can be repeated.
    Raises M_SESSION_EXPIRED, M_TOKEN_INCORRECT, InvalidParam (another client's secret).
    """
    for _ in attempts("This address"):
        found = _with_token(sid, token)
        if client_secret is not None and not _is_of(found, client_secret):
            raise InvalidParam("This is not the client_secret of the session.")
        if found.validated_at is not None or validations.change(found, {"validated_at": now_ms()}):
            return found.next_link
    raise AssertionError("unreachable: attempts() raises")


def submit_from_client(body: Mapping[str, Any], address: str) -> None:
    """What a JSON POST to `submit_url` does, from a network address. Raises what submit_token does, LimitExceeded."""
    sid, secret, token = required_text(body, "sid"), client_secret_of(body), required_text(body, "token")
    rate_limits.take_question(address)
    submit_token(sid, secret, token)


def _with_token(sid: str, token: str) -> Validation:
    found = validations.load(sid)
    if found is None:
        raise MatrixError("The session is unknown or has expired: ask for a new mail.", errcode="M_SESSION_EXPIRED")
    given = token_hash(token).encode()
    if not any(hmac.compare_digest(known.encode(), given) for known in found.tokens):
        raise MatrixError("This is not the token that was mailed.", errcode="M_TOKEN_INCORRECT")
    return found


def _is_of(found: Validation, client_secret: str) -> bool:
    return hmac.compare_digest(_sid(found.purpose, client_secret, found.address).encode(), found.sid.encode())


# ── Using the proof ─────────────────────────────────────────────────────────────────────────────────


def validated(credentials: Mapping[str, Any], purpose: Purpose) -> ValidatedAddress:
    """The address that `sid` and `client_secret` prove, for this purpose.

    Raises MissingParam, BadJson, InvalidParam, NotYet (M_THREEPID_AUTH_FAILED: nobody followed the link), Forbidden
    (M_THREEPID_AUTH_FAILED: there is no such session of this client and purpose).
    """
    sid, secret = required_text(credentials, "sid"), client_secret_of(credentials)
    found = validations.load(sid)
    if found is None or found.purpose != purpose or not _is_of(found, secret):
        raise auth_failed()
    if found.validated_at is None:
        raise NotYet("The link in the mail was not followed yet.", errcode="M_THREEPID_AUTH_FAILED", status=403)
    return ValidatedAddress(sid, found.address, int(found.validated_at), found.claimed_by)


def auth_failed() -> Forbidden:
    """There is no proof, or it was used up."""
    return Forbidden("The e-mail address was not validated for this.", errcode="M_THREEPID_AUTH_FAILED")
