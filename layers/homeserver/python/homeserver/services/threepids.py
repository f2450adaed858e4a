"""The e-mail addresses of an account: which there are, adding one that was validated, removing them.

Source: client-server API v1.19, "Adding Account Administrative Contact Information". Nothing is published: this server
binds no address at an identity server.
"""

from collections.abc import Mapping
from typing import Any

from pynamodb.expressions.condition import Condition

from homeserver.matrix.email_address import normalised
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, MissingParam
from homeserver.services import email_validation
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.email_validation import ValidatedAddress
from homeserver.services.login_stages import email_identity
from homeserver.services.login_stages.stage import Origin
from homeserver.services.oauth_links import own_flows
from homeserver.services.user_interactive_auth import Authorisation, InteractionRequired, Operation, authorise
from homeserver.storage import threepids, validations
from homeserver.storage.accounts import ACCOUNT, Account
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.threepids import EMAIL

MOST_ADDRESSES = 20  # of one account: a bound for the reads, far above what anybody has
_MEDIA = frozenset({EMAIL, "msisdn"})


def list_threepids(user_id: str) -> list[dict[str, Any]]:
    """What `GET /account/3pid` lists. Times are milliseconds since the epoch."""
    return [
        {
            "medium": threepid.medium,
            "address": threepid.address,
            "validated_at": threepid.validated_at,
            "added_at": threepid.added_at,
        }
        for threepid in threepids.list_of(user_id)
    ]


# ── New accounts ────────────────────────────────────────────────────────────────────────────────────


def add_threepid(transaction: Transaction, user_id: str, medium: str, address: str, now: int) -> None:
    """Add an address that was validated just now to a transaction; label `threepid`, which fails if it is taken."""
    threepids.add(transaction, user_id, medium, address, validated_at=now, added_at=now)


def add_of_new_account(transaction: Transaction, user_id: str, facts: Mapping[str, str], now: int) -> None:
    """Add the address that the stages of a registration validated, if one did, to the account's transaction.

    Labels `threepid`, which fails if the address is taken by now, and `validation`, which fails if its proof was used.
    """
    if email_identity.EMAIL in facts:
        add_threepid(transaction, user_id, EMAIL, facts[email_identity.EMAIL], now)
    if email_identity.VALIDATION in facts:
        validations.claim(transaction, facts[email_identity.VALIDATION], user_id)


# ── Existing accounts ───────────────────────────────────────────────────────────────────────────────


def add_validated(user_id: str, body: Mapping[str, Any], origin: Origin) -> None:
    """`POST /account/3pid/add`: an address that was validated to be added, after authentication.

    Address, the proof's use and the end of the session are one transaction; whoever does not hear of it asks again.
    Raises InteractionRequired, M_THREEPID_AUTH_FAILED, M_THREEPID_IN_USE, MissingParam, BadJson, InvalidParam.
    """
    _add(user_id, Operation("POST /account/3pid/add", user_id, body, atomic=True, origin=origin), body)


def add_by_credentials(user_id: str, body: Mapping[str, Any], origin: Origin) -> None:
    """The deprecated `POST /account/3pid`, whose `three_pid_creds` (once `threePidCreds`) hold what is asked for.

    It asks for authentication too: else an access token alone would be worth a new password. Raises what add_validated
    does; an identity server's sessions are none of this server's (M_THREEPID_AUTH_FAILED).
    """
    credentials = body.get("three_pid_creds", body.get("threePidCreds"))
    if credentials is None:
        raise MissingParam("three_pid_creds is required.")
    if not isinstance(credentials, dict):
        raise BadJson("three_pid_creds must be an object.")
    operation = Operation("POST /account/3pid", user_id, body, atomic=True, origin=origin)
    if "auth" not in body:
        _usable(email_validation.validated(credentials, "add"), user_id)
        # As the endpoint is not one that clients expect this answer of, it is also an error like all others.
        needed = MatrixError("Authentication is needed here too.", errcode="M_UNAUTHORIZED")
        raise InteractionRequired.anew(operation, own_flows(user_id), needed)
    _add(user_id, operation, credentials)


def _add(user_id: str, operation: Operation, credentials: Mapping[str, Any]) -> None:
    # Whether there is a proof is told first, not after somebody has typed a password for nothing.
    proof = _usable(email_validation.validated(credentials, "add"), user_id)
    authorisation = authorise(operation, own_flows(user_id))
    for _ in attempts("This account"):
        if proof.claimed_by is not None and threepids.user_of(EMAIL, proof.address) == user_id:
            authorisation.finish()  # done before, by a request whose answer was lost
            return
        try:
            _adding(user_id, proof, authorisation).commit()
        except TransactionCancelled as lost:
            _check_lost(lost, user_id, operation)
            proof = _usable(email_validation.validated(credentials, "add"), user_id)
        else:
            return
    raise AssertionError("unreachable: attempts() raises")


def _usable(proof: ValidatedAddress, user_id: str) -> ValidatedAddress:
    """The proof, unless it was used up: for another user, or for an address that was removed again since."""
    if proof.claimed_by is None:
        owner = threepids.user_of(EMAIL, proof.address)
        if owner not in {None, user_id}:
            raise email_validation.in_use()
        if owner is None and len(threepids.list_of(user_id)) >= MOST_ADDRESSES:
            raise Forbidden(f"An account has at most {MOST_ADDRESSES} addresses.", errcode="M_THREEPID_DENIED")
    elif proof.claimed_by != user_id or threepids.user_of(EMAIL, proof.address) != user_id:
        raise email_validation.auth_failed()
    return proof


def _adding(user_id: str, proof: ValidatedAddress, authorisation: Authorisation) -> Transaction:
    transaction = Transaction()
    active: Condition = Account.deactivating.does_not_exist() & Account.deactivated.does_not_exist()
    transaction.check("account", Account, user_id, ACCOUNT, active)
    threepids.add(transaction, user_id, EMAIL, proof.address, validated_at=proof.validated_at, added_at=now_ms())
    validations.claim(transaction, proof.sid, user_id)
    authorisation.consume(transaction)
    return transaction


def _check_lost(lost: TransactionCancelled, user_id: str, operation: Operation) -> None:
    """Raises what a lost transaction means, if trying again cannot help."""
    if lost.failed("account"):
        raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED") from lost
    if lost.failed("threepid"):
        raise email_validation.in_use() from lost
    if lost.failed("session"):
        used = MatrixError("This session was used for another request.")
        raise InteractionRequired.anew(operation, own_flows(user_id), used) from lost
    if not lost.failed("validation") and not lost.conflict:
        raise lost


def delete_threepid(user_id: str, body: Mapping[str, Any]) -> str:
    """`POST /account/3pid/delete`: the requester's address is forgotten, if it is one. The `id_server_unbind_result`.

    That is always `no-support`: this server knows of no identity server at which the address is bound, and asks none.
    Raises MissingParam, BadJson, InvalidParam.
    """
    medium, address = body.get("medium"), body.get("address")
    if medium is None or address is None:
        raise MissingParam("medium and address are required.")
    if not all(isinstance(value, str | None) for value in (medium, address, body.get("id_server"))):
        raise BadJson("medium, address and id_server must be strings.")
    if medium not in _MEDIA:
        raise InvalidParam("medium must be email or msisdn.")
    if medium == EMAIL:
        try:
            _remove(user_id, EMAIL, normalised(address))
        except ValueError as error:
            raise InvalidParam(str(error)) from None
    return "no-support"


def remove_all(user_id: str) -> None:
    """Forget all addresses of a user whose account ends: from now on others can have them. Can be repeated."""
    for threepid in threepids.list_of(user_id):
        _remove(user_id, threepid.medium, threepid.address)


def _remove(user_id: str, medium: str, address: str) -> None:
    for _ in attempts("This account"):
        transaction = Transaction()
        threepids.remove(transaction, user_id, medium, address)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if lost.failed("threepid"):
                return  # not, or no longer, the user's
            if not lost.conflict:
                raise
        else:
            return
    raise AssertionError("unreachable: attempts() raises")
