"""Mails of logins and registrations: the code or the link that a stage waits for.

Runs in `mail_worker`, which is where it is decided whether an address gets a mail: whoever asks for one cannot tell. An
address that gets none has its session changed all the same, by a secret that nobody ever hears of, so that to look at
a code costs the same work.

An event may come more than once, and a worker may end between any two steps. So what is to be mailed is counted in the
session: `asked` by the stage, `sent` here. Whoever writes a mail claims it first; the claim of one that ended runs out
before Lambda tries again. Then a second code is made, and the first one, which may have been mailed, stays right.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from homeserver.services import mails
from homeserver.services.clock import now_ms
from homeserver.services.login_flows import EMAIL_CODE, EMAIL_URL
from homeserver.services.login_stages.stage import Origin
from homeserver.services.mails import Mail
from homeserver.services.passwords import hash_password
from homeserver.storage import mail_tokens, sessions, threepids
from homeserver.storage.sessions import Session

VALID_SECONDS = 10 * 60  # of codes and links
CONFIRM_PATH = "/_matrix/client/api/v1/login/email/confirm"
_CLAIM_MS = 45_000  # longer than the worker runs, shorter than Lambda waits before it tries again
_CODES_KEPT = 4
_RACES = 8


class MailInWork(Exception):
    """Another worker is sending this mail at the moment. Worth another try: it may fail."""


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A mail that this worker is to send: the `number`th of a session's stage."""

    session: Session
    stage_type: str
    pending: Mapping[str, Any]
    number: int
    seconds: int  # for which it is valid
    role: "Role"


# proof: the mail with the code or link. taken: a note that the address has an account. nobody: no mail.
Role = Literal["proof", "taken", "nobody"]


def prepare_code(session_id: str, origin: Origin) -> Mail | None:
    """The mail with the code of a session, once its hash is stored; None if there is none to send."""
    # Eight digits, since the hash stands in the session's item: 10^8 tries of argon2id take longer than the code lives.
    code = f"{secrets.randbelow(10**8):08}"

    def kept(role: Role, pending: Mapping[str, Any], until: int) -> dict[str, Any]:
        hashed = hash_password(code if role == "proof" else secrets.token_urlsafe(32))
        return {"codes": [*pending["codes"], {"hash": hashed, "until": until}][-_CODES_KEPT:]}

    claimed = _claim(session_id, EMAIL_CODE, kept)
    return _mail(claimed, "code", {"code": code}) if claimed is not None else None


def prepare_link(session_id: str, origin: Origin) -> Mail | None:
    """The mail with the link of a session, once its token's hash is stored; None if there is none to send."""
    claimed = _claim(session_id, EMAIL_URL, lambda *_: {})
    if claimed is None:
        return None
    if claimed.role != "proof":
        return _mail(claimed, "link", {})
    token = secrets.token_urlsafe(32)
    mail_tokens.create(
        token,
        waiting=session_id,
        seconds=claimed.seconds,
        address=origin.address,
        device=mails.device_name(origin.user_agent),
    )
    return _mail(claimed, "link", {"link": f"{mails.base_url(origin)}{CONFIRM_PATH}?token={token}"})


_Kept = Callable[[Role, Mapping[str, Any], int], Mapping[str, Any]]


def _claim(session_id: str, stage_type: str, kept: _Kept) -> _Claimed | None:
    """Claim the next mail of a stage, and store with that what `kept` says. None: there is none to write.

    Raises MailInWork if somebody else has claimed it.
    """
    role: Role | None = None
    addition: Mapping[str, Any] | None = None
    for _ in range(_RACES):
        session = sessions.load(session_id)
        pending = session.pending.get(stage_type) if session is not None and session.status == "active" else None
        if session is None or pending is None or pending["sent"] >= pending["asked"] or pending.get("confirmed"):
            return None
        if pending.get("claim", 0) > now_ms() - _CLAIM_MS:
            raise MailInWork
        now = int(time.time())
        seconds = min(VALID_SECONDS, int(session.expires) - now)
        if addition is None or role is None:
            role = _role(pending)
            addition = kept(role, pending, now + seconds)
        elif "codes" in addition:
            addition = {"codes": [*pending["codes"], addition["codes"][-1]][-_CODES_KEPT:]}
        left = {**pending, **addition, "claim": now_ms()}
        if sessions.change(session, {"pending": {**session.pending, stage_type: left}}):
            claimed = _Claimed(session, stage_type, left, pending["asked"], seconds, role)
            if role == "nobody":
                _settle(claimed, sent=True)
                return None
            return claimed
    raise MailInWork


def _role(pending: Mapping[str, Any]) -> Role:
    owner = threepids.user_of(threepids.EMAIL, pending["email"])
    if pending["new"]:
        return "proof" if owner is None else "taken"
    return "proof" if owner is not None and owner == pending["user"] else "nobody"


def _mail(claimed: _Claimed, what: Literal["code", "link"], values: Mapping[str, str]) -> Mail:
    pending = claimed.pending
    if claimed.role == "taken":
        name, values = "address_in_use", {}
    elif pending["new"]:
        name = f"registration_{what}"
    else:
        name = f"login_{what}" if claimed.session.kind == "login" else f"confirm_{what}"
    return Mail(
        to=pending["email"],
        template=name,
        values={
            "address": pending["email"],
            "user": pending["user"] or "",
            "minutes": str(max(1, claimed.seconds // 60)),
            **values,
        },
        sent=lambda: _settle(claimed, sent=True),
        not_sent=lambda: _settle(claimed, sent=False),
    )


def _settle(claimed: _Claimed, *, sent: bool) -> None:
    """Give the claim back, and note that the mail is sent."""
    session: Session | None = claimed.session
    for _ in range(_RACES):
        pending = session.pending.get(claimed.stage_type) if session is not None else None
        if session is None or session.status != "active" or pending is None:
            return  # it was completed, or is over: nobody asks any more
        left = {key: value for key, value in pending.items() if key != "claim"}
        if sent:
            left["sent"] = max(left["sent"], claimed.number)
        if sessions.change(session, {"pending": {**session.pending, claimed.stage_type: left}}):
            return
        session = sessions.load(session.session)
