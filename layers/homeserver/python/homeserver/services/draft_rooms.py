"""Making rooms and being in them, as the 2014 draft asks for it: the same rooms, by the same services.

Requests may come with a transaction ID (`RequestClaim`); then they are answered once, and their repetitions get the
same answer. A room and the answer that names it are one commit: there is no moment at which a cut-off request could
make a second one. Invitations that did not fit into that commit are made good by the repetition.

Source: the client-server specification of autumn 2014, "Rooms"; the draft, "Anti-glare" for rooms of two.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, MatrixError, NotFound
from homeserver.matrix.identifiers import is_user_id
from homeserver.services import membership, remote_aliases
from homeserver.services.access_tokens import Requester
from homeserver.services.create_room import RoomRequest, create_room
from homeserver.services.draft_aliases import new_alias
from homeserver.services.first_invites import invite_all
from homeserver.services.membership_requests import Elsewhere
from homeserver.services.remote_aliases import NamedRoom
from homeserver.services.request_transactions import Replayed, RequestClaim
from homeserver.services.send_event import check_room_id, local_users_of
from homeserver.services.typing import stop_typing_of_who_leaves
from homeserver.storage.connection import Key, Transaction, batch_get, in_parallel
from homeserver.storage.direct_rooms import DirectRoom, direct_key, set_direct_room
from homeserver.storage.room_previews import remote_members
from homeserver.storage.rooms import RoomView, load_room
from homeserver.storage.user_data import AccountData
from homeserver.storage.user_data import load as load_account_data

_IN_ONE_COMMIT = 5  # local invitations that certainly fit into the commit that makes the room
_MOST_DIRECT = 10  # rooms that the user's clients call direct, and that are looked at
_HERE = frozenset({"join", "invite"})


@dataclass(frozen=True, slots=True)
class DraftRoomRequest:
    """What a client asked for; the HTTP layer has checked the JSON types. `direct_to`: the other one of two."""

    is_public: bool = False
    alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[str] = ()
    direct_to: str | None = None


def create_draft_room(requester: Requester, asked: DraftRoomRequest, claim: RequestClaim | None) -> dict[str, Any]:
    """Make a room; the draft's answer, `room_id` and `room_alias` if it has one.

    With `direct_to`, a room that only these two are in is returned, if there is one: two who ask for each other at the
    same time get one room. Raises Replayed for a request that was answered before, and what `create_room` raises.
    """
    alias = new_alias(asked.alias_name, "room_alias_name") if asked.alias_name is not None else None
    answer = partial(_answer, alias)
    if asked.direct_to is not None:
        return _direct_room(requester, asked, claim, answer)
    try:
        return answer(create_room(requester, _request(asked, claim, _writer(claim, answer, asked.invite))))
    except Replayed as replayed:
        _finish(requester, replayed)
        raise


def _answer(alias: str | None, room_id: str) -> dict[str, Any]:
    return {"room_id": room_id, **({"room_alias": alias} if alias else {})}


def _request(
    asked: DraftRoomRequest, claim: RequestClaim | None, also: Callable[..., None] | None, direct: str | None = None
) -> RoomRequest:
    return RoomRequest(
        preset="public_chat" if asked.is_public else "private_chat",
        visibility="public" if asked.is_public else "private",
        alias_localpart=asked.alias_name,
        name=asked.name,
        topic=asked.topic,
        invite=list(dict.fromkeys([*asked.invite, *([direct] if direct else [])])),
        is_direct=direct is not None,
        also=also,
        claim=claim,
    )


def _writer(
    claim: RequestClaim | None, answer: Callable[[str], Mapping[str, Any]], invited: Sequence[str]
) -> Callable[..., None] | None:
    if claim is None:
        return None
    may_be_cut_off = len(invited) > _IN_ONE_COMMIT or len(local_users_of(invited)) < len(invited)

    def write(transaction: Transaction, room_id: str) -> None:
        claim.write(transaction, answer(room_id), invited=invited if may_be_cut_off else ())

    return write


def _finish(requester: Requester, replayed: Replayed) -> None:
    """Invite whom the first request was to invite, and has not: those of whom the room has never heard."""
    invited, room_id = replayed.stored.to_invite, replayed.stored.answer["room_id"]
    if not invited:
        return
    view, _ = load_room(room_id, [("m.room.member", user) for user in invited])
    missing = [user for user in invited if view is not None and view.event("m.room.member", user) is None]
    invite_all(requester, room_id, missing, is_direct=False)


# ── Rooms of two ─────────────────────────────────────────────────────────────


def _direct_room(
    requester: Requester,
    asked: DraftRoomRequest,
    claim: RequestClaim | None,
    answer: Callable[[str], dict[str, Any]],
) -> dict[str, Any]:
    other = asked.direct_to or ""
    if not is_user_id(other) or other == requester.user_id:
        raise BadJson("direct_to must be the ID of another user.")
    if asked.invite:
        raise BadJson("With direct_to nobody else is invited.")
    key = direct_key(requester.user_id, other)
    while True:
        before, room_id = _existing(requester.user_id, other, key, claim)
        if room_id is not None:
            return {"room_id": room_id}
        place = _Place(key, before, _writer(claim, answer, [other]))
        try:
            return answer(create_room(requester, _request(asked, claim, place.write, other)))
        except _Taken:
            continue  # the other one made the room meanwhile
        except Replayed as replayed:
            _finish(requester, replayed)
            raise


class _Taken(Exception):
    """Somebody else made the room of the two."""


@dataclass(slots=True)
class _Place:
    """The item of two users, as it was read, which the commit of their room changes; `also`: what else it writes."""

    key: Key
    before: str | None
    also: Callable[..., None] | None
    _tries: int = 0

    def write(self, transaction: Transaction, room_id: str) -> None:
        """Add the item to the transaction. Raises _Taken where an earlier try has lost against the other user."""
        self._tries += 1
        if self._tries > 1:
            current: DirectRoom | None = batch_get([self.key], consistent=True).get(self.key)
            if (current.room if current is not None else None) != self.before:
                raise _Taken
        set_direct_room(transaction, self.key, room_id, before=self.before)
        if self.also is not None:
            self.also(transaction, room_id)


def _existing(user_id: str, other: str, key: Key, claim: RequestClaim | None) -> tuple[str | None, str | None]:
    """The room that stands in the item of the two, and a room that only they are in; None for what there is not."""
    keys = [key, *([claim.key] if claim is not None else [])]
    found, account_data = in_parallel(
        partial(batch_get, keys, consistent=True), partial(load_account_data, user_id, None, "m.direct")
    )
    if claim is not None:
        claim.check(found)
    item: DirectRoom | None = found.get(key)
    before = str(item.room) if item is not None else None
    rooms = list(dict.fromkeys([*([before] if before else []), *_called_direct(account_data, other)]))
    members = [("m.room.member", user) for user in (user_id, other)]
    views = in_parallel(*[partial(load_room, room_id, members) for room_id in rooms])
    live = [room_id for room_id, (view, _) in zip(rooms, views, strict=True) if _is_theirs(view, user_id, other)]
    # Of several the one that the other's server would choose too.
    return before, before if before in live else min(live, default=None)


def _called_direct(account_data: AccountData | None, other: str) -> list[str]:
    """The rooms that the user's clients of today keep as direct ones with the other."""
    rooms = account_data.content.get(other) if account_data is not None else None
    return [room for room in rooms if isinstance(room, str)][-_MOST_DIRECT:] if isinstance(rooms, list) else []


def _is_theirs(view: RoomView | None, user_id: str, other: str) -> bool:
    """Whether both are in the room, or invited to it, and nobody else is in it."""
    if view is None or view.head.kind != "full":
        return False
    two = [view.membership(user_id), view.membership(other)]
    if not _HERE.issuperset(two) or "join" not in two:
        return False
    return int(view.head.local_members) + remote_members(view.head) == two.count("join")


# ── Memberships ──────────────────────────────────────────────────────────────


def join(requester: Requester, room_id_or_alias: str, claim: RequestClaim | None) -> dict[str, Any]:
    """Join a room by ID or alias. To who is not let in, a room is as one that does not exist.

    Raises NotFound for both, Forbidden for who is banned (they know the room), and what `membership.join_room` raises.
    """
    elsewhere = Elsewhere()
    if claim is not None and room_id_or_alias.startswith("#"):
        # An alias may be gone by the time the request is repeated.
        _, room = in_parallel(claim.find, partial(_named, room_id_or_alias))
    else:
        room = _named(room_id_or_alias)
    if isinstance(room, MatrixError):
        raise room
    answer = {"room_id": room.room_id}
    if claim is not None:
        claim.answer = answer
    try:
        membership.join_room(requester, room.room_id, elsewhere=Elsewhere(room.servers, elsewhere.until), claim=claim)
    except Forbidden as error:
        if error.errcode != "M_FORBIDDEN" or getattr(error, "rule", None) == _BANNED:
            raise
        raise NotFound("There is no such room.") from error
    return answer


_BANNED = "M3.3"  # the rule of room versions that refuses banned users


def _named(room_id_or_alias: str) -> NamedRoom | MatrixError:
    try:
        return remote_aliases.room_named(room_id_or_alias)
    except MatrixError as error:
        return error


def leave(requester: Requester, room_id: str, reason: str | None, claim: RequestClaim | None) -> None:
    """Leave a room, decline an invitation; in 2014 who left typed no more. Raises as `membership.leave_room`.

    Both at the same time, so that it takes hardly longer: to stop typing is harmless where leaving is refused.
    """
    check_room_id(room_id)
    _, tell = in_parallel(
        partial(membership.leave_room, requester, room_id, reason=reason, claim=claim),
        partial(stop_typing_of_who_leaves, room_id, requester.user_id),
    )
    if tell is not None:
        tell()


def invite(
    requester: Requester, room_id: str, user_id: str, reason: str | None, claim: RequestClaim | None = None
) -> None:
    """Invite a user. Raises as `membership.invite`."""
    check_room_id(room_id)
    membership.invite(requester, room_id, user_id, reason=reason, claim=claim)


def kick(
    requester: Requester, room_id: str, user_id: str, reason: str | None, claim: RequestClaim | None = None
) -> None:
    """Let a user's membership end; the draft knows no other way to lift a ban. Raises as `membership.remove`."""
    if user_id == requester.user_id:
        leave(requester, room_id, reason, claim)
    else:
        check_room_id(room_id)
        membership.remove(requester, room_id, user_id, reason=reason, claim=claim)


def ban(
    requester: Requester, room_id: str, user_id: str, reason: str | None, claim: RequestClaim | None = None
) -> None:
    """Ban a user. Raises as `membership.ban`."""
    check_room_id(room_id)
    membership.ban(requester, room_id, user_id, reason=reason, claim=claim)


def set_member(requester: Requester, room_id: str, user_id: str, content: Mapping[str, Any]) -> None:
    """A membership that is set as a state event: what the endpoint of that membership does, and nothing else.

    Name and avatar come from the profile, as in 2014. Raises BadJson for no membership of the draft's, Forbidden for
    who wants to make another user join, and as the endpoints do.
    """
    wanted, reason = content.get("membership"), content.get("reason")
    reason = reason if isinstance(reason, str) else None
    if wanted == "join":
        if user_id != requester.user_id:
            raise Forbidden("Users can only join for themselves.")
        check_room_id(room_id)
        join(requester, room_id, None)
    elif wanted == "leave":
        kick(requester, room_id, user_id, reason)
    elif wanted == "invite":
        invite(requester, room_id, user_id, reason)
    elif wanted == "ban":
        ban(requester, room_id, user_id, reason)
    else:
        raise BadJson("membership must be one of invite, join, leave and ban.")
