"""The requester's own account: who am I, what can this server do, another password, the end of the account.

Source: client-server API v1.19, "Account management", "Capabilities negotiation".
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, MissingParam
from homeserver.matrix.room_versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS
from homeserver.observability import fault_point
from homeserver.services.access_tokens import Requester, revoke_all_devices, revoke_device
from homeserver.services.attempts import attempts
from homeserver.services.passwords import check_new_password, hash_password
from homeserver.services.user_index import forget_user
from homeserver.services.user_interactive_auth import Flows, Operation, Password, authorise
from homeserver.storage.accounts import ACCOUNT, Account, load_account
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.profiles import Profile

_FLOWS: Flows = [[Password()]]


def who_am_i(requester: Requester) -> dict[str, Any]:
    """The owner of the access token."""
    return {"user_id": requester.user_id, "device_id": requester.device_id, "is_guest": requester.is_guest}


def capabilities() -> dict[str, Any]:
    """What users of this server can do."""
    return {
        "m.change_password": {"enabled": True},
        "m.room_versions": {
            "default": DEFAULT_ROOM_VERSION,
            "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
        },
        "m.set_displayname": {"enabled": True},
        "m.set_avatar_url": {"enabled": True},
        "m.profile_fields": {"enabled": True},
        "m.3pid_changes": {"enabled": False},
        "m.get_login_token": {"enabled": False},
        "m.forget_forced_upon_leave": {"enabled": False},
    }


def change_password(requester: Requester, body: Mapping[str, Any]) -> None:
    """Give the requester the password `new_password`, after authentication.

    Every other device is logged out unless `logout_devices` is false; the requester's own stays logged in. Each step
    can be repeated: after a crash the same request, with the same session, goes on.
    Raises InteractionRequired, MissingParam, BadJson, M_WEAK_PASSWORD, LimitExceeded.
    """
    new_password, logout_devices = body.get("new_password"), body.get("logout_devices", True)
    if new_password is None:
        raise MissingParam("new_password is required.")
    if not isinstance(new_password, str) or not isinstance(logout_devices, bool):
        raise BadJson("new_password must be a string, logout_devices a boolean.")
    check_new_password(new_password)
    authorisation = authorise(Operation("POST /account/password", requester.user_id, body), _FLOWS)
    # From here on a login that checked the old password fails: its transaction names the hash that it checked.
    _replace_password(requester.user_id, hash_password(new_password))
    fault_point("account.password_changed")
    if logout_devices:
        revoke_all_devices(requester.user_id, keep=requester.device_id)
    authorisation.finish()


def _replace_password(user_id: str, password_hash: str) -> None:
    for _ in attempts("This account"):
        account = _active_account(user_id)
        if account.change_password_hash(account.password, password_hash):
            return


def _active_account(user_id: str) -> Account:
    account = load_account(user_id)
    if account is None or not account.active:
        raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
    return account


def deactivate(requester: Requester, body: Mapping[str, Any]) -> str:
    """End the requester's account for ever, after authentication. Returns the `id_server_unbind_result`.

    First nobody can log in any more and the other devices are logged out; then the user leaves all rooms; password,
    profile, the requester's device and the session go last and together. After a crash the same request goes on.
    Raises InteractionRequired, BadJson.
    """
    erase = body.get("erase")
    if not isinstance(erase, bool | None) or not isinstance(body.get("id_server"), str | None):
        raise BadJson("erase must be a boolean, id_server a string.")
    user_id = requester.user_id
    authorisation = authorise(Operation("POST /account/deactivate", user_id, body), _FLOWS)
    Account(user_id, ACCOUNT).update([Account.deactivating.set(True)], Account.k.exists())
    fault_point("account.deactivating")
    revoke_all_devices(user_id, keep=requester.device_id)
    # Not at the top: leaving rooms pulls in the whole commit, which nothing else in this function needs.
    from homeserver.services.membership import leave_all_rooms  # noqa: PLC0415 - see above

    leave_all_rooms(user_id)
    fault_point("account.rooms_left")
    forget_user(user_id)

    def end(transaction: Transaction) -> None:
        actions = [Account.deactivated.set(True), Account.deactivating.remove(), Account.password.remove()]
        if erase:
            actions.append(Account.erased.set(True))
        transaction.update("account", Account(user_id, ACCOUNT), actions, Account.k.exists())
        transaction.delete("profile", Profile(user_id))
        authorisation.consume(transaction)

    try:
        revoke_device(user_id, requester.device_id, also=end)
    except TransactionCancelled as lost:
        if not lost.failed("session"):
            raise  # else a repetition of this request was faster, and everything is done
    # With nothing to unbind the answer has to be `success`, and no account has an identifier that was bound.
    return "success"
