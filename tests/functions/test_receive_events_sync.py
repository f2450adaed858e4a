"""What clients see of forks: /sync and /messages over markers, lost events, memberships that a resolution changed."""

import pytest

from functions.harness import User, call
from functions.remote_server import RemoteServer, head_of, state_of
from functions.rooms import create_room, event, follow, membership, messages, path, post, say, set_state, state, texts
from functions.syncing import Device, ids, keys, sync
from homeserver.services.receive_events import Verdict
from homeserver.storage.room_items import LocalMember, Membership, StateRow, state_key
from homeserver.storage.timeline import read_positions

pytestmark = pytest.mark.usefixtures("set_up")
CAROL = "@carol:remote.test"


@pytest.fixture
def remote(alice: User, bob: User) -> RemoteServer:
    """A room of Alice (100), Bob, and Carol (50), who is elsewhere."""
    room_id = create_room(alice, bob, preset="public_chat", room_version="11")
    server = RemoteServer(room_id)
    server.accepted(server.join(CAROL))
    server.accepted(server.power(alice.user_id, {CAROL: 50}))
    follow()
    return server


def device_of(user: User) -> Device:
    device = Device(user)
    device.sync()
    return device


def joined_rooms(user: User) -> list[str]:
    answer = call("client_rooms", "GET", path("joined_rooms"), token=user.token)
    rooms: list[str] = answer.json["joined_rooms"]
    return rooms


def roots_by_position(room_id: str) -> list[tuple[str | None, bool]]:
    """Of each position the type of its event (None: a marker), and whether the state changed there."""
    entries = read_positions(room_id, 1, int(head_of(room_id).position))
    before = [None, *(entry.room_root for entry in entries[:-1])]
    return [
        (entry.pdu["type"] if entry.pdu else None, entry.room_root != root)
        for entry, root in zip(entries, before, strict=True)
    ]


def test_a_state_event_that_loses_is_not_what_a_client_believes(alice: User, remote: RemoteServer) -> None:
    room_id, tip = remote.room_id, remote.tips()
    early, late = remote.topic(CAROL, "early", prev=tip), remote.topic(CAROL, "late", prev=tip)
    phone = device_of(alice)
    remote.accepted(late)
    follow()
    phone.sync()
    remote.accepted(early)
    follow()
    told = phone.sync()["rooms"]["join"][room_id]
    assert (ids(told["timeline"]["events"]), told["timeline"]["limited"]) == ([], True)
    assert phone.states[room_id] == state_of(room_id)
    # It happened, and can be found.
    assert early.event_id in phone.timelines[room_id]
    assert early.event_id in ids(messages(alice, room_id).json["chunk"])
    assert event(alice, room_id, early.event_id).status == 200


def test_an_event_between_what_is_shown_and_what_lost_is_told_in_the_timeline(
    alice: User, remote: RemoteServer
) -> None:
    room_id, tip = remote.room_id, remote.tips()
    phone = device_of(alice)
    early, late = remote.topic(CAROL, "early", prev=tip), remote.topic(CAROL, "late", prev=tip)
    remote.accepted(late, early)
    (hello,) = say(alice, room_id, "hello")
    follow()
    told = phone.sync()["rooms"]["join"][room_id]
    assert ids(told["timeline"]["events"]) == [hello]
    assert ids(told["state"]["events"]) == [late.event_id]
    assert phone.states[room_id] == state_of(room_id)


def test_with_state_after_the_timeline_shows_what_lost_and_the_state_is_right(
    alice: User, remote: RemoteServer
) -> None:
    room_id, tip = remote.room_id, remote.tips()
    phone = device_of(alice)
    early, late = remote.topic(CAROL, "early", prev=tip), remote.topic(CAROL, "late", prev=tip)
    remote.accepted(late, early)
    follow()
    told = sync(alice, phone.since, use_state_after=True)["rooms"]["join"][room_id]
    assert ids(told["timeline"]["events"]) == [late.event_id, early.event_id]
    assert ids(told["state_after"]["events"]) == [late.event_id]


def test_a_late_fork_that_undoes_other_state_has_a_marker_and_the_state_is_told(
    alice: User, remote: RemoteServer
) -> None:
    """Carol's topic falls with her power, which was taken before she set it."""
    room_id = remote.room_id
    assert set_state(alice, room_id, "m.room.topic", {"topic": "ours"}).status == 200
    tip = remote.tips()
    ours = state_of(room_id)["m.room.topic", ""]
    mine = remote.topic(CAROL, "mine")
    demotion = remote.power(alice.user_id, {CAROL: 0}, prev=tip)
    remote.accepted(mine)
    follow()
    phone = device_of(alice)
    tablet = device_of(alice)
    before = head_of(room_id)
    remote.accepted(demotion)
    assert state_of(room_id)["m.room.topic", ""] == ours
    head = head_of(room_id)
    assert head.position == before.position + 2
    assert roots_by_position(room_id)[-2:] == [(None, True), ("m.room.power_levels", True)]
    assert (head.rows_root, head.state_position) == (head.root, head.position)
    follow()
    told = phone.sync()["rooms"]["join"][room_id]
    assert ids(told["timeline"]["events"]) == [demotion.event_id]
    assert keys(told["state"]["events"]) == {("m.room.topic", "")}
    assert phone.states[room_id] == state_of(room_id)
    assert state(alice, room_id, "m.room.topic").json == {"topic": "ours"}
    # A device that missed all of it, and one that never was here.
    say(alice, room_id, *[f"{number}" for number in range(12)])
    follow()
    tablet.sync_until_quiet()
    assert tablet.states[room_id] == state_of(room_id) == device_of(alice).states[room_id]
    assert None not in ids(messages(alice, room_id, limit=200).json["chunk"])


def test_an_entry_that_the_state_loses_has_no_row_any_more(alice: User, remote: RemoteServer) -> None:
    room_id, tip = remote.room_id, remote.tips()
    remote.accepted(remote.topic(CAROL, "mine"))
    assert state(alice, room_id, "m.room.topic").json == {"topic": "mine"}
    remote.accepted(remote.power(alice.user_id, {CAROL: 0}, prev=tip))
    assert ("m.room.topic", "") not in state_of(room_id)
    assert state(alice, room_id, "m.room.topic").status == 404
    assert StateRow.fetch(room_id, state_key("m.room.topic", "")) is None
    assert set_state(alice, room_id, "m.room.topic", {"topic": "ours"}).status == 200
    assert state(alice, room_id, "m.room.topic").json == {"topic": "ours"}


def test_a_device_whose_window_spans_the_undone_event_ends_with_the_right_state(
    alice: User, remote: RemoteServer
) -> None:
    room_id, tip = remote.room_id, remote.tips()
    phone = device_of(alice)
    set_state(alice, room_id, "m.room.topic", {"topic": "ours"})
    mine = remote.topic(CAROL, "mine")
    demotion = remote.power(alice.user_id, {CAROL: 0}, prev=tip)
    remote.accepted(mine, demotion)
    follow()
    told = phone.sync()["rooms"]["join"][room_id]
    assert ids(told["timeline"]["events"]) == [demotion.event_id]
    assert told["timeline"]["limited"] is True
    assert phone.states[room_id] == state_of(room_id)
    assert mine.event_id in phone.timelines[room_id]


def test_a_member_whom_a_resolution_puts_out_is_told_to_leave(alice: User, bob: User, remote: RemoteServer) -> None:
    """Bob was banned; Carol's pardon falls with her power, and with it the join that it allowed."""
    room_id = remote.room_id
    assert post(alice, room_id, "ban", {"user_id": bob.user_id}).status == 200
    tip = remote.tips()
    ban = state_of(room_id)["m.room.member", bob.user_id]
    pardon = remote.member(CAROL, "leave", bob.user_id)
    demotion = remote.power(alice.user_id, {CAROL: 0}, prev=tip)
    remote.accepted(pardon)
    assert post(bob, room_id, "join").status == 200
    follow()
    phone = device_of(bob)
    assert phone.joined == {room_id}
    remote.accepted(demotion)
    say(alice, room_id, "not for Bob")
    assert state_of(room_id)["m.room.member", bob.user_id] == ban
    assert membership(alice, room_id, bob) == "ban"
    row = LocalMember.fetch(room_id, f"local/{bob.user_id}")
    assert row is not None
    head = head_of(room_id)
    assert (row.membership, row.event_id, row.left_at, head.local_members) == ("ban", ban, head.position - 2, 1)
    follow()
    told = phone.sync()["rooms"]["leave"][room_id]
    assert keys(told["state"]["events"]) == {("m.room.member", bob.user_id)}
    assert told["state"]["events"][0]["content"]["membership"] == "ban"
    assert ids(told["timeline"]["events"]) == []
    assert phone.joined == set()
    assert list(phone.sync()) == ["next_batch"]
    assert joined_rooms(bob) == []
    assert post(bob, room_id, "join").status == 403
    assert set_state(bob, room_id, "m.room.topic", {"topic": "x"}).status == 403


def test_a_member_whom_a_resolution_brings_back_goes_on(alice: User, bob: User, remote: RemoteServer) -> None:
    room_id, tip = remote.room_id, remote.tips()
    ban = remote.member(CAROL, "ban", bob.user_id)
    demotion = remote.power(alice.user_id, {CAROL: 0}, prev=tip)
    join = state_of(room_id)["m.room.member", bob.user_id]
    phone = device_of(bob)
    remote.accepted(ban)
    follow()
    phone.sync()
    assert (phone.joined, joined_rooms(bob)) == (set(), [])
    remote.accepted(demotion)
    (hello,) = say(alice, room_id, "hello")
    assert joined_rooms(bob) == [room_id]
    follow()
    told = phone.sync()["rooms"]["join"][room_id]
    assert hello in ids(told["timeline"]["events"])
    assert phone.states[room_id] == state_of(room_id)
    assert phone.states[room_id]["m.room.member", bob.user_id] == join
    assert head_of(room_id).local_members == 2
    row = Membership.fetch(bob.user_id, room_id)
    assert row is not None
    assert (row.membership, row.event_id) == ("join", join)
    assert texts([event(bob, room_id, hello).json]) == ["hello"]


def test_a_local_leave_that_a_fork_undoes_is_undone_in_the_users_own_row(
    alice: User, bob: User, remote: RemoteServer
) -> None:
    """Two followers' worth of changes at once: Bob left, and before anybody looked he had not."""
    room_id, tip = remote.room_id, remote.tips()
    ban = remote.member(CAROL, "ban", bob.user_id)
    remote.accepted(ban)
    remote.accepted(remote.power(alice.user_id, {CAROL: 0}, prev=tip))
    follow()
    row = Membership.fetch(bob.user_id, room_id)
    assert row is not None
    assert row.membership == "join"
    assert joined_rooms(bob) == [room_id]


def test_a_soft_failed_state_event_that_the_resolution_takes_up_is_told(alice: User, remote: RemoteServer) -> None:
    """A topic of the old days comes late, when Carol has lost her power; a merge by Alice takes it up."""
    room_id, tip = remote.room_id, remote.tips()
    assert set_state(alice, room_id, "m.room.avatar", {"url": "mxc://example.org/a"}).status == 200
    assert set_state(alice, room_id, "m.room.member", {"membership": "ban"}, CAROL).status == 200
    name = remote.make("m.room.name", {"name": "Carol's"}, CAROL, state_key="", prev=tip)
    (outcome,) = remote.receive(name)
    assert outcome.verdict is Verdict.SOFT_FAILED
    phone = device_of(alice)
    merge = remote.say(alice.user_id, "merged", prev=[*remote.tips(), name.event_id])
    remote.accepted(merge)
    assert state_of(room_id) == remote.after[merge.event_id]
    follow()
    phone.sync()
    assert phone.states[room_id] == state_of(room_id)
