"""What this server sent browsers away for: one item a `state`, in the table of sessions, for ten minutes.

The key is a hash of the state, which only the browser has. The item holds no secret: `salt` is one of three parts that
the PKCE verifier and the nonce are made of (services/oauth_requests.py).
"""

import time
from typing import Literal

from pynamodb.attributes import BinaryAttribute, UnicodeAttribute
from pynamodb.exceptions import DeleteError

from homeserver.storage.passing_items import PassingItem

SECONDS = 10 * 60
_PREFIX = "oauth/"

# login: a session waits for it. sso: another client does. link: a user adds a way to log in.
# confirm: all is done, but for somebody's word that it was them who began it.
Purpose = Literal["login", "sso", "link", "confirm"]


class OauthState(PassingItem):
    """A request to a provider that was not answered yet."""

    kind = UnicodeAttribute(default="oauth")
    purpose = UnicodeAttribute()
    provider = UnicodeAttribute()  # its ID
    # login: the session's ID. sso: the client's redirect URL. link: the user.
    target = UnicodeAttribute()
    salt = BinaryAttribute(null=True, legacy_encoding=False)
    redirect_uri = UnicodeAttribute(null=True)  # ours, as the provider was told it
    browser = UnicodeAttribute(null=True)  # sso: hash of the cookie of the browser that began it
    # Who began it: shown to somebody who comes back from elsewhere.
    address = UnicodeAttribute(null=True)
    user_agent = UnicodeAttribute(null=True)
    user = UnicodeAttribute(null=True)  # confirm: the user whom the provider's account belongs to
    identity = UnicodeAttribute(null=True)  # confirm, of a link: the hash of the provider's account


def store(state_hash: str, state: OauthState) -> None:
    """Keep a request for ten minutes under the hash of its state."""
    state.session, state.expires = _PREFIX + state_hash, int(time.time()) + SECONDS
    state.save()


def take(state_hash: str) -> OauthState | None:
    """Use a request up. None if it is unknown, used or expired: of several who take it at once one gets it."""
    found = OauthState.current(_PREFIX + state_hash)
    if found is None:
        return None
    try:
        found.delete(OauthState.session.exists())
    except DeleteError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return None
    return found
