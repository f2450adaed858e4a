"""Login tokens: whoever shows one within two minutes is logged in, once.

A token is worth what the account was worth when it was made: another password or the end of the account ends it too.

Source: client-server API v1.19, "Token-based login" (`m.login.token`), "Client login via SSO", "POST
/_matrix/client/v1/login/get_token".
"""

import secrets
from collections.abc import Mapping
from typing import Any

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import Forbidden
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.login_sessions import UnknownSession
from homeserver.services.login_stages.stage import Origin
from homeserver.services.oauth_links import own_flows
from homeserver.services.user_interactive_auth import InteractionRequired, Operation, authorise
from homeserver.storage import login_tokens
from homeserver.storage.accounts import ACCOUNT, Account, load_account, usable_with
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.login_tokens import LoginToken

LIFETIME_MS = 2 * 60 * 1000
_MAX_LENGTH = 128  # ours have 43 characters: nothing longer is worth hashing


def new_login_token(user_id: str) -> str:
    """A token that logs this user in once within LIFETIME_MS. Raises Forbidden if the account has ended."""
    for _ in attempts("This account"):
        transaction = Transaction()
        token = _add_for_active(transaction, user_id)
        try:
            transaction.commit()
        except TransactionCancelled:
            continue
        return token
    raise AssertionError("unreachable: attempts() raises")


def _add_for_active(transaction: Transaction, user_id: str) -> str:
    account = load_account(user_id)
    if account is None or not account.active:
        raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
    transaction.check("account", Account, user_id, ACCOUNT, usable_with(account.password))
    return add_login_token(transaction, account)


def add_login_token(transaction: Transaction, account: Account) -> str:
    """Add a new token to a transaction, which has to check that the account is as it was loaded."""
    token = secrets.token_urlsafe(32)
    seconds = LIFETIME_MS // 1000
    login_tokens.add_token(transaction, token_hash(token), account.user, secret=_digest(account), seconds=seconds)
    return token


def get_token(requester: Requester, body: Mapping[str, Any], origin: Origin) -> str:
    """A token with which the requester logs in another device, after authentication.

    Raises InteractionRequired, BadJson, LimitExceeded.
    """
    operation = Operation("POST /login/get_token", requester.user_id, body, atomic=True, origin=origin)
    authorisation = authorise(operation, own_flows(requester.user_id))
    for _ in attempts("This account"):
        transaction = Transaction()
        token = _add_for_active(transaction, requester.user_id)
        authorisation.consume(transaction)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if lost.failed("session"):
                raise InteractionRequired.anew(operation, own_flows(requester.user_id), UnknownSession()) from lost
        else:
            return token
    raise AssertionError("unreachable: attempts() raises")


def redeem(transaction: Transaction, text: str) -> str:
    """Add the use of a token to a transaction: the user whom it logs in.

    The labels are `login token`, which fails if it was used meanwhile, and `account`, which fails if that changed.
    Raises Forbidden for a token that is unknown, used, expired, or of before a change of the password.
    """
    token = login_tokens.load_token(token_hash(text)) if 0 < len(text) <= _MAX_LENGTH else None
    account = _account_of(token) if token is not None else None
    if token is None or account is None:
        raise Forbidden("This login token is unknown, was used or has expired.")
    login_tokens.use_token(transaction, token)
    transaction.check("account", Account, token.user, ACCOUNT, usable_with(account.password))
    return token.user


def _account_of(token: LoginToken) -> Account | None:
    account = load_account(token.user)
    return account if account is not None and account.active and _digest(account) == token.secret else None


def _digest(account: Account) -> str:
    return token_hash(account.password or "")
