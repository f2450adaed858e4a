"""Who is who: which local user logs in with an account at a provider; new accounts that come of it.

Source: the 2014 draft, "OAuth2-based" login; OpenID Connect Core 1.0, section 5.7: only issuer and subject together
identify somebody. Names and addresses that a provider tells are never taken for an identity.

A provider with `register` gives whoever comes for the first time an account, whatever REGISTRATION says: who may come
is decided there. Its name is the localpart that a claim gives; if that is taken, with a number behind it, as the person
can choose no other one here. An account that exists is only ever linked by its own user (oauth_links.py).
"""

import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from homeserver.matrix.errors import Forbidden, MatrixError
from homeserver.observability import fault_point
from homeserver.services import rate_limits
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.oauth_providers import Provider
from homeserver.storage import oauth_identities
from homeserver.storage.accounts import create_account, load_account
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.oauth_identities import identity_hash
from homeserver.storage.profiles import create_profile
from homeserver.storage.user_index import IndexedUser, add_new_user

_NO_LOCALPART = re.compile(r"[^a-z0-9._=-]+")
_LONGEST_LOCALPART = 64
_LONGEST_NAME = 256
_NUMBERED = 5  # names that are tried one after the other


def user_of(provider: Provider, claims: Mapping[str, Any], address: str, *, may_register: bool) -> str:
    """The user who logs in with an account at a provider; a new one, if the provider makes them.

    Raises Forbidden for an account that is linked to nobody, M_USER_DEACTIVATED, LimitExceeded.
    """
    hashed = identity_hash(provider.issuer, claims["sub"])
    owner = oauth_identities.owner_of(hashed)
    if owner is None and provider.register and may_register:
        rate_limits.take_registration(address)
        owner = _registered(provider, claims, hashed)
    if owner is None:
        raise Forbidden(f"This account of {provider.name} is linked to none of this server.")
    account = load_account(owner)
    if account is None or not account.active:
        raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
    return owner


def _registered(provider: Provider, claims: Mapping[str, Any], hashed: str) -> str:
    """Make an account, its profile and its link in one transaction. Whoever is overtaken by another gets theirs."""
    # Not at the top: registration stands on login, which asks oauth_login what to offer.
    from homeserver.services.registration import check_username  # noqa: PLC0415 - see above

    names = _names(claims.get(provider.localpart_claim))
    name = next(names)
    for _ in attempts("This account"):
        try:
            user_id = check_username(name)
        except MatrixError:
            name = next(names)
            continue
        transaction = Transaction()
        display_name = _shown_name(claims.get(provider.displayname_claim or "")) or name
        create_account(transaction, user_id, password_hash=None, admin=False, now=now_ms())
        create_profile(transaction, user_id, display_name)
        add_new_user(transaction, IndexedUser.of(user_id, {"displayname": display_name}))
        oauth_identities.add(transaction, user_id, hashed, provider=provider.id, issuer=provider.issuer, now=now_ms())
        fault_point("oauth_accounts.register")
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            owner = oauth_identities.owner_of(hashed) if lost.failed("identity") or lost.conflict else None
            if owner is not None:
                return owner
            if lost.failed("account"):
                name = next(names)
        else:
            return user_id
    raise AssertionError("unreachable: attempts() raises")


def _shown_name(claim: object) -> str | None:
    """The display name that a claim gives; none for half a character, which JSON can write and nobody can store."""
    text = claim[:_LONGEST_NAME].strip() if isinstance(claim, str) else ""
    return text if text and not any("\ud800" <= character <= "\udfff" for character in text) else None


def _names(claim: object) -> Iterator[str]:
    """The localparts to try: that of the claim, with a number, with chance. An e-mail address gives its first part."""
    text = claim.partition("@")[0] if isinstance(claim, str) else ""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    # A name that begins with an underscore looks like a bridge's.
    name = _NO_LOCALPART.sub("-", plain)[:_LONGEST_LOCALPART].strip("-_.")
    if name:
        yield name
        for number in range(2, _NUMBERED + 1):
            yield f"{name}-{number}"
    while True:
        yield f"{name or 'user'}-{secrets.token_hex(4)}"
