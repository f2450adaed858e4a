"""`m.login.password`: the password of an account, or, in the draft's registration, the name and password of a new one.

Source: the 2014 draft, "Password-based" login; client-server API v1.19, "Password-based" authentication.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import BadJson, Forbidden
from homeserver.services.bodies import required_text
from homeserver.services.login_stages.stage import Attempt, Completed, UserChanged
from homeserver.services.passwords import (
    authenticate_password,
    check_new_password,
    hash_password,
    user_of_identifier,
)

# Facts. Of a login: a hash of the stored hash, so that a login whose password is changed half-way ends. Of a
# registration: the name that was asked for ("" for any) and the hash of the password.
PASSWORD_CHECKED = "password_checked"
NEW_NAME = "new_name"
NEW_PASSWORD = "new_password"


class Password:
    """Who asks, or who logs in, knows the password."""

    stage_type: ClassVar[str] = "m.login.password"

    def describe(self) -> Mapping[str, Any]:
        return {}

    def start(self, attempt: Attempt) -> Completed:
        password = required_text(attempt.submitted, "password")
        if attempt.kind == "register":
            return _of_new_account(attempt.submitted, password)
        return _of_login(attempt, password) if attempt.kind == "login" else _of_asking_user(attempt, password)

    submit = start


def _of_login(attempt: Attempt, password: str) -> Completed:
    user_id = attempt.user_id
    # A body that names nobody means the user whom the session is for.
    if user_id is None or any(attempt.submitted.get(key) is not None for key in ("identifier", "user", "medium")):
        user_id = user_of_identifier(attempt.submitted)
    if attempt.user_id not in {None, user_id}:
        raise UserChanged
    account = authenticate_password(user_id, password)
    if account is None:
        raise Forbidden("The user name or the password is wrong.")
    if not account.active:
        raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
    return Completed({PASSWORD_CHECKED: token_hash(account.password or "")}, account.user, proves=True)


def _of_asking_user(attempt: Attempt, password: str) -> Completed:
    if attempt.user_id is None or user_of_identifier(attempt.submitted) != attempt.user_id:
        raise Forbidden("This is not the user who asks.")
    if authenticate_password(attempt.user_id, password) is None:
        raise Forbidden("The password is wrong.")
    return Completed()


def _of_new_account(submitted: Mapping[str, Any], password: str) -> Completed:
    name = submitted.get("user")
    if not isinstance(name, str | None):
        raise BadJson("user must be a string.")
    check_new_password(password)
    return Completed({NEW_NAME: name or "", NEW_PASSWORD: hash_password(password)})


STAGE = Password()
