"""Links: a user of this server lets themselves log in with an account at a provider, and ends that again.

Source: the 2014 draft, "OAuth2-based" login, which takes the link for given; client-server API v1.19,
"User-Interactive Authentication API".
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.login_flows import OAUTH2, PASSWORD
from homeserver.services.login_stages.stage import Origin
from homeserver.services.oauth_providers import Provider, provider_of, providers
from homeserver.services.oauth_requests import prepare
from homeserver.services.user_interactive_auth import Flows, Operation, authorise
from homeserver.storage import oauth_identities
from homeserver.storage.accounts import ACCOUNT, Account, load_account, usable_with
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.oauth_identities import MOST_LINKS


def own_flows(user_id: str) -> Flows:
    """How a user proves to be it still: by the password, or, if they log in with one, an account at a provider."""
    if not providers() or not oauth_identities.links_of(user_id):
        return [[PASSWORD]]
    account = load_account(user_id)
    # Clients begin with the first flow that they know: it must be one that this user can do.
    return [[OAUTH2]] if account is None or account.password is None else [[PASSWORD], [OAUTH2]]


def begin_link(requester: Requester, body: Mapping[str, Any], origin: Origin) -> str:
    """`POST /oauth2/link`: where the requester goes to link their account at `provider`, after authentication.

    `provider` may be absent where there is only one. Raises InteractionRequired, NotFound for an unknown provider,
    Forbidden for guests and above 20 links, M_UNKNOWN (502).
    """
    if requester.is_guest:
        raise Forbidden("Guests cannot link accounts.")
    provider = _chosen(body.get("provider"))
    if len(oauth_identities.links_of(requester.user_id)) >= MOST_LINKS:
        raise Forbidden(f"There can be no more than {MOST_LINKS} links.")
    operation = Operation("POST /oauth2/link", requester.user_id, body, origin=origin)
    authorisation = authorise(operation, own_flows(requester.user_id))
    request = prepare(provider, "link", requester.user_id, origin)
    request.store()
    authorisation.finish()
    return request.url


def _chosen(provider_id: object) -> Provider:
    if isinstance(provider_id, str):
        return provider_of(provider_id)
    known = providers()
    if len(known) != 1 or provider_id is not None:
        raise NotFound("provider must be the ID of one of this server's providers.")
    return known[0]


def link(provider_id: str, hashed: str, user_id: str) -> None:
    """Let a user log in with an account at a provider. Nothing changes if they can already.

    Raises Forbidden if the account is linked to somebody else, or the user was deactivated meanwhile.
    """
    provider = provider_of(provider_id)
    for _ in attempts("This account"):
        owner = oauth_identities.owner_of(hashed)
        if owner == user_id:
            return
        if owner is not None:
            raise Forbidden(f"This account of {provider.name} is linked to another user.")
        account = load_account(user_id)
        if account is None or not account.active:
            raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
        transaction = Transaction()
        transaction.check("account", Account, user_id, ACCOUNT, usable_with(account.password))
        oauth_identities.add(transaction, user_id, hashed, provider=provider.id, issuer=provider.issuer, now=now_ms())
        try:
            transaction.commit()
        except TransactionCancelled:
            continue
        return


def links(user_id: str) -> list[dict[str, Any]]:
    """The links of a user: `id`, `provider`, its `name` (absent if it is configured no more), `linked_ts`."""
    names = {provider.id: provider.name for provider in providers()}
    return [
        {"id": found.identity_hash, "provider": found.provider, "linked_ts": int(found.linked)}
        | ({"name": names[found.provider]} if found.provider in names else {})
        for found in oauth_identities.links_of(user_id)
    ]


def unlink(user_id: str, link_id: str) -> None:
    """End a link. Raises NotFound for one that the user does not have, Forbidden if no other way to log in was left."""
    found = oauth_identities.links_of(user_id)
    if link_id not in {one.identity_hash for one in found}:
        raise NotFound("There is no such link.")
    account = load_account(user_id)
    if len(found) == 1 and (account is None or account.password is None):
        raise Forbidden("This is the only way to log in to this account: set a password first.")
    _end(user_id, link_id)


def forget_links(user_id: str) -> None:
    """End all links of a user who is being deactivated."""
    for found in oauth_identities.links_of(user_id):
        _end(user_id, found.identity_hash)


def _end(user_id: str, hashed: str) -> None:
    for _ in attempts("This account"):
        try:
            oauth_identities.remove(user_id, hashed)
        except TransactionCancelled:
            continue
        return
