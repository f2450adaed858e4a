"""The requester's own account: who am I, what can this server do, the end of the account.

Source: client-server API v1.19, "Account management", "Capabilities negotiation".
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import BadJson
from homeserver.matrix.room_versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS
from homeserver.observability import fault_point
from homeserver.services.access_tokens import Requester, revoke_all_devices, revoke_device
from homeserver.services.login_flows import has_mail
from homeserver.services.login_stages.stage import Origin
from homeserver.services.oauth_links import forget_links, own_flows
from homeserver.services.threepids import remove_all
from homeserver.services.user_index import forget_user
from homeserver.services.user_interactive_auth import Operation, authorise
from homeserver.storage.accounts import ACCOUNT, Account
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.profiles import Profile


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
        "m.3pid_changes": {"enabled": has_mail()},
        "m.get_login_token": {"enabled": True},
        "m.forget_forced_upon_leave": {"enabled": False},
    }


def deactivate(requester: Requester, body: Mapping[str, Any], origin: Origin) -> str:
    """End the requester's account for ever, after authentication. Returns the `id_server_unbind_result`.

    First nobody can log in any more and the other devices are logged out; then the user leaves all rooms; password,
    profile, the requester's device and the session go last and together. After a crash the same request goes on.
    Raises InteractionRequired, BadJson.
    """
    erase = body.get("erase")
    if not isinstance(erase, bool | None) or not isinstance(body.get("id_server"), str | None):
        raise BadJson("erase must be a boolean, id_server a string.")
    user_id = requester.user_id
    operation = Operation("POST /account/deactivate", user_id, body, origin=origin)
    authorisation = authorise(operation, own_flows(user_id))
    Account(user_id, ACCOUNT).update([Account.deactivating.set(True)], Account.k.exists())
    fault_point("account.deactivating")
    revoke_all_devices(user_id, keep=requester.device_id)
    # Not at the top: leaving rooms pulls in the whole commit, which nothing else in this function needs.
    from homeserver.services.membership import leave_all_rooms  # noqa: PLC0415 - see above

    leave_all_rooms(user_id)
    fault_point("account.rooms_left")
    forget_user(user_id)
    remove_all(user_id)
    forget_links(user_id)

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
