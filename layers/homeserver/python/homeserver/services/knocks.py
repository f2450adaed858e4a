"""Knocking: asking to be let in.

Source: client-server API v1.19, "Knocking on rooms"; room versions 7 and 10.

A knock is a membership event of the user's own. A member answers it with an invitation, or turns it down with a kick or
a ban; the user takes it back by leaving. How it shows in `/sync` is the follower's business (`followed_memberships`).
"""

from typing import Any

from homeserver.services.access_tokens import Requester
from homeserver.services.membership import change_membership
from homeserver.services.membership_requests import Elsewhere


def knock(requester: Requester, room_id: str, *, reason: str | None = None, elsewhere: Elsewhere | None = None) -> None:
    """Knock at a room, through other servers if need be. Knocking again while a knock is pending changes nothing.

    Raises NotFound for a room that nobody knows, Forbidden where the room is not to be knocked at, and for members,
    invited and banned users; what `membership_requests.have_done` raises.
    """
    content: dict[str, Any] = {"membership": "knock"}
    if reason is not None:
        content["reason"] = reason
    user_id = requester.user_id
    change_membership(requester, user_id, room_id, content, unless=("knock",), with_profile=True, elsewhere=elsewhere)
