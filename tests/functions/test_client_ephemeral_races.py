"""Receipts at the same time, and requests that are cut off: nothing is lost, and a repeat makes good what is not."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from functions.ephemeral import announced, item_of, mark_read, news, one_call_at_a_time, receipts_in, type_in, typing_in
from functions.harness import User, register
from functions.rooms import create_room, follow, post, say
from homeserver import observability
from homeserver.services import attempts, fanout, inboxes, receipts
from homeserver.services.access_tokens import Requester
from homeserver.services.inboxes import follow_part
from homeserver.services.receipts import send_receipt
from homeserver.services.typing import set_typing
from homeserver.storage import ephemeral, large_rooms
from homeserver.storage.inbox import read_inbox
from homeserver.storage.large_rooms import look_at_heads

PRIVATE = "m.read.private"


class Crash(BaseException):
    """The process is gone: nothing catches this."""


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


def crash_at(point: str, passes: int = 0) -> None:
    left = [passes]

    def hook(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] < 0:
                raise Crash

    observability.fault_hook = hook


def cut_off(work: Callable[[], object]) -> None:
    with pytest.raises(Crash):
        work()
    observability.fault_hook = None


@pytest.fixture
def crowd(alice: User) -> tuple[str, list[User]]:
    users = [alice, *(register() for _ in range(15))]
    return create_room(*users), users


def requester(user: User) -> Requester:
    return Requester(user.user_id, user.device_id, "")


def test_of_sixteen_receipts_at_once_none_is_lost_and_every_reader_converges(crowd, monkeypatch) -> None:
    one_call_at_a_time(monkeypatch)
    monkeypatch.setattr(attempts, "ATTEMPT_SECONDS", 60.0)
    room_id, users = crowd
    (event_id,) = say(users[0], room_id, "hello")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda user: send_receipt(requester(user), room_id, "m.read", event_id), users))
    everything = {(user.user_id, "m.read", ""): event_id for user in users}
    assert item_of(room_id).number == 16
    for user in users:
        assert announced(user, room_id) == 16
        assert receipts_in(news(user, room_id)) == everything
    # A reader who was told of any number on the way gets exactly the rest.
    by_number = {receipt.number: receipt.key for receipt in (*ephemeral.rows_of(room_id), *item_of(room_id).receipts)}
    assert sorted(by_number) == list(range(1, 17))
    for told in range(1, 17):
        rest = {by_number[number]: event_id for number in range(told + 1, 17)}
        assert receipts_in(news(users[3], room_id, told=told)) == rest


def test_a_reader_between_all_writes_of_many_receipts_misses_none(crowd) -> None:
    """At every step of the writers a device reads what is new; in the end it knows what the room knows."""
    room_id, users = crowd
    event_ids = say(users[0], room_id, "one", "two", "three")
    known: dict[tuple[str, str, str], str] = {}
    told = 0

    def read(_name: str) -> None:
        nonlocal told
        observability.fault_hook = None
        found = news(users[5], room_id, told=told)
        assert found.number >= told
        known.update(receipts_in(found))
        told = found.number
        observability.fault_hook = read

    observability.fault_hook = read
    for event_id in event_ids:
        for user in users:
            assert mark_read(user, room_id, event_id).status == 200
    read("")
    assert known == {(user.user_id, "m.read", ""): event_ids[-1] for user in users}
    assert told == 48


def test_receipts_of_one_user_at_once_leave_the_latest_event(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    one_call_at_a_time(monkeypatch)
    room_id = create_room(alice)
    event_ids = say(alice, room_id, *map(str, range(8)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda event_id: send_receipt(requester(alice), room_id, "m.read", event_id), event_ids))
    assert receipts_in(news(alice, room_id)) == {(alice.user_id, "m.read", ""): event_ids[-1]}


def test_who_always_loses_the_race_is_told_to_try_again(alice: User, monkeypatch) -> None:
    monkeypatch.setattr(attempts, "ATTEMPT_SECONDS", 0.05)
    monkeypatch.setattr(receipts, "store", lambda *_: False)
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    answer = mark_read(alice, room_id, event_id)
    assert (answer.status, answer.errcode) == (429, "M_LIMIT_EXCEEDED")


# ── Cut off ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("point", "passes"),
    [
        ("receipt.stored", 0),
        ("ephemeral.before_inboxes", 0),
        ("follower.between_inboxes", 0),
        ("follower.between_inboxes", 1),
        ("ephemeral.before_author", 0),
    ],
)
def test_a_receipt_that_was_cut_off_is_announced_by_its_repeat(alice: User, bob: User, point: str, passes: int) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, carol)
    (event_id,) = say(alice, room_id, "hello")
    crash_at(point, passes)
    cut_off(lambda: send_receipt(requester(bob), room_id, "m.read", event_id))
    told = {(bob.user_id, "m.read", ""): event_id}
    # Stored before it is announced: whoever is told the number can read it.
    assert receipts_in(news(alice, room_id)) == told
    assert announced(bob, room_id) == 0
    assert mark_read(bob, room_id, event_id).status == 200
    assert [announced(user, room_id) for user in (alice, bob, carol)] == [1, 1, 1]
    assert item_of(room_id).number == 1


def test_a_later_change_of_anybody_announces_what_was_cut_off_too(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    crash_at("receipt.stored")
    cut_off(lambda: send_receipt(requester(bob), room_id, "m.read", event_id))
    assert mark_read(alice, room_id, event_id).status == 200
    assert announced(alice, room_id) == announced(bob, room_id) == 2
    assert set(receipts_in(news(bob, room_id, told=0))) == {(u.user_id, "m.read", "") for u in (alice, bob)}


def test_a_private_receipt_that_was_cut_off_is_announced_by_its_repeat_to_its_user_alone(
    alice: User, bob: User
) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    crash_at("receipt.stored")
    cut_off(lambda: send_receipt(requester(bob), room_id, PRIVATE, event_id))
    assert mark_read(bob, room_id, event_id, PRIVATE).status == 200
    assert (announced(bob, room_id), announced(alice, room_id)) == (1, 0)


def test_between_the_row_and_the_item_nothing_is_lost_or_told_twice(crowd, monkeypatch) -> None:
    """The writer is gone after it moved the oldest receipt into its row, and before it wrote its own."""
    room_id, users = crowd
    first, second = say(users[0], room_id, "one", "two")
    for user in users:
        assert mark_read(user, room_id, first).status == 200
    before = item_of(room_id)
    oldest = before.receipts[0]

    def gone(*_: object) -> None:
        raise Crash

    update = ephemeral._update
    monkeypatch.setattr(ephemeral, "_update", lambda item, *r: gone() if item.k == "ephemeral" else update(item, *r))
    cut_off(lambda: send_receipt(requester(users[0]), room_id, "m.read", second))
    monkeypatch.setattr(ephemeral, "_update", update)
    assert item_of(room_id) == before
    assert oldest in ephemeral.rows_of(room_id)
    everything = {(user.user_id, "m.read", ""): first for user in users}
    assert receipts_in(news(users[1], room_id)) == everything
    assert mark_read(users[0], room_id, second).status == 200
    assert receipts_in(news(users[1], room_id)) == everything | {(users[0].user_id, "m.read", ""): second}


def test_a_late_writer_of_a_row_does_not_take_it_back(alice: User) -> None:
    room_id = create_room(alice)
    old = ephemeral.Receipt(alice.user_id, "m.read", "", "$" + "a" * 43, 1, 5, number=3)
    new = ephemeral.Receipt(alice.user_id, "m.read", "", "$" + "b" * 43, 2, 9, number=7)
    for receipt in (new, old):
        ephemeral._store_in_row(room_id, receipt)
    assert ephemeral.rows_of(room_id) == [new]


@pytest.mark.parametrize("point", ["typing.stored", "ephemeral.before_inboxes", "ephemeral.before_author"])
def test_typing_that_was_cut_off_is_announced_by_its_repeat(alice: User, bob: User, point: str) -> None:
    room_id = create_room(alice, bob)
    for typing, told in ((True, [bob.user_id]), (False, [])):
        number = item_of(room_id).number
        crash_at(point)
        cut_off(lambda typing=typing: set_typing(requester(bob), room_id, bob.user_id, typing=typing, timeout_ms=None))
        assert announced(bob, room_id) == number
        assert type_in(bob, room_id, typing).status == 200
        assert announced(alice, room_id) == announced(bob, room_id) == number + 1
        assert typing_in(news(alice, room_id, told=number)) == (told or (None if number == 0 else []))


# ── Many members ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Rooms of more than three go through the queue; what was put into it."""
    sent: list[dict] = []
    monkeypatch.setattr(inboxes, "MEMBERS_AT_ONCE", 3)
    monkeypatch.setattr(fanout, "MEMBERS_AT_ONCE", 3)
    for module in (fanout, inboxes):
        monkeypatch.setattr(module, "send_json", lambda _queue, part: sent.append(json.loads(json.dumps(part))))
    return sent


def test_beyond_the_fan_out_limit_the_queue_announces_in_parts(crowd, parts) -> None:
    room_id, users = crowd
    (event_id,) = say(users[0], room_id, "hello")
    follow()
    parts.clear()
    assert mark_read(users[2], room_id, event_id).status == 200
    assert announced(users[2], room_id) == 1  # the author's other devices do not wait for the queue
    assert [announced(user, room_id) for user in users].count(1) == 1
    assert [len(part["slots"]) for part in parts] == [3] * 5
    assert {part["ephemeral"] for part in parts} == {1}
    assert all(part["moves"] == [] for part in parts)  # a worker of the release before does nothing with it
    for part in (*parts, *parts):
        follow_part(part)
    assert [announced(user, room_id) for user in users] == [1] * 16


def test_a_late_part_does_not_take_a_number_back(crowd, parts) -> None:
    room_id, users = crowd
    one, two = say(users[0], room_id, "one", "two")
    follow()
    parts.clear()
    for event_id in (one, two):
        assert mark_read(users[2], room_id, event_id).status == 200
    for part in reversed(parts):
        follow_part(part)
    assert [announced(user, room_id) for user in users] == [2] * 16


# ── Large rooms ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, crowd) -> tuple[str, list[User]]:
    monkeypatch.setattr(large_rooms, "LARGE_FROM", 15)
    monkeypatch.setattr(large_rooms, "LARGE_UNTIL", 15)
    follow()
    return crowd


def looked_at(user: User, *, ephemeral_too: bool) -> int:
    inbox = read_inbox(user.user_id, consistent=True)
    dispatch = ephemeral.connection().dispatch
    look_at_heads(dispatch, user.user_id, inbox, consistent=True, ephemeral=ephemeral_too)
    return next(iter(inbox.slots.values())).ephemeral


def test_in_a_large_room_only_the_author_is_announced_to_and_others_look_at_the_item(large) -> None:
    room_id, users = large
    (event_id,) = say(users[0], room_id, "hello")
    assert mark_read(users[1], room_id, event_id).status == 200
    assert [announced(user, room_id) for user in users].count(0) == 15
    assert announced(users[1], room_id) == 1
    assert looked_at(users[2], ephemeral_too=False) == 0
    assert looked_at(users[2], ephemeral_too=True) == 1
    assert receipts_in(news(users[2], room_id)) == {(users[1].user_id, "m.read", ""): event_id}
    assert mark_read(users[1], room_id, event_id, PRIVATE).status == 200
    assert type_in(users[3], room_id).status == 200
    assert (announced(users[1], room_id), announced(users[3], room_id)) == (2, 3)
    assert looked_at(users[2], ephemeral_too=True) == 3


def test_a_private_receipt_in_a_large_room_is_no_news_to_others(large) -> None:
    room_id, users = large
    (event_id,) = say(users[0], room_id, "hello")
    assert mark_read(users[1], room_id, event_id, PRIVATE).status == 200
    assert looked_at(users[2], ephemeral_too=True) == 0
    assert looked_at(users[1], ephemeral_too=True) == 1


def test_nobody_reads_the_rows_of_all_members_of_a_large_room(large) -> None:
    room_id, users = large
    (event_id,) = say(users[0], room_id, "hello")
    for user in users:
        assert mark_read(user, room_id, event_id).status == 200
    newest = {receipt.key: event_id for receipt in item_of(room_id).receipts}
    assert 5 <= len(newest) <= 8
    assert receipts_in(news(users[0], room_id)) == newest | {(users[0].user_id, "m.read", ""): event_id}


def test_a_room_that_shrinks_tells_its_members_what_they_were_not_told(large) -> None:
    room_id, users = large
    (event_id,) = say(users[0], room_id, "hello")
    assert mark_read(users[1], room_id, event_id).status == 200
    for user in users[14:]:
        assert post(user, room_id, "leave").status == 200
    follow()
    assert [announced(user, room_id) for user in users[:14]] == [1] * 14
    (event_id,) = say(users[0], room_id, "small again")
    assert mark_read(users[1], room_id, event_id).status == 200
    assert [announced(user, room_id) for user in users[:14]] == [2] * 14
