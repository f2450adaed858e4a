"""Rate limits: named buckets, kept in a table where all functions see them.

Source: client-server API v1.19, "Rate limiting": 429 `M_LIMIT_EXCEEDED` with `retry_after_ms` and `Retry-After`.
"""

import hashlib
import ipaddress
import time
from dataclasses import dataclass

from homeserver.matrix.errors import LimitExceeded
from homeserver.settings import settings
from homeserver.storage import limits


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests a second in the long run, and so many at once."""

    name: str
    per_second: float
    burst: int


# One address may be a whole school: enough for thirty logins at once, too little to try a list of passwords.
LOGIN_PER_ADDRESS = RateLimit("login-address", per_second=0.5, burst=30)
# A forgetful person has ten tries; a program that guesses has 8,640 a day. Guesses of existing and of made-up users
# are counted alike, so that the answer tells nobody which users exist.
PASSWORD_PER_ACCOUNT = RateLimit("password-account", per_second=0.1, burst=10)
# A registration is two to four requests (the stages of User-Interactive Authentication).
REGISTRATION_PER_ADDRESS = RateLimit("registration-address", per_second=0.2, burst=20)
# Questions that could be used to list the users or to find a registration token.
QUESTIONS_PER_ADDRESS = RateLimit("question-address", per_second=1, burst=30)
# A token of 256 bits cannot be guessed: this only bounds the bill. A device refreshes about once an hour.
REFRESH_PER_ADDRESS = RateLimit("refresh-address", per_second=2, burst=100)
# People type less than one message a second; pasted series, files and bots with good reason reach ten.
SENDING_PER_USER = RateLimit("send-user", per_second=10, burst=50)
# A search as one types is a request a letter; each may read some hundred items.
FINDING_PER_USER = RateLimit("find-user", per_second=5, burst=50)

# Servers ask for the keys of a room's servers when they join it, in a few requests of many keys each; each key may be
# a request of this server to another one.
KEY_QUERIES_PER_ADDRESS = RateLimit("key-query-address", per_second=2, burst=40)
# A server that comes into a room, or back after an outage, asks for some thousand events one by one.
QUESTIONS_PER_SERVER = RateLimit("question-server", per_second=20, burst=1000)
# A widget or a meeting asks for one token; each is an item for an hour.
OPENID_TOKENS_PER_USER = RateLimit("openid-user", per_second=0.2, burst=20)
# Logins and registrations of several stages: each starts an execution of the state machine, which costs money. A person
# needs one or two; the sum over all strangers is bounded by LOGIN_SESSIONS_PER_DAY.
EXECUTIONS_PER_ADDRESS = RateLimit("execution-address", per_second=0.05, burst=20)
_EXECUTIONS_AT_ONCE = 0.02  # of a day's executions
# A login at a provider is two to four requests; each stores an item for ten minutes, the last asks the provider.
OAUTH_PER_ADDRESS = RateLimit("oauth-address", per_second=0.5, burst=40)

# Mails that one address asks for. A person needs one or two; each could annoy somebody else.
MAILS_PER_REQUESTER = RateLimit("mail-requester", per_second=0.02, burst=10)
# Mails that one address is sent, whoever asks for them: nobody can be flooded.
MAILS_PER_RECIPIENT = RateLimit("mail-recipient", per_second=1 / 60, burst=3)
# Guesses of codes that were mailed to one address, in all sessions together. Five in a session are the other limit.
CODES_PER_RECIPIENT = RateLimit("code-recipient", per_second=1 / 60, burst=15)
# How often a session may ask whether the link in the mail was opened.
POLLS_PER_SESSION = RateLimit("poll-session", per_second=1, burst=1)


def take(bucket: str, *, per_second: float, burst: int) -> None:
    """Take one request from a bucket. Raises LimitExceeded when it is empty; does nothing with RATE_LIMITS=off."""
    if not settings().rate_limits:
        return
    interval = max(1, round(1000 / per_second))
    now = time.time_ns() // 1_000_000
    wait = limits.spend(bucket, now=now, interval=interval, tolerance=interval * (burst - 1))
    if wait > 0:
        raise LimitExceeded("Too many requests.", retry_after_ms=wait)


def _take(limit: RateLimit, who: str) -> None:
    take(f"{limit.name}/{who}", per_second=limit.per_second, burst=limit.burst)


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 customer has at the least."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def take_login(address: str) -> None:
    """One login from this address."""
    _take(LOGIN_PER_ADDRESS, network_of(address))


def take_password_guess(user_id: str) -> None:
    """One check of a password of this account, which need not exist."""
    _take(PASSWORD_PER_ACCOUNT, user_id)


def take_registration(address: str) -> None:
    """One request for a new account."""
    _take(REGISTRATION_PER_ADDRESS, network_of(address))


def take_question(address: str) -> None:
    """One question about a user name or a registration token."""
    _take(QUESTIONS_PER_ADDRESS, network_of(address))


def take_refresh(address: str) -> None:
    """One refresh of an access token."""
    _take(REFRESH_PER_ADDRESS, network_of(address))


def take_send(user_id: str) -> None:
    """One event that a user sends."""
    _take(SENDING_PER_USER, user_id)


def take_finding(user_id: str) -> None:
    """One search of a user for people or rooms."""
    _take(FINDING_PER_USER, user_id)


def take_key_query(address: str) -> None:
    """One question for other servers' keys."""
    _take(KEY_QUERIES_PER_ADDRESS, network_of(address))


def take_server_question(origin: str) -> None:
    """One question of another server about a room."""
    _take(QUESTIONS_PER_SERVER, origin)


def take_openid_token(user_id: str) -> None:
    """One OpenID token of a user."""
    _take(OPENID_TOKENS_PER_USER, user_id)


def take_execution(who: str) -> None:
    """One execution of the state machine, for an address, or for a user who is logged in."""
    _take(EXECUTIONS_PER_ADDRESS, who if who.startswith("@") else network_of(who))
    a_day = settings().login_sessions_per_day
    take("execution", per_second=a_day / 86_400, burst=max(1, round(a_day * _EXECUTIONS_AT_ONCE)))


def take_mail(requester: str, recipient: str) -> None:
    """One mail that somebody at an address of the network asks for, to a normalised mail address."""
    take_mail_request(requester)
    take_mail_to(recipient)


def take_mail_request(requester: str) -> None:
    """One request for a mail, from an address of the network, whether one is sent or not."""
    _take(MAILS_PER_REQUESTER, network_of(requester))


def take_mail_to(recipient: str) -> None:
    """One mail to a normalised mail address."""
    _take(MAILS_PER_RECIPIENT, _unnamed(recipient))


def take_code_guess(recipient: str) -> None:
    """One guess of a code that was mailed to a normalised mail address."""
    _take(CODES_PER_RECIPIENT, _unnamed(recipient))


def take_poll(session_id: str) -> None:
    """One question of a session whether what it waits for has happened."""
    _take(POLLS_PER_SESSION, _unnamed(session_id))


def _unnamed(text: str) -> str:
    """A text as the name of a bucket that does not say it."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def take_oauth(address: str) -> None:
    """One step of a login at a provider."""
    _take(OAUTH_PER_ADDRESS, network_of(address))
