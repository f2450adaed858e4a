"""The inbox follower: what it writes, and that nothing is lost or done twice wherever it is cut off."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from functions.harness import LambdaContext, User, payload, register
from functions.rooms import create_room, follow, post, say, texts
from functions.syncing import Device
from homeserver import observability
from homeserver.adapters import aws
from homeserver.observability import metered
from homeserver.services import inboxes
from homeserver.services.inboxes import CURSOR, follow_room
from homeserver.services.sweep import lagging_rooms
from homeserver.storage.inbox import read_inbox
from homeserver.storage.room_items import HEAD, Cursor, Head, LocalMember, Membership

pytestmark = pytest.mark.usefixtures("set_up")


class Crash(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict[str, Any]]]:
    """The two queues; `queues(name)` takes what is in one of them."""
    sqs = aws.client("sqs")
    urls = {name: sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("fanout", "failed")}
    monkeypatch.setenv("INBOX_FANOUT_QUEUE", urls["fanout"])
    monkeypatch.setenv("FAILED_RECORDS_QUEUE", urls["failed"])

    def take(name: str) -> list[dict[str, Any]]:
        taken: list[dict[str, Any]] = []
        while found := sqs.receive_message(QueueUrl=urls[name], MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                sqs.delete_message(QueueUrl=urls[name], ReceiptHandle=message["ReceiptHandle"])
            taken += found
        return taken

    return take


def invoke(function: str, event: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = import_module(f"{function}.app").lambda_handler(event, LambdaContext())
    return answer


def records_of(*room_ids: str) -> dict[str, Any]:
    """A batch of the stream in the shape of events/inbox_follower.json, one record for each room."""
    (template,) = payload("inbox_follower")["Records"]
    records = []
    for number, room_id in enumerate(room_ids):
        record = json.loads(json.dumps(template))
        record["dynamodb"]["Keys"]["room"]["S"] = room_id
        record["dynamodb"]["NewImage"]["room"]["S"] = room_id
        record["dynamodb"]["SequenceNumber"] = f"{number + 1:021d}"
        records.append(record)
    return {"Records": records}


def sqs_event(name: str, *bodies: Any) -> dict[str, Any]:
    """An SQS event in the shape of events/<name>.json, one record for each body."""
    (template, *_) = payload(name)["Records"]
    return {
        "Records": [
            {**template, "messageId": f"message-{number}", "body": body if isinstance(body, str) else json.dumps(body)}
            for number, body in enumerate(bodies)
        ]
    }


def head_of(room_id: str) -> int:
    head = Head.fetch(room_id, HEAD)
    assert head is not None
    return int(head.position)


def cursor_of(room_id: str) -> int:
    cursor = Cursor.fetch(room_id, CURSOR)
    return int(cursor.position) if cursor else 0


def slot_position(user: User, room_id: str) -> int:
    row = LocalMember.fetch(room_id, f"local/{user.user_id}")
    assert row is not None
    assert row.slot is not None
    return read_inbox(user.user_id, consistent=True).slots[int(row.slot)].position


def test_the_recorded_stream_record_wakes_its_room(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    say(alice, room_id, "hello")
    assert slot_position(bob, room_id) < head_of(room_id)
    assert invoke("inbox_follower", records_of(room_id)) == {"batchItemFailures": []}
    assert slot_position(bob, room_id) == slot_position(alice, room_id) == cursor_of(room_id) == head_of(room_id)


def test_a_recorded_record_of_a_room_that_is_gone_is_no_failure() -> None:
    assert invoke("inbox_follower", payload("inbox_follower")) == {"batchItemFailures": []}


def test_a_room_costs_one_write_a_member_and_one_for_the_cursor_and_a_repeat_costs_none(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, register("carol"))
    follow()
    say(alice, room_id, "one", "two", "three")
    with metered() as first:
        follow_room(room_id)
    assert (first.calls, first.rounds) == (5, 3)  # one read, three inboxes, the cursor
    with metered() as again:
        follow_room(room_id)
    assert (again.calls, again.wru) == (1, 0)


@pytest.mark.parametrize(
    "point",
    [
        "follower.between_memberships",
        "follower.before_inboxes",
        "follower.between_inboxes",
        "follower.before_cursor",
        "follower.after_cursor",
    ],
)
@pytest.mark.parametrize("passes", [0, 1])
def test_wherever_it_is_cut_off_everything_is_delivered_once(alice: User, bob: User, point: str, passes: int) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob)
    devices = {user.user_id: Device(user) for user in (alice, bob, carol)}
    follow()
    for device in devices.values():
        device.sync()
    say(alice, room_id, "one")
    assert post(alice, room_id, "invite", {"user_id": carol.user_id}).status == 200
    assert post(alice, room_id, "kick", {"user_id": bob.user_id}).status == 200
    left = passes

    def crash(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left < 0:
                raise Crash

    observability.fault_hook = crash
    with suppress(Crash):
        follow_room(room_id)
    observability.fault_hook = None
    first = {name: device.sync() for name, device in devices.items()}
    assert lagging_rooms() == ([room_id] if cursor_of(room_id) < head_of(room_id) else [])
    follow()
    second = {name: device.sync() for name, device in devices.items()}
    assert cursor_of(room_id) == head_of(room_id)

    def told(user: User, section: str) -> list[str | None]:
        both = (body.get("rooms", {}).get(section, {}) for body in (first[user.user_id], second[user.user_id]))
        rooms = [found[room_id] for found in both if room_id in found]
        return [body for room in rooms for body in texts(room.get("timeline", {"events": []})["events"])]

    assert told(alice, "join") == ["one"]
    assert told(bob, "join") + told(bob, "leave") == ["one"]
    assert devices[bob.user_id].joined == set()
    assert [
        room_id in body.get("rooms", {}).get("invite", {}) for body in (first[carol.user_id], second[carol.user_id])
    ].count(True) == 1
    rows = {user.user_id: Membership.fetch(user.user_id, room_id) for user in (alice, bob, carol)}
    assert {name: row and row.membership for name, row in rows.items()} == {
        alice.user_id: "join",
        bob.user_id: "leave",
        carol.user_id: "invite",
    }
    for device in devices.values():
        assert list(device.sync()) == ["next_batch"]


def test_a_follower_that_is_late_takes_nothing_back(alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the room, another one does everything and more, then it goes on with what it read."""
    room_id = create_room(alice)
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    follow()
    assert post(bob, room_id, "join").status == 200
    read = inboxes._read
    late = read(room_id)
    follow_room(room_id)
    assert post(bob, room_id, "leave").status == 200
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    follow_room(room_id)
    before = (slot_position(bob, room_id), cursor_of(room_id))
    monkeypatch.setattr(inboxes, "_read", lambda _room: late)
    follow_room(room_id)
    assert (slot_position(bob, room_id), cursor_of(room_id)) == before
    assert list(Device(bob).sync()["rooms"]) == ["invite"]
    row = Membership.fetch(bob.user_id, room_id)
    assert row is not None
    assert row.membership == "invite"


def test_a_poison_room_is_put_aside_and_blocks_no_other(
    alice: User, bob: User, queues: Callable[[str], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, healthy = create_room(alice, bob), create_room(alice, bob)
    read = inboxes._read

    def poisoned(room_id: str) -> Any:
        if room_id == poison:
            raise ValueError("poison")
        return read(room_id)

    with monkeypatch.context() as patched:
        patched.setattr(inboxes, "_read", poisoned)
        assert invoke("inbox_follower", records_of(poison, healthy, poison)) == {"batchItemFailures": []}
        assert invoke("room_sweep_worker", payload("room_sweep_worker_schedule")) == {"repaired": 0}
    assert (cursor_of(poison), cursor_of(healthy)) == (0, head_of(healthy))
    (message,) = queues("failed")
    assert json.loads(message["Body"]) == {"room": poison}
    # The cause is gone: the queue's worker takes it up.
    event = sqs_event("room_sweep_worker_room", message["Body"])
    assert invoke("room_sweep_worker", event) == {"batchItemFailures": []}
    assert cursor_of(poison) == head_of(poison)


def test_without_the_queue_the_stream_has_to_repeat_the_record(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    room_id = create_room(alice)
    monkeypatch.delenv("FAILED_RECORDS_QUEUE", raising=False)
    monkeypatch.setattr(inboxes, "_read", lambda _room: 1 / 0)
    assert invoke("inbox_follower", records_of(room_id)) == {"batchItemFailures": [{"itemIdentifier": f"{1:021d}"}]}


def test_a_batch_that_lambda_gave_up_is_repaired_by_a_sweep(alice: User, bob: User) -> None:
    rooms = [create_room(alice, bob) for _ in range(3)]
    assert set(lagging_rooms()) == set(rooms)
    assert invoke("room_sweep_worker", payload("room_sweep_worker_given_up")) == {"batchItemFailures": []}
    assert lagging_rooms() == []
    assert [slot_position(bob, room_id) for room_id in rooms] == [head_of(room_id) for room_id in rooms]


class TestFanOut:
    """More than a few members are moved in parts, by a queue; here more than two are many."""

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inboxes, "MEMBERS_AT_ONCE", 2)

    @pytest.fixture
    def members(self, alice: User, bob: User) -> list[User]:
        return [alice, bob, *(register(name) for name in ("carol", "dave", "erin"))]

    def test_every_member_is_in_one_part_and_the_parts_are_queued_before_the_cursor_moves(
        self, members: list[User], queues: Callable[[str], list[dict[str, Any]]]
    ) -> None:
        room_id = create_room(*members)
        follow()
        queues("fanout")
        say(members[0], room_id, "hello")

        def crash(name: str) -> None:
            if name == "follower.before_cursor":
                raise Crash

        observability.fault_hook = crash
        with pytest.raises(Crash):
            follow_room(room_id)
        observability.fault_hook = None
        assert cursor_of(room_id) < head_of(room_id)
        parts = [json.loads(message["Body"]) for message in queues("fanout")]
        moved = sorted(move[0] for part in parts for move in part["moves"])
        assert moved == sorted(member.user_id for member in members)
        assert [len(part["moves"]) for part in parts] == [2, 2, 1]
        # All parts are lost: the cursor stands where it was, and the next run makes them anew.
        follow_room(room_id)
        event = sqs_event("inbox_fanout_worker", *[message["Body"] for message in queues("fanout")])
        assert invoke("inbox_fanout_worker", event) == {"batchItemFailures": []}
        assert {slot_position(member, room_id) for member in members} == {head_of(room_id)}

    def test_a_part_that_fails_stays_in_its_queue_and_the_others_do_not(
        self, members: list[User], queues: Callable[[str], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room_id = create_room(*members)
        follow_room(room_id)
        first, *others = [message["Body"] for message in queues("fanout")]
        event = sqs_event("inbox_fanout_worker", first, *others)
        with monkeypatch.context() as patched:
            patched.setattr(inboxes, "write", lambda _request: 1 / 0)
            answer = invoke("inbox_fanout_worker", event)
        assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == [
            record["messageId"] for record in event["Records"]
        ]
        assert invoke("inbox_fanout_worker", sqs_event("inbox_fanout_worker", "{}", *others))["batchItemFailures"] == [
            {"itemIdentifier": "message-0"}
        ]

    def test_a_part_that_the_workers_gave_up_is_made_good_by_the_sweep_worker(
        self, members: list[User], queues: Callable[[str], list[dict[str, Any]]]
    ) -> None:
        room_id = create_room(*members)
        follow_room(room_id)
        queues("fanout")
        say(members[0], room_id, "hello")
        post(members[0], room_id, "kick", {"user_id": members[4].user_id})
        follow_room(room_id)
        assert cursor_of(room_id) == head_of(room_id)
        assert lagging_rooms() == []
        # Redriven from the fan-out queue into the queue of failed records, as they are; twice does no harm.
        bodies = [message["Body"] for message in queues("fanout")]
        for _ in range(2):
            assert invoke("room_sweep_worker", sqs_event("room_sweep_worker_part", *bodies)) == {
                "batchItemFailures": []
            }
        assert {slot_position(member, room_id) for member in members} == {head_of(room_id)}

    def test_the_recorded_parts_of_users_who_are_gone_are_no_failure(self) -> None:
        assert invoke("inbox_fanout_worker", payload("inbox_fanout_worker")) == {"batchItemFailures": []}
        assert invoke("room_sweep_worker", payload("room_sweep_worker_part")) == {"batchItemFailures": []}
