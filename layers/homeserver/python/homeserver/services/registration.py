"""New accounts: registration by people, of guests, by registration tokens, and by the operator's shared secret.

Source: client-server API v1.19, "Account registration and management", "Guest access"; for the shared secret the
documentation of Synapse's admin API ("Shared-Secret Registration"), which existing tools speak.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, MissingParam
from homeserver.matrix.identifiers import fits_identifier, is_valid_localpart
from homeserver.services import login_flows, rate_limits
from homeserver.services.access_tokens import issue_tokens, new_device_id
from homeserver.services.attempts import attempts
from homeserver.services.bodies import required_text
from homeserver.services.clock import now_ms
from homeserver.services.email_validation import in_use
from homeserver.services.login import DeviceRequest, Login, add_login
from homeserver.services.login_stages import registration_token
from homeserver.services.login_stages.stage import Origin
from homeserver.services.notice_rooms import notices_user
from homeserver.services.passwords import check_new_password, hash_password
from homeserver.services.threepids import add_of_new_account
from homeserver.services.user_interactive_auth import InteractionRequired, Operation, authorise
from homeserver.settings import settings
from homeserver.storage import nonces, registration_tokens
from homeserver.storage.accounts import create_account, load_account
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.profiles import create_profile
from homeserver.storage.user_index import IndexedUser, add_new_user

_NONCE_SECONDS = 60
_GUEST_KEYS = frozenset({"initial_device_display_name"})


def check_username(username: str) -> str:
    """The user ID that this name would have. Raises M_INVALID_USERNAME or M_USER_IN_USE."""
    user_id = f"@{username}:{settings().server_name}"
    if not is_valid_localpart(username) or not fits_identifier(user_id):
        raise MatrixError(
            "A user name consists of a-z, 0-9 and ._=-/+ and makes a user ID of at most 255 bytes.",
            errcode="M_INVALID_USERNAME",
        )
    # The server's own account is made with its first notice: nobody else may be it before.
    if user_id == notices_user() or load_account(user_id) is not None:
        raise name_in_use()
    return user_id


def name_in_use() -> MatrixError:
    """The answer to somebody who wants a name that somebody else has."""
    return MatrixError("This user name is taken.", errcode="M_USER_IN_USE")


def check_username_available(username: str | None, address: str) -> None:
    """`GET /register/available`. Raises what check_username does, MissingParam, Forbidden if nobody can register."""
    if username is None:
        raise MissingParam("username is required.")
    check_open()
    rate_limits.take_question(address)
    check_username(username)


def is_registration_token_valid(token: str | None, address: str) -> bool:
    """Whether an account can be registered with this token now. Raises MissingParam, Forbidden, LimitExceeded."""
    if token is None:
        raise MissingParam("token is required.")
    check_open()
    rate_limits.take_question(address)
    return registration_token.is_configured_token(token) or registration_token.is_stored_token(token)


def check_open() -> None:
    """Raises Forbidden if nobody can register."""
    if settings().registration == "closed":
        raise Forbidden("Nobody can register on this server.")


def register(kind: str, body: Mapping[str, Any], origin: Origin) -> tuple[str, Login | None]:
    """Register an account with what `POST /register` takes: its user ID, and the login unless `inhibit_login`.

    The account, its profile, its first device and the end of the authentication session are one transaction:
    after a crash there is all of it or nothing.
    Raises Forbidden (registration is closed), M_GUEST_ACCESS_FORBIDDEN, M_INVALID_USERNAME, M_USER_IN_USE,
    M_THREEPID_IN_USE, M_WEAK_PASSWORD, InteractionRequired, BadJson, MissingParam, LimitExceeded.
    """
    if kind == "guest":
        return _register_guest(body, origin.address)
    if kind != "user":
        raise InvalidParam("kind must be user or guest.")
    check_open()
    username, password, inhibit = body.get("username"), body.get("password"), body.get("inhibit_login")
    if not isinstance(username, str | None) or not isinstance(password, str | None):
        raise BadJson("username and password must be strings.")
    if not isinstance(inhibit, bool | None):
        raise BadJson("inhibit_login must be a boolean.")
    device = DeviceRequest.from_body(body, origin.address)
    rate_limits.take_registration(origin.address)
    # Whether the name can be had is told first, not after somebody has gone through all stages for nothing.
    user_id = check_username(username) if username is not None else random_user_id()
    if password is not None:
        check_new_password(password)
    flows = login_flows.registration_flows()
    operation = Operation("POST /register", None, body, atomic=True, origin=origin)
    authorisation = authorise(operation, flows)
    if password is None:
        raise MissingParam("password is required.")
    password_hash = hash_password(password)
    for _ in attempts("This account"):
        transaction = Transaction()
        login = add_account(transaction, user_id, password_hash, device=None if inhibit else device)
        add_facts(transaction, user_id, authorisation.facts)
        authorisation.consume(transaction)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if lost.failed("account"):
                raise name_in_use() from lost
            if lost.failed("threepid"):
                raise in_use() from lost
            if any(map(lost.failed, ("session", "registration_token", "validation"))):
                spent = MatrixError("The session or what it rests on was used up.", errcode="M_FORBIDDEN")
                raise InteractionRequired.anew(operation, flows, spent) from lost
            if not lost.conflict:
                raise
        else:
            return user_id, login
    raise AssertionError("unreachable: attempts() raises")


def _register_guest(body: Mapping[str, Any], address: str) -> tuple[str, Login]:
    """An account that nobody can log in to again, for who holds its one access token.

    Of what a client sends only the name of the device counts.
    """
    if not settings().guest_accounts:
        raise Forbidden("This server has no guest accounts.", errcode="M_GUEST_ACCESS_FORBIDDEN")
    name = DeviceRequest.from_body({key: body[key] for key in _GUEST_KEYS & body.keys()}, address).display_name
    rate_limits.take_registration(address)
    user_id, device_id = random_user_id(), new_device_id()
    transaction = Transaction()
    create_account(transaction, user_id, password_hash=None, admin=False, guest=True, now=now_ms())
    create_profile(transaction, user_id, user_id[1:].partition(":")[0])
    issued = issue_tokens(
        transaction, user_id, device_id, None, display_name=name, refreshable=False, address=address, guest=True
    )
    transaction.commit()
    return user_id, Login(user_id, device_id, issued)


def random_user_id() -> str:
    """A user ID for somebody who asked for no name."""
    return f"@{secrets.token_hex(8)}:{settings().server_name}"


def add_account(
    transaction: Transaction,
    user_id: str,
    password_hash: str | None,
    *,
    device: DeviceRequest | None,
    admin: bool = False,
    displayname: str | None = None,
) -> Login | None:
    """Add a new account to a transaction, and its first login unless `device` is None.

    `password_hash` None: nobody can log in with a password. The label `account` fails if the name is taken.
    """
    create_account(transaction, user_id, password_hash=password_hash, admin=admin, now=now_ms())
    name = displayname or user_id[1:].partition(":")[0]
    create_profile(transaction, user_id, name)
    add_new_user(transaction, IndexedUser.of(user_id, {"displayname": name}))
    return add_login(transaction, user_id, device, new_user=True) if device is not None else None


def add_facts(transaction: Transaction, user_id: str, facts: Mapping[str, str]) -> None:
    """Add to the transaction that makes an account what the stages of its registration found out.

    A registration token is used up, an e-mail address becomes the account's. Labels: `registration_token`, `threepid`
    and `validation`, which fail if the token, the address or its proof went to somebody else meanwhile.
    """
    token = facts.get(registration_token.FACT)
    if token is not None:
        registration_tokens.use(transaction, token, now_ms())
    add_of_new_account(transaction, user_id, facts, now_ms())


def new_nonce(address: str) -> str:
    """A nonce for one registration by shared secret within a minute. Raises M_UNKNOWN if no secret is configured."""
    _shared_secret()
    rate_limits.take_question(address)
    nonce = secrets.token_hex(32)
    nonces.create_nonce(nonce, seconds=_NONCE_SECONDS)
    return nonce


def _shared_secret() -> bytes:
    secret = settings().registration_shared_secret
    if not secret:
        raise MatrixError("This server has no shared secret for registrations.")
    return secret.encode()


def register_by_shared_secret(body: Mapping[str, Any], address: str) -> tuple[str, Login | None]:
    """`POST /_synapse/admin/v1/register`: an account, an administrator's too, for whoever knows the shared secret.

    `mac` is the HMAC-SHA1, in hexadecimal, of nonce, user name, password, `admin` or `notadmin`, and the user type if
    there is one, joined by NUL. Works whatever the registration policy.
    Raises Forbidden for a wrong mac, M_UNKNOWN for an unknown nonce, and what registration raises.
    """
    secret = _shared_secret()
    nonce, username, password, mac = (required_text(body, name) for name in ("nonce", "username", "password", "mac"))
    admin, user_type, displayname = body.get("admin"), body.get("user_type"), body.get("displayname")
    if not isinstance(admin, bool | None) or not isinstance(body.get("inhibit_login"), bool | None):
        raise BadJson("admin and inhibit_login must be booleans.")
    if not isinstance(user_type, str | None) or not isinstance(displayname, str | None):
        raise BadJson("user_type and displayname must be strings.")
    # No limit of its own: an operator may register a whole school. Guesses are bounded by the nonces.
    if not nonces.take_nonce(nonce):
        raise MatrixError("The nonce is unknown, was used or has expired.")
    parts = [nonce, username, password, "admin" if admin else "notadmin", *([user_type] if user_type else [])]
    wanted = hmac.new(secret, "\0".join(parts).encode(), hashlib.sha1).hexdigest()
    if any("\0" in part for part in parts) or not hmac.compare_digest(wanted.encode(), mac.encode()):
        raise Forbidden("The mac does not match.")
    if user_type is not None:
        raise InvalidParam("This server knows no user types.")
    user_id = check_username(username)
    check_new_password(password)
    device = None if body.get("inhibit_login") else DeviceRequest(None, None, refreshable=False, address=address)
    transaction = Transaction()
    login = add_account(
        transaction, user_id, hash_password(password), device=device, admin=bool(admin), displayname=displayname
    )
    try:
        transaction.commit()
    except TransactionCancelled as lost:
        raise name_in_use() from lost
    return user_id, login
