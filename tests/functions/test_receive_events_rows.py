"""A change of the state that is too large for its commit: the rows follow later, and readers are right meanwhile."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from functions.harness import LambdaContext, User, payload
from functions.remote_server import RemoteServer, State, head_of, rows_of, state_of
from functions.rooms import create_room, follow, get, membership, post, redact, say, set_state, state, sync
from functions.syncing import Device, keys
from homeserver import observability
from homeserver.adapters import aws
from homeserver.services import inboxes, room_changes
from homeserver.services.inboxes import follow_room
from homeserver.services.receive_events import Verdict
from homeserver.services.rows_follow import ROWS_AT_ONCE, follow_rows
from homeserver.services.sweep import lagging_rooms
from homeserver.storage.connection import query_range
from homeserver.storage.room_items import LocalMember, Membership, StateRow, parse_state_key
from homeserver.storage.room_items import RemoteServer as ServerRow

pytestmark = pytest.mark.usefixtures("set_up")
CAROL = "@carol:remote.test"
TOPICS = 33  # settings of Carol's, which fall with her power


class Crash(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """The queue of failed records; what is in it, as its worker gets it."""
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName="failed")["QueueUrl"]
    monkeypatch.setenv("FAILED_RECORDS_QUEUE", url)

    def take() -> list[dict[str, Any]]:
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in found]

    return take


def lagging_room(alice: User, *others: User) -> tuple[RemoteServer, State]:
    """A room whose rows are behind: one late event undid very much, with Bob's pardon too; and the rows' state."""
    room_id = create_room(alice, *others, preset="public_chat", room_version="11")
    remote = RemoteServer(room_id)
    remote.accepted(remote.join(CAROL))
    remote.accepted(remote.power(alice.user_id, {CAROL: 50}))
    for other in others:
        assert post(alice, room_id, "ban", {"user_id": other.user_id}).status == 200
    tip = remote.tips()
    for other in others:
        remote.accepted(remote.member(CAROL, "leave", other.user_id))
        assert post(other, room_id, "join").status == 200
    demotion = remote.power(alice.user_id, {CAROL: 0}, prev=tip)
    last = remote.tips()
    made = []
    for number in range(TOPICS):
        made.append(remote.make("m.test", {"n": number}, CAROL, state_key=f"{number}", prev=last))
        last = [made[-1].event_id]
    for server in range(3):
        made.append(remote.join(f"@dave{server}:host{server}.test", prev=last))
        last = [made[-1].event_id]
    assert {outcome.verdict for outcome in remote.receive(*made)} == {Verdict.ACCEPTED}
    follow()
    before = state_of(room_id)
    (outcome,) = remote.receive(demotion)
    assert outcome.verdict is Verdict.ACCEPTED
    head = head_of(room_id)
    assert head.rows_root != head.root
    return remote, before


def stored_rows(room_id: str) -> State:
    """The rows as they are, whatever the state is."""
    rows = query_range(StateRow, room_id, "state/", consistent=True)
    return {parse_state_key(row.k): row.event_id for row in rows}


def check_readers(alice: User, room_id: str, expected: State) -> None:
    """Every reader of the current state shows this one, wherever the rows are."""
    assert rows_of(room_id) == expected
    told = get(alice, "rooms", room_id, "state").json
    assert {(e["type"], e["state_key"]): e["event_id"] for e in told} == expected
    assert state(alice, room_id, "m.test", "0").status == (200 if ("m.test", "0") in expected else 404)
    members = get(alice, "rooms", room_id, "members").json["chunk"]
    assert {(e["type"], e["state_key"]) for e in members} == {key for key in expected if key[0] == "m.room.member"}


def test_rows_are_exactly_a_state_after_every_chunk_and_readers_are_right_at_each(alice: User, bob: User) -> None:
    remote, before = lagging_room(alice, bob)
    room_id = remote.room_id
    expected = state_of(room_id)
    assert len(before.items() ^ expected.items()) > room_changes.MOST_ROWS
    assert stored_rows(room_id) == before
    check_readers(alice, room_id, expected)
    chunks = []

    def look(point: str) -> None:
        if point == "rows.between_chunks":
            observability.fault_hook = None
            head = head_of(room_id)
            assert stored_rows(room_id) == state_of(room_id, bytes(head.rows_root))
            check_readers(alice, room_id, expected)
            chunks.append(bytes(head.rows_root))
            observability.fault_hook = look

    observability.fault_hook = look
    assert follow_rows(room_id) is True
    assert len(set(chunks)) == len(chunks) == -(-(TOPICS + 2) // ROWS_AT_ONCE)
    head = head_of(room_id)
    assert head.rows_root == head.root
    assert stored_rows(room_id) == expected
    follow()
    assert lagging_rooms() == []


def test_the_follower_brings_the_rows_first_and_then_tells_the_members(alice: User, bob: User) -> None:
    remote, _ = lagging_room(alice, bob)
    room_id = remote.room_id
    phone = Device(bob)
    phone.sync()
    assert phone.joined == {room_id}  # his row is late
    assert room_id in lagging_rooms()
    follow()
    head = head_of(room_id)
    assert (head.rows_root, head.local_members, head.remote_servers) == (head.root, 1, 4)
    row = LocalMember.fetch(room_id, f"local/{bob.user_id}")
    assert row is not None
    assert (row.membership, row.left_at) == ("ban", head.state_position)
    told = phone.sync()["rooms"]["leave"][room_id]
    assert ("m.room.member", bob.user_id) in keys(told["state"]["events"])
    stored = Membership.fetch(bob.user_id, room_id)
    assert stored is not None
    assert stored.membership == "ban"
    servers = query_range(ServerRow, room_id, "server/", consistent=True)
    assert {row.k: int(row.members) for row in servers} == {
        "server/host0.test": 1,
        "server/host1.test": 1,
        "server/host2.test": 1,
        "server/remote.test": 1,
    }


@pytest.mark.parametrize("point", ["rows.before", "rows.after", "rows.between_chunks"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_crash_in_any_chunk_is_made_good_by_the_next_run(alice: User, bob: User, point: str, number: int) -> None:
    remote, _ = lagging_room(alice, bob)
    room_id = remote.room_id
    expected = state_of(room_id)
    seen = []

    def crash(name: str) -> None:
        if name == point:
            seen.append(name)
            if len(seen) == number:
                raise Crash

    observability.fault_hook = crash
    with suppress(Crash):
        follow_rows(room_id)
    observability.fault_hook = None
    assert len(seen) == number
    head = head_of(room_id)
    assert stored_rows(room_id) == state_of(room_id, bytes(head.rows_root))
    assert follow_rows(room_id) is True
    assert stored_rows(room_id) == expected
    head = head_of(room_id)
    assert (head.rows_root, head.local_members) == (head.root, 1)


def test_local_commits_on_a_room_whose_rows_are_behind_are_right(alice: User, bob: User) -> None:
    remote, _ = lagging_room(alice, bob)
    room_id = remote.room_id
    say(alice, room_id, "hello")
    assert membership(alice, room_id, bob) == "ban"
    assert post(bob, room_id, "join").status == 403
    # A key whose row is late, one whose row is not, one that has none.
    for event_type, key in (("m.test", "3"), ("m.room.join_rules", ""), ("m.new", "")):
        content = {"join_rule": "public", "n": "alice"}
        assert set_state(alice, room_id, event_type, content, key).status == 200
        assert state(alice, room_id, event_type, key).json == content
        head = head_of(room_id)
        assert head.rows_root != head.root
        assert stored_rows(room_id) == state_of(room_id, bytes(head.rows_root))
    assert post(alice, room_id, "kick", {"user_id": CAROL}).status == 200
    assert post(alice, room_id, "unban", {"user_id": bob.user_id}).status == 200
    assert post(bob, room_id, "join").status == 200
    expected = state_of(room_id)
    check_readers(alice, room_id, expected)
    follow()
    assert stored_rows(room_id) == expected
    head = head_of(room_id)
    assert (head.local_members, head.remote_servers) == (2, 3)
    assert membership(alice, room_id, bob) == "join"


def test_a_redaction_while_the_rows_are_behind_prunes_the_event_wherever_it_is(alice: User, bob: User) -> None:
    remote, _ = lagging_room(alice, bob)
    room_id = remote.room_id
    assert set_state(alice, room_id, "m.test", {"n": "secret"}, "5").status == 200
    secret = state_of(room_id)["m.test", "5"]
    assert redact(alice, room_id, secret).status == 200
    assert state(alice, room_id, "m.test", "5").json == {}
    follow()
    assert state(alice, room_id, "m.test", "5").json == {}


def test_an_event_that_comes_while_the_rows_are_behind_is_placed_on_the_state(alice: User, bob: User) -> None:
    remote, _ = lagging_room(alice, bob)
    room_id = remote.room_id
    merge = remote.say(alice.user_id, "merged")
    remote.accepted(merge)
    dave = "@dave0:host0.test"
    remote.accepted(remote.member(dave, "leave", dave), remote.join("@erin:remote.test"))
    expected = state_of(room_id)
    check_readers(alice, room_id, expected)
    follow()
    assert stored_rows(room_id) == expected
    head = head_of(room_id)
    assert (head.rows_root, head.remote_servers) == (head.root, 3)


def test_a_commit_between_two_chunks_loses_nothing(alice: User, bob: User) -> None:
    remote, _ = lagging_room(alice, bob)
    room_id = remote.room_id

    def meddle(point: str) -> None:
        if point == "rows.before":
            observability.fault_hook = None
            set_state(alice, room_id, "m.test", {"n": "meanwhile"}, "7")

    observability.fault_hook = meddle
    assert follow_rows(room_id) is True
    assert stored_rows(room_id) == state_of(room_id)
    assert state(alice, room_id, "m.test", "7").json == {"n": "meanwhile"}


def test_what_takes_too_long_for_the_follower_goes_to_the_worker_that_has_the_time(
    alice: User, bob: User, failed: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, _ = lagging_room(alice, bob)
    room_id = remote.room_id
    monkeypatch.setattr(inboxes, "ROWS_HANDED_OVER", ROWS_AT_ONCE)
    follow_room(room_id)
    head = head_of(room_id)
    assert head.rows_root != head.root
    row = LocalMember.fetch(room_id, f"local/{bob.user_id}")
    assert row is not None
    assert row.membership == "ban"  # local members come first
    expected = state_of(room_id)
    check_readers(alice, room_id, expected)
    device = Device(alice)
    device.sync()
    assert device.states[room_id] == expected
    messages = failed()
    assert messages == [{"room": room_id}]
    work(*messages)
    head = head_of(room_id)
    assert head.rows_root == head.root
    assert stored_rows(room_id) == state_of(room_id)


def test_memberships_of_very_many_remote_users_go_to_the_worker_too(
    alice: User, failed: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inboxes, "MEMBERS_HANDED_OVER", 3)
    room_id = create_room(alice, preset="public_chat", room_version="11")
    follow()
    remote = RemoteServer(room_id)
    users = [f"@user{number}:remote.test" for number in range(7)]
    joins = []
    last = remote.tips()
    for user in users:
        joins.append(remote.join(user, prev=last))
        last = [joins[-1].event_id]
    remote.receive(*joins)
    follow_room(room_id)
    messages = failed()
    assert [list(message) for message in messages] == [["room", "members"]]
    assert Membership.fetch(users[0], room_id) is None
    assert sync(alice)["rooms"]["join"][room_id]["summary"]["m.joined_member_count"] == 8
    work(*messages)
    for number, user in enumerate(users):
        row = Membership.fetch(user, room_id)
        assert row is not None
        assert (row.membership, row.event_id) == ("join", joins[number].event_id)


def work(*messages: dict[str, Any]) -> None:
    """Give messages of the queue of failed records to its worker."""
    (template, *_) = payload("room_sweep_worker_room")["Records"]
    records = [
        {**template, "messageId": f"m{number}", "body": json.dumps(body)} for number, body in enumerate(messages)
    ]
    answer = import_module("room_sweep_worker.app").lambda_handler({"Records": records}, LambdaContext())
    assert answer == {"batchItemFailures": []}
