"""A new password: of the requester, or, by mail, of somebody who cannot log in any more.

Source: client-server API v1.19, "Changes a user's password", "Password management".
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, MatrixError, MissingParam
from homeserver.observability import fault_point
from homeserver.services import login_flows
from homeserver.services.access_tokens import Requester, revoke_all_devices
from homeserver.services.attempts import attempts
from homeserver.services.email_validation import auth_failed
from homeserver.services.login_flows import EMAIL_IDENTITY
from homeserver.services.login_stages import email_identity
from homeserver.services.login_stages.stage import Origin
from homeserver.services.oauth_links import own_flows
from homeserver.services.passwords import check_new_password, hash_password
from homeserver.services.user_interactive_auth import Authorisation, Flows, Operation, authorise
from homeserver.storage import threepids, validations
from homeserver.storage.accounts import ACCOUNT, Account, load_account, usable_with
from homeserver.storage.connection import Transaction, TransactionCancelled


def can_be_reset() -> bool:
    """Whether somebody without an access token can set a new password: by mail."""
    return login_flows.has_mail()


def change_password(requester: Requester | None, body: Mapping[str, Any], origin: Origin) -> None:
    """Set the password `new_password`, after authentication: the requester's, or whose mail the requester reads.

    Every other device is logged out unless `logout_devices` is false; the requester's own stays logged in. Login tokens
    and unfinished logins that rest on the old password are worth nothing from then on. Each step can be repeated: after
    a crash the same request, with the same session, goes on.
    Raises InteractionRequired, MissingParam, BadJson, M_WEAK_PASSWORD, M_THREEPID_NOT_FOUND, LimitExceeded.
    """
    new_password, logout_devices = body.get("new_password"), body.get("logout_devices", True)
    if new_password is None:
        raise MissingParam("new_password is required.")
    if not isinstance(new_password, str) or not isinstance(logout_devices, bool):
        raise BadJson("new_password must be a string, logout_devices a boolean.")
    check_new_password(new_password)
    asked_by = requester.user_id if requester is not None else None
    operation = Operation("POST /account/password", asked_by, body, origin=origin)
    authorisation = authorise(operation, _flows(asked_by))
    user_id = asked_by if asked_by is not None else _owner(authorisation.facts)
    # From here on a login that checked the old password fails: its transaction names the hash that it checked.
    _replace_password(user_id, hash_password(new_password), authorisation.facts)
    fault_point("account.password_changed")
    if logout_devices:
        revoke_all_devices(user_id, keep=requester.device_id if requester is not None else None)
    _finish(authorisation)


def _flows(user_id: str | None) -> Flows:
    if user_id is None:
        return [[EMAIL_IDENTITY]]
    by_mail = [[EMAIL_IDENTITY]] if login_flows.has_mail() and threepids.list_of(user_id) else []
    return [*own_flows(user_id), *by_mail]


def _owner(facts: Mapping[str, str]) -> str:
    owner = threepids.user_of(threepids.EMAIL, facts[email_identity.EMAIL])
    if owner is None:
        raise MatrixError("No account has this e-mail address any more.", errcode="M_THREEPID_NOT_FOUND")
    return owner


def _replace_password(user_id: str, password_hash: str, facts: Mapping[str, str]) -> None:
    """Replace the hash of the password; a validation that permits it is used up for the user in the same moment."""
    sid = facts.get(email_identity.VALIDATION)
    for _ in attempts("This account"):
        account = load_account(user_id)
        if account is None or not account.active:
            raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
        if sid is None:
            if account.change_password_hash(account.password, password_hash):
                return
            continue
        transaction = Transaction()
        new = [Account.password.set(password_hash)]
        transaction.update("account", Account(user_id, ACCOUNT), new, usable_with(account.password))
        threepids.check_owner(transaction, user_id, threepids.EMAIL, facts[email_identity.EMAIL])
        validations.claim(transaction, sid, user_id)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if lost.failed("validation") or lost.failed("threepid"):
                raise auth_failed() from lost
            if not lost.failed("account") and not lost.conflict:
                raise
        else:
            return
    raise AssertionError("unreachable: attempts() raises")


def _finish(authorisation: Authorisation) -> None:
    """End the session, and with it the validation, which nobody can show again."""
    sid = authorisation.facts.get(email_identity.VALIDATION)
    if sid is None:
        authorisation.finish()
        return
    for _ in attempts("This account"):
        transaction = Transaction()
        authorisation.consume(transaction)
        validations.remove(transaction, sid)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if lost.failed("session"):
                return  # a repetition of this request was faster
            if not lost.conflict:
                raise
        else:
            return
