"""Login with a password or a login token, and logout.

Source: client-server API v1.19, "Login", "Client Authentication"; "Relationship between access tokens and devices".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError
from homeserver.matrix.identifiers import fits_identifier
from homeserver.services import login_tokens
from homeserver.services.access_tokens import (
    IssuedTokens,
    Requester,
    issue_tokens,
    new_device_id,
    revoke_all_devices,
    revoke_device,
)
from homeserver.services.attempts import attempts
from homeserver.services.bodies import required_text
from homeserver.services.login_flows import PASSWORD
from homeserver.services.login_flows import login_flows as configured_flows
from homeserver.services.passwords import authenticate_password, user_of_identifier
from homeserver.services.rate_limits import take_login
from homeserver.settings import settings
from homeserver.storage.accounts import ACCOUNT, Account, load_account, load_device, usable_with
from homeserver.storage.connection import Transaction, TransactionCancelled

TOKEN = "m.login.token"
MAX_DEVICE_NAME = 256
DEVICE_KEYS = ("device_id", "initial_device_display_name", "refresh_token")  # of a body: what DeviceRequest reads


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a client says about its device when it logs in or registers."""

    device_id: str | None
    display_name: str | None
    refreshable: bool
    address: str

    @classmethod
    def from_body(cls, body: Mapping[str, Any], address: str) -> "DeviceRequest":
        """Read `device_id`, `initial_device_display_name` and `refresh_token`. Raises BadJson or InvalidParam."""
        device_id = body.get("device_id")
        name = body.get("initial_device_display_name")
        refreshable = body.get("refresh_token")
        if not isinstance(device_id, str | None) or not isinstance(name, str | None):
            raise BadJson("device_id and initial_device_display_name must be strings.")
        if not isinstance(refreshable, bool | None):
            raise BadJson("refresh_token must be a boolean.")
        if device_id is not None and (not device_id or not fits_identifier(device_id)):
            raise InvalidParam("device_id must have between 1 and 255 bytes.")
        return cls(device_id, name[:MAX_DEVICE_NAME] if name else None, bool(refreshable), address)


@dataclass(frozen=True, slots=True)
class Login:
    """A user who is logged in on a device."""

    user_id: str
    device_id: str
    tokens: IssuedTokens

    def body(self) -> dict[str, Any]:
        """The answer of login and registration."""
        return {"user_id": self.user_id, "device_id": self.device_id, **self.tokens.body()}


def login_flows() -> list[dict[str, Any]]:
    """The login types that today's clients can use: those that take one request.

    A login of several stages is the draft's dialect only (services/draft_login.py).
    """
    password = [{"type": PASSWORD}] if offers_password() else []
    return [*password, *_sso_flows(), {"type": TOKEN, "get_login_token": True}]


def _sso_flows() -> list[dict[str, Any]]:
    if not settings().oauth_providers and not settings().login_flows:
        return []
    from homeserver.services.oauth_login import sso_flow  # noqa: PLC0415 - most servers have no use for it

    flow = sso_flow()
    return [flow] if flow is not None else []


def offers_password() -> bool:
    """Whether a password alone logs a user in."""
    return (PASSWORD,) in configured_flows()


def log_in(body: Mapping[str, Any], address: str) -> Login:
    """Log a user in with what `POST /login` takes. `address`: where the request came from.

    Raises M_UNKNOWN for a login type that is not offered, Forbidden for wrong credentials, M_USER_DEACTIVATED,
    MissingParam or BadJson for the wrong shape, LimitExceeded for too many logins or guesses.
    """
    login_type = required_text(body, "type")
    if login_type == TOKEN:
        return _log_in_with_token(body, address)
    # Where the password is one stage of several, it must not be a way around the others.
    if login_type != PASSWORD or not offers_password():
        raise MatrixError("This login type is not offered.")
    return log_in_with_password(body, address)


def log_in_with_password(body: Mapping[str, Any], address: str) -> Login:
    """Log a user in with the user name and the password of a body; raises what log_in does."""
    device = DeviceRequest.from_body(body, address)
    password = required_text(body, "password")
    take_login(address)  # before an address is looked up
    user_id = user_of_identifier(body)
    return _log_in_with_password(user_id, password, device)


def _log_in_with_token(body: Mapping[str, Any], address: str) -> Login:
    device = DeviceRequest.from_body(body, address)
    token = required_text(body, "token")
    take_login(address)
    for _ in attempts("This account"):
        transaction = Transaction()
        user_id = login_tokens.redeem(transaction, token)
        login = add_login(transaction, user_id, device)
        try:
            transaction.commit()
        except TransactionCancelled:
            continue
        return login
    raise AssertionError("unreachable: attempts() raises")


def _log_in_with_password(user_id: str | None, password: str, request: DeviceRequest) -> Login:
    account = authenticate_password(user_id, password)
    for attempt in attempts("This account"):
        if attempt and account is not None:
            # Somebody changed the account or the device in between: the password may be another one by now.
            account = authenticate_password(user_id, password)
        if account is None or user_id is None:
            _refuse(user_id)
        elif not account.active:
            raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
        else:
            transaction = Transaction()
            transaction.check("account", Account, user_id, ACCOUNT, usable_with(account.password))
            login = add_login(transaction, user_id, request)
            try:
                transaction.commit()
            except TransactionCancelled:
                continue
            return login
    raise AssertionError("unreachable: attempts() raises")


def _refuse(user_id: str | None) -> NoReturn:
    account = load_account(user_id) if user_id is not None else None
    if account is not None and not account.active:
        # The password of a deactivated account is gone: nobody can know it.
        raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
    raise Forbidden("The user name or the password is wrong.")


def add_login(transaction: Transaction, user_id: str, request: DeviceRequest, *, new_user: bool = False) -> Login:
    """Add a login to a transaction; `new_user`: nobody can have a device yet."""
    device_id = request.device_id or new_device_id()
    known = None if request.device_id is None or new_user else load_device(user_id, device_id)
    issued = issue_tokens(
        transaction,
        user_id,
        device_id,
        known,
        display_name=request.display_name,
        refreshable=request.refreshable,
        address=request.address,
    )
    return Login(user_id, device_id, issued)


def well_known() -> dict[str, Any] | None:
    """The `well_known` of the login answer, if the operator said under which address clients reach the server."""
    address = settings().public_base_url
    return {"m.homeserver": {"base_url": address}} if address else None


def log_out(requester: Requester) -> None:
    """Delete the requester's device and all its tokens."""
    revoke_device(requester.user_id, requester.device_id)


def log_out_everywhere(requester: Requester) -> None:
    """Delete all devices of the requester, this one last: a crash in between can be followed by another try."""
    revoke_all_devices(requester.user_id, keep=requester.device_id)
    revoke_device(requester.user_id, requester.device_id)
