"""`m.login.email.identity`: whoever asks reads the mail of an address, which was validated before.

Source: client-server API v1.19, "Email-based (identity / homeserver)" authentication. The client gets `sid` from one
of the `email/requestToken` endpoints (services/email_validation.py), and submits it once the link was followed.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from homeserver.matrix.errors import BadJson, Forbidden, MatrixError, MissingParam
from homeserver.services import email_validation
from homeserver.services.email_validation import Purpose, validated
from homeserver.services.login_stages.stage import Attempt, Completed
from homeserver.storage import threepids

# Facts: the address, and the validation that proves it, which is used up by what the session permits.
EMAIL = "email"
VALIDATION = "email_validation"


class EmailIdentity:
    """The client shows a validation whose link was followed."""

    stage_type: ClassVar[str] = "m.login.email.identity"

    def describe(self) -> Mapping[str, Any]:
        return {}

    def start(self, attempt: Attempt) -> Completed:
        purpose = _purpose(attempt)
        proof = validated(_credentials(attempt.submitted), purpose)
        owner = threepids.user_of(threepids.EMAIL, proof.address)
        if purpose == "register":
            if owner is not None:
                raise email_validation.in_use()
        elif owner is None:
            raise MatrixError("No account has this e-mail address.", errcode="M_THREEPID_NOT_FOUND")
        elif attempt.user_id not in {None, owner}:
            raise Forbidden("This is not the user who asks.")
        if proof.claimed_by not in {None, owner}:
            raise email_validation.auth_failed()
        return Completed({EMAIL: proof.address, VALIDATION: proof.sid}, owner, proves=owner is not None)

    submit = start


def _purpose(attempt: Attempt) -> Purpose:
    if attempt.kind == "register" or attempt.operation == "POST /register":
        return "register"
    return "password" if attempt.operation == "POST /account/password" else "add"


def _credentials(submitted: Mapping[str, Any]) -> Mapping[str, Any]:
    """`threepid_creds`, or what it was called before."""
    credentials = submitted.get("threepid_creds", submitted.get("threepidCreds"))
    if credentials is None:
        raise MissingParam("threepid_creds is required.")
    if not isinstance(credentials, dict):
        raise BadJson("threepid_creds must be an object.")
    return credentials


STAGE = EmailIdentity()
