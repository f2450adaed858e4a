"""Typing: who may say it, how long it lasts, and that a list gets shorter in time without anybody writing."""

import pytest

from functions.ephemeral import FUNCTION, announced, item_of, mark_read, news, receipts_in, type_in, typing_in
from functions.harness import User, call, register
from functions.rooms import create_room, events_of, path, post, say
from homeserver.observability import metered
from homeserver.services import ephemeral, rate_limits, typing
from homeserver.services.account_data import write_account_data
from homeserver.services.ignored_users import ignored_by
from homeserver.storage.ephemeral import RoomEphemeral, Typer

START = 1_795_000_000_000


class Time:
    """The time of writers and readers, in milliseconds."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    for module in (typing, ephemeral):
        monkeypatch.setattr(module, "now_ms", clock)
    return clock


def refusal(answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_who_types_is_told_to_every_member_until_they_stop(alice: User, bob: User, time: Time) -> None:
    room_id = create_room(alice, bob)
    answer = type_in(bob, room_id, True, timeout=20_000)
    assert (answer.status, answer.json) == (200, {})
    for user in (alice, bob):
        assert announced(user, room_id) == 1
        found = news(user, room_id)
        assert found.events == [{"type": "m.typing", "content": {"user_ids": [bob.user_id]}}]
        assert (found.number, found.typing_until) == (1, START + 20_000)
    assert type_in(alice, room_id, True).status == 200
    assert typing_in(news(alice, room_id, told=1)) == [alice.user_id, bob.user_id]
    assert type_in(bob, room_id, False).status == 200
    found = news(alice, room_id, told=2)
    assert (typing_in(found), found.number, found.typing_until) == ([alice.user_id], 3, START + typing.DEFAULT_MS)
    assert type_in(alice, room_id, False).status == 200
    assert typing_in(news(bob, room_id, told=3)) == []
    assert typing_in(news(bob, room_id)) is None  # a device that was told nothing need not hear of nobody
    assert announced(bob, room_id) == 4


def test_typing_is_no_event(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    before = events_of(bob, room_id)
    assert type_in(bob, room_id).status == 200
    assert events_of(bob, room_id) == before


@pytest.mark.parametrize(
    ("timeout", "lasts"), [(1, 1_000), (0, 1_000), (-5, 1_000), (45_000, 45_000), (10**12, 120_000), (None, 30_000)]
)
def test_the_time_is_cut_to_what_makes_sense(alice: User, time: Time, timeout: int | None, lasts: int) -> None:
    room_id = create_room(alice)
    body = {} if timeout is None else {"timeout": timeout}
    assert type_in(alice, room_id, True, **body).status == 200
    assert news(alice, room_id).typing_until == START + lasts


def test_a_list_gets_shorter_in_time_and_nobody_writes(alice: User, bob: User, time: Time) -> None:
    room_id = create_room(alice, bob)
    assert type_in(alice, room_id, timeout=10_000).status == 200
    assert type_in(bob, room_id, timeout=30_000).status == 200
    found = news(alice, room_id)
    assert (typing_in(found), found.typing_until) == ([alice.user_id, bob.user_id], START + 10_000)
    told, version = found.number, item_of(room_id).version
    time.now = START + 9_999
    assert news(alice, room_id, told, found.typing_until).events == []
    for now, expected, until in ((10_000, [bob.user_id], START + 30_000), (30_000, [], 0)):
        time.now = START + now
        found = news(alice, room_id, told, found.typing_until)
        assert (typing_in(found), found.number, found.typing_until) == (expected, told, until)
    assert news(alice, room_id, told, found.typing_until).events == []
    assert item_of(room_id).version == version


def test_who_goes_on_typing_is_told_to_nobody_again_and_stays_in_the_list(alice: User, bob: User, time: Time) -> None:
    room_id = create_room(alice, bob)
    assert type_in(bob, room_id, timeout=30_000).status == 200
    found = news(alice, room_id)
    time.now += 25_000
    with metered() as meter:
        assert type_in(bob, room_id, timeout=30_000).status == 200
    assert (meter.calls, meter.rounds) == (3, 3)  # the token, the room, and the item: no inbox
    assert announced(alice, room_id) == found.number == 1
    time.now = found.typing_until
    found = news(alice, room_id, found.number, found.typing_until)
    assert (found.events, found.typing_until) == ([], START + 55_000)
    time.now = found.typing_until
    assert typing_in(news(alice, room_id, found.number, found.typing_until)) == []


def test_a_client_that_says_it_again_and_again_is_written_once_in_ten_seconds(alice: User, time: Time) -> None:
    room_id = create_room(alice)
    written = []
    for second in range(60):
        time.now = START + second * 1000
        version = item_of(room_id).version
        assert type_in(alice, room_id, timeout=30_000).status == 200
        if item_of(room_id).version > version:
            written.append(second)
    assert written == [0, 11, 22, 33, 44, 55]


def test_a_much_shorter_time_is_told_at_once(alice: User, time: Time) -> None:
    room_id = create_room(alice)
    assert type_in(alice, room_id, timeout=60_000).status == 200
    assert type_in(alice, room_id, timeout=5_000).status == 200
    found = news(alice, room_id, told=1, typing_until=START + 60_000)
    assert (typing_in(found), found.typing_until) == ([alice.user_id], START + 5_000)


def test_whose_time_is_over_types_anew(alice: User, bob: User, time: Time) -> None:
    room_id = create_room(alice, bob)
    assert type_in(bob, room_id, timeout=5_000).status == 200
    time.now += 6_000
    assert type_in(bob, room_id, timeout=5_000).status == 200
    found = news(alice, room_id, told=1)
    assert (typing_in(found), found.number, announced(alice, room_id)) == ([bob.user_id], 2, 2)


def test_stopping_what_never_began_or_is_over_is_not_written(alice: User, bob: User, time: Time) -> None:
    room_id = create_room(alice, bob)
    with metered() as meter:
        assert type_in(bob, room_id, False).status == 200
    assert meter.wru == 0
    assert type_in(bob, room_id, timeout=5_000).status == 200
    time.now += 5_000
    with metered() as meter:
        assert type_in(bob, room_id, False).status == 200
    assert (meter.wru, item_of(room_id).number) == (0, 1)


def test_typing_and_receipts_share_the_numbers_and_not_the_news(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    assert type_in(bob, room_id).status == 200
    assert mark_read(bob, room_id, event_id).status == 200
    found = news(alice, room_id, told=1)
    assert (typing_in(found), receipts_in(found)) == (None, {(bob.user_id, "m.read", ""): event_id})
    assert type_in(bob, room_id, False).status == 200
    found = news(alice, room_id, told=2)
    assert (typing_in(found), receipts_in(found)) == ([], {})


def test_a_crowd_that_types_at_once_is_cut_to_what_the_item_holds() -> None:
    state = RoomEphemeral("!room:example.org")
    for number in range(30):
        state = state.with_typing([*state.typing, Typer(f"@user{number}:example.org", START + number)], announced=True)
    assert (state.number, state.typing_number) == (30, 30)
    assert 3 <= len(state.typing) <= 10
    assert state.typing[-1].user_id == "@user29:example.org"


# ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_types_for_somebody_else(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    assert refusal(type_in(alice, room_id, of=bob)) == (403, "M_FORBIDDEN")
    assert item_of(room_id).number == 0


def test_only_members_type(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, preset="public_chat")
    assert refusal(type_in(carol, room_id)) == (403, "M_FORBIDDEN")
    assert post(bob, room_id, "leave").status == 200
    assert refusal(type_in(bob, room_id)) == (403, "M_FORBIDDEN")
    assert refusal(type_in(alice, "!nowhere:example.org")) == (403, "M_FORBIDDEN")
    assert refusal(type_in(alice, "nowhere")) == (400, "M_INVALID_PARAM")


def test_typing_needs_a_token(checked, alice: User) -> None:
    where = path("rooms", create_room(alice), "typing", alice.user_id)
    assert refusal(checked(FUNCTION, "PUT", where, {"typing": True})) == (401, "M_MISSING_TOKEN")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ("{", "M_NOT_JSON"),
        ([], "M_BAD_JSON"),
        ({}, "M_MISSING_PARAM"),
        ({"typing": "yes"}, "M_BAD_JSON"),
        ({"typing": 1}, "M_BAD_JSON"),
        ({"typing": True, "timeout": "long"}, "M_BAD_JSON"),
        ({"typing": True, "timeout": 1.5}, "M_BAD_JSON"),
        ({"typing": True, "timeout": True}, "M_BAD_JSON"),
    ],
)
def test_a_body_that_says_nothing_is_refused(checked, alice: User, body, errcode: str) -> None:
    room_id = create_room(alice)
    where = path("rooms", room_id, "typing", alice.user_id)
    assert refusal(checked(FUNCTION, "PUT", where, body, token=alice.token)) == (400, errcode)
    assert item_of(room_id).number == 0


def test_a_user_with_a_slash_in_the_name_types_too() -> None:
    user = register("a/b")
    room_id = create_room(user)
    assert call(FUNCTION, "PUT", path("rooms", room_id, "typing", user.user_id), {"typing": True}, token=user.token)[
        :2
    ] == (200, {})
    assert typing_in(news(user, room_id)) == [user.user_id]


def test_who_switches_on_and_off_too_fast_is_told_to_wait(alice: User, server, monkeypatch) -> None:
    room_id = create_room(alice)
    server(RATE_LIMITS="on")
    take = rate_limits.take
    monkeypatch.setattr(rate_limits, "take", lambda bucket, **_: take(bucket, per_second=0.01, burst=30))
    answers = [type_in(alice, room_id, number % 2 == 0) for number in range(31)]
    assert refusal(answers[-1]) == (429, "M_LIMIT_EXCEEDED")
    assert [answer.status for answer in answers[:30]] == [200] * 30
    number = item_of(room_id).number
    assert type_in(alice, room_id, False).status == 200  # nothing to write, nothing to limit
    assert item_of(room_id).number == number == 30


# ── Ignored users ────────────────────────────────────────────────────────────────────────────────────────


def ignore(user: User, *others: User) -> None:
    content = {"ignored_users": {other.user_id: {} for other in others}}
    write_account_data(user.user_id, None, "m.ignored_user_list", content)


def test_the_receipts_and_typing_of_ignored_users_are_not_told(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, carol)
    (event_id,) = say(alice, room_id, "hello")
    ignore(alice, bob)
    for user in (bob, carol):
        assert mark_read(user, room_id, event_id).status == 200
        assert type_in(user, room_id).status == 200
    assert receipts_in(news(alice, room_id)) == {(carol.user_id, "m.read", ""): event_id}
    assert typing_in(news(alice, room_id)) == [carol.user_id]
    assert typing_in(news(carol, room_id)) == [bob.user_id, carol.user_id]


def test_a_list_of_ignored_users_is_read_once_as_long_as_the_account_data_stands_still(alice: User, bob: User) -> None:
    carol = register("carol")
    assert ignored_by(alice.user_id, number=0) == frozenset()
    ignore(alice, bob, alice)
    with metered() as meter:
        assert ignored_by(alice.user_id, number=1) == {bob.user_id}  # nobody ignores themselves
        assert ignored_by(alice.user_id, number=1) == {bob.user_id}
        assert ignored_by(alice.user_id, number=0) == {bob.user_id}  # an inbox that was read late
    assert (meter.calls, meter.rru) == (1, 1)
    ignore(alice, carol)
    assert ignored_by(alice.user_id, number=2) == {carol.user_id}
    ignore(alice)
    assert ignored_by(alice.user_id) == frozenset()


@pytest.mark.parametrize("content", [{}, {"ignored_users": []}, {"ignored_users": None}, {"ignored_users": "@a:b"}])
def test_a_list_that_is_none_ignores_nobody(alice: User, content) -> None:
    write_account_data(alice.user_id, None, "m.ignored_user_list", content)
    assert ignored_by(alice.user_id) == frozenset()
