"""Rooms that this server is not in: what a local user is there, and what `/sync` and the other endpoints tell of it."""

from typing import Any
from urllib.parse import quote

import pytest

from functions.foreign_room import ForeignRoom
from functions.harness import Answer, User
from functions.remote_server import KEY, RemoteServer, head_of, state_of
from functions.rooms import V3, call, create_room, follow, get, make, path, post, put
from functions.syncing import sync
from homeserver import observability
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.access_tokens import Requester
from homeserver.services.initial_sync import initial_sync
from homeserver.services.legacy_events import events_since
from homeserver.services.stub_rooms import receive_out_of_band, record_out_of_band, stub_of
from homeserver.storage import invites
from homeserver.storage.invites import invites_of
from homeserver.storage.room_items import LocalMember, Membership

REMOTE = "remote.test"
pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def room() -> ForeignRoom:
    return ForeignRoom(REMOTE, KEY)


def record(event: Event, room: ForeignRoom, state: Any = None) -> bool:
    return record_out_of_band(event, room.stripped() if state is None else state, invite_from=REMOTE)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def row_of(user: User, room_id: str) -> tuple[str, str]:
    row, membership = LocalMember.fetch(room_id, f"local/{user.user_id}"), Membership.fetch(user.user_id, room_id)
    assert row is not None
    assert membership is not None
    assert (row.membership, row.event_id) == (membership.membership, membership.event_id)
    return row.membership, row.event_id


# ── Invitations ──────────────────────────────────────────────────────────────────────────────────────


def test_an_invitation_shows_in_the_initial_sync_with_what_the_other_server_told(alice: User, room) -> None:
    invitation = room.invite(alice.user_id, is_direct=True)
    assert record(invitation, room)
    body = sync(alice)
    own = {
        "type": "m.room.member",
        "state_key": alice.user_id,
        "sender": room.owner,
        "content": {"membership": "invite", "is_direct": True},
    }
    assert body["rooms"] == {"invite": {room.id: {"invite_state": {"events": [*room.stripped(), own]}}}}
    assert row_of(alice, room.id) == ("invite", invitation.event_id)


def test_an_invitation_shows_in_an_incremental_sync_once(alice: User, room) -> None:
    since = sync(alice)["next_batch"]
    record(room.invite(alice.user_id), room)
    body = sync(alice, since)
    assert set(body["rooms"]) == {"invite"}
    assert set(body["rooms"]["invite"]) == {room.id}
    follow()
    assert "rooms" not in sync(alice, body["next_batch"])


@pytest.mark.parametrize("version", ["1", "6", "9", "11", "12"])
def test_rooms_of_every_version_have_stubs(alice: User, version: str) -> None:
    room = ForeignRoom(REMOTE, KEY, version=version)
    invitation = room.invite(alice.user_id)
    record(invitation, room)
    assert set(sync(alice)["rooms"]["invite"]) == {room.id}
    stub = stub_of(room.id, alice.user_id)
    assert stub is not None
    assert (stub.membership, stub.event, stub.servers) == ("invite", invitation, (REMOTE,))
    assert stub.rules is ROOM_VERSIONS[version]
    assert stub.event.pdu == invitation.pdu


def test_a_stub_has_no_state_and_no_members(alice: User, room) -> None:
    record(room.invite(alice.user_id), room)
    head = head_of(room.id)
    assert (head.kind, int(head.position), head.extremities, int(head.local_members)) == ("stub", 1, [], 0)
    assert state_of(room.id) == {}


def test_only_the_recommended_state_is_shown_and_only_what_is_small_and_well_formed(alice: User, room) -> None:
    def told(event_type: object, content: object, **more: Any) -> dict[str, Any]:
        return {"type": event_type, "state_key": "", "sender": room.owner, "content": content, **more}

    state = [
        told("m.room.name", {"name": "N"}, event_id="$x", unsigned={"a": 1}),
        told("m.room.topic", {"topic": "t" * 9000}),
        told("m.room.avatar", "no object"),
        told("m.room.canonical_alias", {}, sender="nobody"),
        told("m.room.encryption", {"big": 2**80}),
        told("org.example.other", {"a": 1}),
        told(["m.room.create"], {}),
        told("m.room.member", {"membership": "join", "displayname": "Boss"}, state_key=room.owner),
        told("m.room.member", {"membership": "join"}, state_key="@other:remote.test"),
        "no event",
    ]
    record(room.invite(alice.user_id), room, state)
    (invited,) = sync(alice)["rooms"]["invite"].values()
    shown = [(event["type"], event["state_key"]) for event in invited["invite_state"]["events"]]
    assert shown == [("m.room.name", ""), ("m.room.member", room.owner), ("m.room.member", alice.user_id)]
    assert set(invited["invite_state"]["events"][0]) == {"type", "state_key", "sender", "content"}


def test_all_that_is_shown_of_a_room_together_is_bounded(alice: User, room) -> None:
    state = [
        {
            "type": event_type,
            "state_key": "",
            "sender": room.owner,
            "content": {"name": "n", "url": "mxc://a/b", "x": "y" * 7000},
        }
        for event_type in ("m.room.create", "m.room.name", "m.room.avatar", "m.room.encryption")
    ]
    record(room.invite(alice.user_id), room, state)
    (invited,) = sync(alice)["rooms"]["invite"].values()
    assert [event["type"] for event in invited["invite_state"]["events"]] == [
        "m.room.create",
        "m.room.name",
        "m.room.member",
    ]


def test_two_users_of_this_server_are_invited_one_after_the_other(alice: User, bob: User, room) -> None:
    record(room.invite(alice.user_id), room)
    record(room.invite(bob.user_id), room)
    assert int(head_of(room.id).position) == 2
    for user in (alice, bob):
        (invited,) = sync(user)["rooms"]["invite"].values()
        assert invited["invite_state"]["events"][-1]["state_key"] == user.user_id


def test_the_same_invitation_again_changes_nothing(alice: User, room) -> None:
    invitation = room.invite(alice.user_id)
    record(invitation, room)
    since = sync(alice)["next_batch"]
    assert record(invitation, room)
    assert int(head_of(room.id).position) == 1
    assert "rooms" not in sync(alice, since)


def test_a_repeated_invitation_does_not_come_back_after_it_was_rejected(alice: User, room) -> None:
    invitation = room.invite(alice.user_id)
    record(invitation, room)
    record(room.member(alice.user_id, "leave", alice.user_id), room)
    assert record(invitation, room)
    assert row_of(alice, room.id)[0] == "leave"
    second = room.invite(alice.user_id)
    record(second, room)
    assert row_of(alice, room.id) == ("invite", second.event_id)
    assert set(sync(alice)["rooms"]["invite"]) == {room.id}


def test_the_events_endpoints_from_before_sync_tell_of_it_too(alice: User, room) -> None:
    record(room.invite(alice.user_id), room)
    requester = Requester(alice.user_id, alice.device_id, alice.token)
    rooms = initial_sync(requester, limit=5, archived=False).body["rooms"]
    assert [(told["room_id"], told["invite"]["sender"]) for told in rooms] == [(room.id, room.owner)]
    since = events_since(requester, None).body["end"]
    record(room.invite(alice.user_id), room)
    (event,) = events_since(requester, since).body["chunk"]
    assert (event["room_id"], event["content"]) == (room.id, {"membership": "invite"})


# ── How they end ─────────────────────────────────────────────────────────────────────────────────────


def test_a_rejected_invitation_is_told_as_left_and_is_gone_from_initial_syncs(alice: User, room) -> None:
    record(room.invite(alice.user_id), room)
    since = sync(alice)["next_batch"]
    rejection = room.member(alice.user_id, "leave", alice.user_id)
    record(rejection, room)
    body = sync(alice, since)
    assert set(body["rooms"]) == {"leave"}
    timeline = body["rooms"]["leave"][room.id]["timeline"]
    assert [event["event_id"] for event in timeline["events"]] == [rejection.event_id]
    assert "rooms" not in sync(alice, body["next_batch"])
    assert "rooms" not in sync(alice)
    stub = stub_of(room.id, alice.user_id)
    assert stub is not None
    assert (stub.membership, stub.event, stub.servers) == ("leave", rejection, (REMOTE,))


@pytest.mark.parametrize("membership", ["leave", "ban"])
def test_a_withdrawn_invitation_is_told_as_left(alice: User, room, membership: str) -> None:
    record(room.invite(alice.user_id), room)
    since = sync(alice)["next_batch"]
    end = room.member(room.owner, membership, alice.user_id)
    assert receive_out_of_band(end)
    assert receive_out_of_band(end)  # a repeat
    body = sync(alice, since)
    assert body["rooms"]["leave"][room.id]["timeline"]["events"][0]["event_id"] == end.event_id
    assert row_of(alice, room.id) == (membership, end.event_id)
    assert int(head_of(room.id).position) == 2


def test_a_knock_shows_and_its_refusal_too(alice: User) -> None:
    room = ForeignRoom(REMOTE, KEY, join_rule="knock")
    knock = room.take(room.member(alice.user_id, "knock", alice.user_id))
    since = sync(alice)["next_batch"]
    record(knock, room)
    for body in (sync(alice), sync(alice, since)):
        assert set(body["rooms"]) == {"knock"}
        events = body["rooms"]["knock"][room.id]["knock_state"]["events"]
        assert [event["type"] for event in events] == [*(e["type"] for e in room.stripped()), "m.room.member"]
    stub = stub_of(room.id, alice.user_id)
    assert stub is not None
    assert (stub.membership, stub.servers) == ("knock", (REMOTE,))
    refused = room.kick(alice.user_id)
    assert receive_out_of_band(refused)
    assert set(sync(alice, body["next_batch"])["rooms"]) == {"leave"}


def test_a_knock_that_is_answered_becomes_an_invitation(alice: User) -> None:
    room = ForeignRoom(REMOTE, KEY, join_rule="knock")
    record(room.take(room.member(alice.user_id, "knock", alice.user_id)), room)
    since = sync(alice)["next_batch"]
    record(room.invite(alice.user_id), room)
    assert set(sync(alice, since)["rooms"]) == {"invite"}


def test_what_was_told_last_is_what_a_device_learns_that_slept_meanwhile(alice: User, room) -> None:
    since = sync(alice)["next_batch"]
    record(room.invite(alice.user_id), room)
    record(room.member(alice.user_id, "leave", alice.user_id), room)
    record(room.invite(alice.user_id), room)
    assert set(sync(alice, since)["rooms"]) == {"invite"}


@pytest.mark.parametrize("case", ["no invitation", "other event", "own user", "a join", "a message", "foreign target"])
def test_events_that_end_nothing_are_ignored(alice: User, bob: User, room, case: str) -> None:
    bobs = room.invite(bob.user_id)
    if case != "no invitation":
        record(room.invite(alice.user_id), room)
    positions = 0 if case == "no invitation" else 1
    if case == "other event":
        # Somebody who does not know the invitation's ID cannot name it.
        room.state[bobs.key] = bobs
        del room.state["m.room.member", alice.user_id]
    target = "@other:remote.test" if case == "foreign target" else alice.user_id
    event = {
        "own user": lambda: room.member(alice.user_id, "leave", alice.user_id),
        "a join": lambda: room.member(room.owner, "join", alice.user_id),
        "a message": lambda: room.make("m.room.message", {"membership": "leave"}, state_key=None),
    }.get(case, lambda: room.member(room.owner, "leave", target))()
    assert not receive_out_of_band(event)
    if positions:
        assert row_of(alice, room.id)[0] == "invite"
        assert int(head_of(room.id).position) == positions
    else:
        assert LocalMember.fetch(room.id, f"local/{alice.user_id}") is None


def test_only_memberships_of_local_users_are_recorded(room) -> None:
    with pytest.raises(ValueError, match="of a local user"):
        record(room.invite("@other:remote.test"), room)
    with pytest.raises(ValueError, match="only an invitation"):
        record(room.member("@alice:example.org", "join", "@alice:example.org"), room)


# ── Nothing half-done ────────────────────────────────────────────────────────────────────────────────


class Crash(BaseException):
    """The function ends here."""


@pytest.mark.parametrize(("at", "done"), [("commit.before", False), ("commit.after", True)])
def test_a_crash_leaves_all_of_it_or_nothing(alice: User, room, monkeypatch, at: str, done: bool) -> None:
    since = sync(alice)["next_batch"]
    invitation = room.invite(alice.user_id)

    def crash(name: str) -> None:
        if name == at:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(observability, "fault_hook", crash)
        with pytest.raises(Crash):
            record(invitation, room)
    assert ("rooms" in sync(alice, since)) is done
    assert (stub_of(room.id, alice.user_id) is not None) is done
    assert record(invitation, room)
    assert set(sync(alice, since)["rooms"]["invite"]) == {room.id}
    assert int(head_of(room.id).position) == 1


def test_an_inbox_that_changes_meanwhile_is_read_again(alice: User, room, monkeypatch) -> None:
    other = ForeignRoom("elsewhere.test", KEY)
    invitation, first = other.invite(alice.user_id), []
    telling = invites.telling

    def interrupted(*args: Any) -> Any:
        written = telling(*args)
        if not first:
            first.append(1)
            record_out_of_band(invitation, (), invite_from="elsewhere.test")
        return written

    monkeypatch.setattr(invites, "telling", interrupted)
    record(room.invite(alice.user_id), room)
    assert set(sync(alice)["rooms"]["invite"]) == {room.id, other.id}
    assert sorted(invite.number for invite in invites_of(alice.user_id)) == [1, 2]


# ── What the other endpoints say of it ───────────────────────────────────────────────────────────────


def test_who_is_only_invited_reads_and_writes_nothing(alice: User, room) -> None:
    record(room.invite(alice.user_id), room)
    follow()
    answers = {
        "messages": get(alice, "rooms", room.id, "messages", dir="b"),
        "state": get(alice, "rooms", room.id, "state"),
        "members": get(alice, "rooms", room.id, "members"),
        "joined_members": get(alice, "rooms", room.id, "joined_members"),
        "initialSync": get(alice, "rooms", room.id, "initialSync"),
        "name": get(alice, "rooms", room.id, "state", "m.room.name", ""),
        "context": get(alice, "rooms", room.id, "context", "$" + "a" * 43),
        "send": put(alice, room.id, "send", "m.room.message", "t", body={"body": "x", "msgtype": "m.text"}),
        "topic": put(alice, room.id, "state", "m.room.topic", "", body={"topic": "x"}),
        "redact": put(alice, room.id, "redact", "$" + "a" * 43, "t", body={}),
        "kick": post(alice, room.id, "kick", {"user_id": "@b:example.org"}),
        "upgrade": post(alice, room.id, "upgrade", {"new_version": "11"}),
        "aliases": call("client_rooms", "GET", path("rooms", room.id, "aliases"), token=alice.token),
        "typing": call(
            "client_ephemeral",
            "PUT",
            path("rooms", room.id, "typing", alice.user_id),
            {"typing": True},
            token=alice.token,
        ),
    }
    assert {name: refusal(answer) for name, answer in answers.items()} == dict.fromkeys(answers, (403, "M_FORBIDDEN"))
    event = get(alice, "rooms", room.id, "event", "$" + "a" * 43)
    assert refusal(event) == (404, "M_NOT_FOUND")


def test_a_stub_is_nowhere_in_the_directory(alice: User, room) -> None:
    record(room.invite(alice.user_id), room)
    follow()
    quoted = quote(room.id, safe="")
    for where in (f"{V3}/directory/list/room/{quoted}", f"/_matrix/client/v1/room_summary/{quoted}"):
        assert refusal(call("client_directory", "GET", where, token=alice.token)) == (404, "M_NOT_FOUND"), where
    alias = call(
        "client_rooms",
        "PUT",
        path("directory", "room", "#far:example.org"),
        {"room_id": room.id},
        token=alice.token,
    )
    assert refusal(alias) == (403, "M_FORBIDDEN")
    rooms = call("client_rooms", "GET", path("joined_rooms"), token=alice.token)
    assert rooms.json == {"joined_rooms": []}


def test_a_rejected_room_can_be_forgotten_and_a_new_invitation_brings_it_back(alice: User, room) -> None:
    record(room.invite(alice.user_id), room)
    assert refusal(post(alice, room.id, "forget")) == (400, "M_UNKNOWN")
    record(room.member(alice.user_id, "leave", alice.user_id), room)
    assert post(alice, room.id, "forget").status == 200
    assert "rooms" not in sync(alice)
    record(room.invite(alice.user_id), room)
    assert set(sync(alice)["rooms"]["invite"]) == {room.id}


# ── Rooms that this server was in, or is in ──────────────────────────────────────────────────────────


def abandoned(alice: User) -> tuple[str, RemoteServer]:
    """A room in which only users of another server are left."""
    room_id = make(alice, preset="public_chat", room_version="10").json["room_id"]
    remote = RemoteServer(room_id)
    remote.accepted(remote.join(remote.user("carol")))
    assert post(alice, room_id, "leave").status == 200
    follow()
    return room_id, remote


def test_an_invitation_to_a_room_that_everybody_here_left_keeps_what_is_known_of_it(alice: User, bob: User) -> None:
    room_id, remote = abandoned(alice)
    before, since = head_of(room_id), sync(alice)["next_batch"]
    invitation = remote.member(remote.user("carol"), "invite", alice.user_id)
    assert record_out_of_band(invitation, (), invite_from=REMOTE)
    after = head_of(room_id)
    assert (after.kind, int(after.position)) == ("full", int(before.position) + 1)
    moved = {"version", "position", "arrived"}
    changed = {n for n, value in after.attribute_values.items() if before.attribute_values.get(n) != value}
    assert changed <= moved
    assert after.attribute_values.keys() == before.attribute_values.keys()
    assert bytes(after.root) == bytes(before.root) == bytes(after.rows_root)
    assert after.extremities == before.extremities
    assert set(sync(alice, since)["rooms"]) == {"invite"}
    follow()
    # What was seen before is still to be seen, and nothing of later.
    seen = get(alice, "rooms", room_id, "messages", dir="b", limit=100).json["chunk"]
    assert (seen[0]["type"], seen[0]["content"]["membership"]) == ("m.room.member", "leave")
    stub = stub_of(room_id, alice.user_id)
    assert stub is not None
    assert (stub.membership, stub.servers) == ("invite", (REMOTE,))
    rejection = remote.member(alice.user_id, "leave", alice.user_id)
    assert record_out_of_band(rejection, (), invite_from=REMOTE)
    told = sync(alice, since)["rooms"]
    assert set(told) == {"leave"}
    assert told["leave"][room_id]["timeline"]["events"][-1]["event_id"] == rejection.event_id


def test_an_invitation_that_the_state_of_an_abandoned_room_has_is_known_and_can_be_withdrawn(
    alice: User, bob: User
) -> None:
    room_id = make(alice, preset="public_chat", room_version="10").json["room_id"]
    remote = RemoteServer(room_id)
    carol = remote.user("carol")
    remote.accepted(remote.join(carol))
    invited = remote.member(carol, "invite", bob.user_id)
    remote.accepted(invited)
    follow()
    assert post(alice, room_id, "leave").status == 200
    follow()
    stub = stub_of(room_id, bob.user_id)
    assert stub is not None
    assert (stub.membership, stub.event, stub.servers) == ("invite", invited, (REMOTE,))
    since = sync(bob)["next_batch"]
    # The one who invited may take it back by leaving the invitation's ID in the auth events.
    withdrawn = remote.member(carol, "leave", bob.user_id)
    assert invited.event_id in withdrawn.auth_event_ids
    assert receive_out_of_band(withdrawn)
    assert set(sync(bob, since)["rooms"]) == {"leave"}


def test_a_room_of_another_version_than_the_one_that_is_known_is_refused(alice: User) -> None:
    room_id, _ = abandoned(alice)
    other = ForeignRoom(REMOTE, KEY, version="9")
    other.room_id = room_id
    with pytest.raises(Forbidden, match="version 10"):
        record_out_of_band(other.invite(alice.user_id), (), invite_from=REMOTE)


def test_while_this_server_is_in_the_room_the_event_has_to_come_as_one_of_the_room(alice: User, bob: User) -> None:
    room_id = create_room(alice, preset="public_chat", room_version="10")
    remote = RemoteServer(room_id)
    remote.accepted(remote.join(remote.user("carol")))
    invitation = remote.member(remote.user("carol"), "invite", bob.user_id)
    position = int(head_of(room_id).position)
    assert not record_out_of_band(invitation, (), invite_from=REMOTE)
    assert int(head_of(room_id).position) == position
    assert "rooms" not in sync(bob)


def test_an_invitation_beside_the_state_of_a_room_can_be_ended_when_this_server_is_in_it(
    alice: User, bob: User
) -> None:
    room_id, remote = abandoned(alice)
    invitation = remote.member(remote.user("carol"), "invite", bob.user_id)
    record_out_of_band(invitation, (), invite_from=REMOTE)
    # Now the room is this server's again, and its state does not have the invitation.
    remote.accepted(remote.join(alice.user_id))
    assert int(head_of(room_id).local_members) == 1
    since = sync(bob)["next_batch"]
    rejection = remote.member(bob.user_id, "leave", bob.user_id)
    assert record_out_of_band(rejection, (), invite_from=REMOTE)
    assert set(sync(bob, since)["rooms"]) == {"leave"}
    assert row_of(bob, room_id) == ("leave", rejection.event_id)


def test_who_joins_a_room_after_an_invitation_from_outside_has_it_no_longer_pending(alice: User) -> None:
    _, remote = abandoned(alice)
    record_out_of_band(remote.member(remote.user("carol"), "invite", alice.user_id), (), invite_from=REMOTE)
    remote.accepted(remote.join(alice.user_id))
    follow()
    (item,) = invites_of(alice.user_id)
    assert (item.membership, item.events) == ("join", [])
    assert set(sync(alice)["rooms"]) == {"join"}
