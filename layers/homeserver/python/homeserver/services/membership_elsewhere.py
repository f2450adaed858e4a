"""What users do to themselves in rooms that this server is not in, or in which nobody of it can let them in.

Source: Matrix v1.19, server-server API, "Joining Rooms", "Restricted rooms", "Leaving Rooms (Rejecting Invites)".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import V11
from homeserver.services import guests
from homeserver.services.access_tokens import Requester
from homeserver.services.membership_requests import Elsewhere, begin_leaving, have_done
from homeserver.services.residency import candidates, is_resident, server_of_id, servers_that_invite
from homeserver.services.resident_servers import resident_servers
from homeserver.services.send_event import NOT_IN_ROOM
from homeserver.services.stub_rooms import PENDING, stub_of
from homeserver.storage.rooms import RoomView


def is_elsewhere(view: RoomView | None, user_id: str, wanted: object) -> bool:
    """Whether a change of a local user's own membership is to be made through another server."""
    if view is None:
        return wanted in {"join", "knock"}
    row, event = view.locals.get(user_id), view.event("m.room.member", user_id)
    is_pending = row is not None and row.membership in PENDING
    # An invitation or a knock that the room's state, as it is known here, does not have.
    is_beside = is_pending and (event is None or row is None or event.event_id != row.event_id)
    if is_resident(view) and (int(view.head.local_members) > 0 or not is_beside):
        return wanted == "leave" and is_beside and view.head.rows_root == view.head.root
    return wanted in {"join", "knock"} or (wanted == "leave" and row is not None)


def change_elsewhere(
    requester: Requester,
    room_id: str,
    view: RoomView | None,
    content: Mapping[str, Any],
    elsewhere: Elsewhere | None,
    *,
    unless: Sequence[str],
    exactly: bool,
) -> Event | None:
    """Let a worker join, knock or leave through other servers; None if the membership is one of `unless` already.

    `view` is what there is of the room, with the user's row; `exactly`: only for who has an invitation or a knock
    there. Of the event only the ID is returned. Raises Forbidden, NotFound where there is nobody to ask, what
    `have_done` raises.
    """
    user_id, wanted = requester.user_id, str(content["membership"])
    row = view.locals.get(user_id) if view is not None else None
    before = row.membership if row is not None else None
    if before is not None and before in unless:
        return None
    if (exactly or wanted == "leave") and before not in PENDING:
        raise Forbidden(NOT_IN_ROOM)
    if requester.is_guest and wanted != "leave":
        raise guests.guests_forbidden("Guests cannot enter rooms of other servers.")
    elsewhere = elsewhere or Elsewhere()
    stub = stub_of(room_id, user_id) if row is not None else None
    known = resident_servers(room_id) if view is not None and view.head.kind == "full" and not exactly else ()
    servers = candidates(stub.servers if stub else (), elsewhere.servers, server_of_id(room_id), known)
    if not servers and wanted != "leave":
        raise NotFound("This server knows no such room, and no other server to ask.")
    event_id = have_done(room_id, user_id, wanted, content, servers, until=elsewhere.until)
    return Event(event_id, room_id, {}, V11)


def let_in_elsewhere(
    requester: Requester, view: RoomView, content: Mapping[str, Any], elsewhere: Elsewhere | None
) -> Event:
    """Let a worker join a restricted room that this server is in, through a server whose users can let people in.

    `view` has create and power levels. Raises as `change_elsewhere` does.
    """
    elsewhere = elsewhere or Elsewhere()
    if requester.is_guest:
        raise guests.guests_forbidden("Guests cannot enter rooms of other servers.")
    servers = candidates(servers_that_invite(view), elsewhere.servers)
    event_id = have_done(view.room_id, requester.user_id, "join", content, servers, until=elsewhere.until)
    return Event(event_id, view.room_id, {}, V11)


def leave_unseen(user_id: str, room_id: str, content: Mapping[str, Any]) -> None:
    """Let a worker end an invitation or a knock of a user, who does not wait for it."""
    stub = stub_of(room_id, user_id)
    servers = candidates(stub.servers if stub else (), server_of_id(room_id))
    begin_leaving(room_id, user_id, content, servers)
