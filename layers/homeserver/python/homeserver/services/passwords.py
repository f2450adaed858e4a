"""Passwords: hashes, and whether somebody knows the password of an account.

The hash is argon2id (RFC 9106) at OWASP's cost for 19 MiB. A wrong password and a user that does not exist cost the
same work. Nothing here logs or stores a password.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.email_address import normalised
from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError, MissingParam
from homeserver.matrix.identifiers import fits_identifier, is_valid_localpart
from homeserver.services.rate_limits import take_password_guess
from homeserver.settings import settings
from homeserver.storage import threepids
from homeserver.storage.accounts import Account, load_account

MAX_PASSWORD_BYTES = 512  # longer ones only make the hash slow
# Memory in KiB, passes; one lane each.
_COSTS = {"normal": (19_456, 2), "low": (8, 1)}


@cache
def _hasher(cost: str) -> PasswordHasher:
    memory, passes = _COSTS[cost]
    return PasswordHasher(memory_cost=memory, time_cost=passes, parallelism=1, type=Type.ID)


@cache
def _nobodys_hash(cost: str) -> str:
    return _hasher(cost).hash("the password of nobody")


def check_new_password(password: str) -> None:
    """Raises M_WEAK_PASSWORD for an empty password, M_INVALID_PARAM above 512 bytes."""
    if not password:
        raise MatrixError("The password is empty.", errcode="M_WEAK_PASSWORD")
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise InvalidParam(f"The password is longer than {MAX_PASSWORD_BYTES} bytes.")


def hash_password(password: str) -> str:
    """The hash to store, parameters and salt included."""
    return _hasher(settings().password_cost).hash(password)


def verify_password(password: str, stored: str | None) -> bool:
    """Whether this is the password. `stored` None (no such user, no password): the same work, and False."""
    cost = settings().password_cost
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        return False
    try:
        _hasher(cost).verify(stored or _nobodys_hash(cost), password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def needs_rehash(stored: str) -> bool:
    """Whether the hash was made with other parameters than those of today."""
    return _hasher(settings().password_cost).check_needs_rehash(stored)


def user_of_identifier(body: Mapping[str, Any]) -> str | None:
    """The local user that `identifier`, or the older `user`, names; None if it can be nobody of this server.

    An e-mail address that nobody has is answered with a name that nobody has either, so that guesses of its password
    are counted and cost as much as those of others. Names are compared as they are where they can be a localpart, else
    in lower case: people type "Alice".
    Raises MissingParam or BadJson for the wrong shape, M_UNKNOWN for an unknown type of identifier.
    Source: client-server API v1.19, "Identifier types".
    """
    identifier = body.get("identifier")
    if identifier is None:
        name = body.get("user")
        if name is None and body.get("medium") is not None:
            return _user_of_address(body)  # the old form of a third-party identifier
    elif not isinstance(identifier, dict):
        raise BadJson("identifier must be an object.")
    elif identifier.get("type") == "m.id.thirdparty":
        return _user_of_address(identifier)
    elif identifier.get("type") == "m.id.phone":
        return None  # no account has any
    elif identifier.get("type") != "m.id.user":
        raise MatrixError("This type of identifier is unknown.")
    else:
        name = identifier.get("user")
    if name is None:
        raise MissingParam("identifier.user is required.")
    if not isinstance(name, str):
        raise BadJson("The user must be a string.")
    return _local_user(name)


def _user_of_address(named: Mapping[str, Any]) -> str | None:
    medium, address = named.get("medium"), named.get("address")
    if medium is None or address is None:
        raise MissingParam("medium and address are required.")
    if not isinstance(medium, str) or not isinstance(address, str):
        raise BadJson("medium and address must be strings.")
    if medium != threepids.EMAIL:
        return None
    try:
        address = normalised(address)
    except ValueError:
        return None
    return threepids.user_of(threepids.EMAIL, address) or f"email/{token_hash(address)}"


def _local_user(name: str) -> str | None:
    localpart = name
    if name.startswith("@") and ":" in name:
        localpart, _, domain = name[1:].partition(":")
        if domain != settings().server_name:
            return None
    if not is_valid_localpart(localpart):
        localpart = localpart.lower()
    user_id = f"@{localpart}:{settings().server_name}"
    return user_id if is_valid_localpart(localpart) and fits_identifier(user_id) else None


def authenticate_password(user_id: str | None, password: str) -> Account | None:
    """The account if this is its password, else None. `user_id` None stands for a name that nobody has.

    Counts as a guess: raises LimitExceeded after too many. A hash of older parameters is renewed.
    """
    if user_id is not None:
        take_password_guess(user_id)
    account = load_account(user_id) if user_id is not None else None
    stored = account.password if account is not None else None
    if not verify_password(password, stored) or account is None or stored is None:
        return None
    if needs_rehash(stored):
        account.change_password_hash(stored, hash_password(password))
    return account
