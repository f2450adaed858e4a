"""`m.login.oauth2`: somebody logs in at another server, with which this one has an agreement.

Source: the 2014 draft, "OAuth2-based" login.

The first body is answered with the `uri` to visit. What happens there comes to this server's callback
(oauth_login.py), which leaves in the session who came back; until then a further body is answered with 400.
"""

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from homeserver.matrix.errors import BadJson, Forbidden, MatrixError
from homeserver.services.login_stages.stage import Attempt, Completed, NotYet, UserChanged, Waiting
from homeserver.services.oauth_providers import provider_of, providers
from homeserver.services.oauth_requests import MAX_USER_AGENT, own_address, prepare
from homeserver.services.passwords import user_of_identifier
from homeserver.storage.accounts import load_account

PICK_PATH = "/_matrix/client/api/v1/login/oauth2/pick"
# What the session's `pending` has: who must come back, if that was said; who came back; why it failed; who began it.
CLAIMED, FOUND, FAILED = "claimed", "found", "failed"
ADDRESS, USER_AGENT = "address", "user_agent"
_POLL_MS = 2000


class OAuth2:
    """Somebody else knows who they are."""

    stage_type: ClassVar[str] = "m.login.oauth2"

    def describe(self) -> Mapping[str, Any]:
        return {"providers": [{"id": provider.id, "name": provider.name} for provider in providers()]}

    def start(self, attempt: Attempt) -> Waiting:
        claimed = _claimed(attempt)
        pending = {ADDRESS: attempt.origin.address, USER_AGENT: attempt.origin.user_agent[:MAX_USER_AGENT]}
        if claimed is not None:
            pending[CLAIMED] = claimed
        wanted = attempt.submitted.get("provider")
        if not isinstance(wanted, str | None):
            raise BadJson("provider must be a string.")
        known = providers() if wanted is None else (provider_of(wanted),)
        if len(known) > 1:
            uri = f"{own_address(attempt.origin)}{PICK_PATH}?{urlencode({'session': attempt.session})}"
            return Waiting(pending, {"uri": uri}, claimed)
        request = prepare(known[0], "login", attempt.session, attempt.origin)
        return Waiting(pending, {"uri": request.url}, claimed, then=lambda _: request.store())

    def submit(self, attempt: Attempt) -> Completed:
        failed, found = attempt.pending.get(FAILED), attempt.pending.get(FOUND)
        if failed is not None:
            kind = Forbidden if failed["status"] == 403 else MatrixError
            raise kind(failed["error"], errcode=failed["errcode"], status=failed["status"])
        if found is None:
            raise NotYet(
                "Nobody has come back from the provider yet.",
                errcode="M_LOGIN_OAUTH2_NOT_YET",
                extra={"retry_after_ms": _POLL_MS},
            )
        if _names_somebody(attempt.submitted) and user_of_identifier(attempt.submitted) != found:
            raise UserChanged
        account = load_account(found)
        if account is None or not account.active:
            raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
        return Completed(user_id=found, proves=True)


def _names_somebody(submitted: Mapping[str, Any]) -> bool:
    return submitted.get("user") is not None or submitted.get("identifier") is not None


def _claimed(attempt: Attempt) -> str | None:
    """The user who has to come back; None if that was not said."""
    if attempt.kind == "register" or (attempt.kind == "interactive" and attempt.user_id is None):
        raise Forbidden("Only who has an account can do this.")
    if not _names_somebody(attempt.submitted):
        return attempt.user_id
    named = user_of_identifier(attempt.submitted)
    if named is None:
        raise Forbidden("There is no such user on this server.")
    if attempt.user_id is not None and named != attempt.user_id:
        if attempt.kind == "login":
            raise UserChanged
        raise Forbidden("This is not the user who asks.")
    return named


STAGE = OAuth2()
