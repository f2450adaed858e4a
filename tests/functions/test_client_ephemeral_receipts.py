"""Receipts: who may send which, what moves them, and what readers are told of them."""

import pytest

from functions.ephemeral import (
    FUNCTION,
    announced,
    item_of,
    mark_read,
    news,
    receipts_in,
    say_in_thread,
)
from functions.harness import User, call, invoke, payload, register
from functions.rooms import create_room, events_of, path, post, say, set_state
from homeserver.observability import metered
from homeserver.services import clock, receipts
from homeserver.storage import ephemeral
from homeserver.storage.ephemeral import row_of, rows_of

PRIVATE = "m.read.private"


@pytest.fixture
def carol() -> User:
    return register("carol")


def refusal(answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_the_recorded_payloads_reach_the_endpoints_and_name_an_unknown_token() -> None:
    for name in ("typing", "receipt", "read_markers"):
        answer = invoke(FUNCTION, payload(f"client_ephemeral_{name}"))
        assert refusal(answer) == (401, "M_UNKNOWN_TOKEN")


def test_a_receipt_is_told_to_every_member_with_its_time(alice: User, bob: User, monkeypatch) -> None:
    monkeypatch.setattr(receipts, "now_ms", lambda: 1_795_000_000_123)
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    answer = mark_read(bob, room_id, event_id)
    assert (answer.status, answer.json) == (200, {})
    told = {"type": "m.receipt", "content": {event_id: {"m.read": {bob.user_id: {"ts": 1_795_000_000_123}}}}}
    for user in (alice, bob):
        assert news(user, room_id).events == [told]
        assert news(user, room_id).number == announced(user, room_id) == 1
        assert news(user, room_id, told=1).events == []


def test_a_receipt_is_no_event_and_takes_no_position(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    before = events_of(bob, room_id)
    for kind in ("m.read", PRIVATE, "m.fully_read"):
        assert mark_read(bob, room_id, event_id, kind).status == 200
    assert events_of(bob, room_id) == before


def test_a_receipt_moves_forward_only_and_what_moves_nothing_is_not_written(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    first, second = say(alice, room_id, "one", "two")
    assert mark_read(bob, room_id, second).status == 200
    for event_id in (first, second):
        with metered() as meter:
            assert mark_read(bob, room_id, event_id).status == 200
        assert meter.wru == 0
    assert receipts_in(news(alice, room_id)) == {(bob.user_id, "m.read", ""): second}
    (third,) = say(alice, room_id, "three")
    assert mark_read(bob, room_id, third).status == 200
    assert receipts_in(news(alice, room_id)) == {(bob.user_id, "m.read", ""): third}
    assert news(alice, room_id).number == 2


def test_private_and_public_receipts_move_on_their_own(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    first, second = say(alice, room_id, "one", "two")
    assert mark_read(bob, room_id, second, PRIVATE).status == 200
    assert mark_read(bob, room_id, first).status == 200
    assert receipts_in(news(bob, room_id)) == {(bob.user_id, "m.read", ""): first, (bob.user_id, PRIVATE, ""): second}


def test_a_private_receipt_is_told_and_announced_to_nobody_else(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    first, second = say(alice, room_id, "one", "two")
    assert mark_read(bob, room_id, first, PRIVATE).status == 200
    assert (announced(bob, room_id), announced(alice, room_id)) == (1, 0)
    assert news(alice, room_id).events == []
    assert receipts_in(news(bob, room_id)) == {(bob.user_id, PRIVATE, ""): first}
    assert mark_read(bob, room_id, second).status == 200
    assert (announced(bob, room_id), announced(alice, room_id)) == (2, 2)
    assert receipts_in(news(alice, room_id)) == {(bob.user_id, "m.read", ""): second}


def test_private_receipts_stay_private_when_they_leave_the_item(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    assert mark_read(bob, room_id, event_id, PRIVATE).status == 200
    for number in range(9):
        user = register()
        assert post(alice, room_id, "invite", {"user_id": user.user_id}).status == 200
        assert post(user, room_id, "join").status == 200
        (event_id,) = say(alice, room_id, f"for {number}")
        assert mark_read(user, room_id, event_id).status == 200
    assert item_of(room_id).receipt((bob.user_id, PRIVATE, "")) is None
    assert (bob.user_id, PRIVATE, "") in {receipt.key for receipt in rows_of(room_id)}
    assert PRIVATE not in {kind for _, kind, _ in receipts_in(news(alice, room_id))}
    assert (bob.user_id, PRIVATE, "") in receipts_in(news(bob, room_id))


# ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────


def test_only_members_send_receipts(alice: User, bob: User, carol: User) -> None:
    room_id = create_room(alice, bob, preset="public_chat")
    (event_id,) = say(alice, room_id, "hello")
    assert refusal(mark_read(carol, room_id, event_id)) == (403, "M_FORBIDDEN")
    assert post(alice, room_id, "invite", {"user_id": carol.user_id}).status == 200
    assert refusal(mark_read(carol, room_id, event_id)) == (403, "M_FORBIDDEN")
    assert post(bob, room_id, "leave").status == 200
    assert refusal(mark_read(bob, room_id, event_id)) == (403, "M_FORBIDDEN")
    assert refusal(mark_read(alice, "!nowhere:example.org", event_id)) == (403, "M_FORBIDDEN")
    assert item_of(room_id).number == 0


def test_a_receipt_needs_a_token(checked, alice: User) -> None:
    where = path("rooms", create_room(alice), "receipt", "m.read", "$a")
    assert refusal(checked(FUNCTION, "POST", where, {})) == (401, "M_MISSING_TOKEN")


def test_an_event_that_cannot_be_seen_cannot_be_read(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    assert set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"}).status == 200
    (hidden,) = say(alice, room_id, "before bob")
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    assert post(bob, room_id, "join").status == 200
    assert refusal(mark_read(bob, room_id, hidden)) == (404, "M_NOT_FOUND")
    assert mark_read(alice, room_id, hidden).status == 200


def test_an_event_from_before_the_own_stay_can_be_read_where_history_is_shared(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "before bob")
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    assert post(bob, room_id, "join").status == 200
    assert mark_read(bob, room_id, event_id).status == 200
    assert receipts_in(news(alice, room_id)) == {(bob.user_id, "m.read", ""): event_id}


@pytest.mark.parametrize("kind", ["m.read", PRIVATE, "m.fully_read"])
def test_an_event_of_another_room_or_of_none_is_not_found(alice: User, kind: str) -> None:
    room_id, other = create_room(alice), create_room(alice)
    (event_id,) = say(alice, other, "elsewhere")
    assert refusal(mark_read(alice, room_id, event_id, kind)) == (404, "M_NOT_FOUND")
    assert refusal(mark_read(alice, room_id, "$" + "A" * 43, kind)) == (404, "M_NOT_FOUND")
    assert refusal(mark_read(alice, room_id, "no-event", kind)) == (400, "M_INVALID_PARAM")
    assert item_of(room_id).number == 0


@pytest.mark.parametrize("kind", ["m.delivered", "read", "m.read.public"])
def test_a_type_of_receipt_that_does_not_exist_is_refused(alice: User, kind: str) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    assert refusal(mark_read(alice, room_id, event_id, kind)) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(("body", "errcode"), [("{", "M_NOT_JSON"), ([], "M_BAD_JSON"), ('"main"', "M_BAD_JSON")])
def test_a_body_that_is_no_object_is_refused(alice: User, body, errcode: str) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    assert refusal(mark_read(alice, room_id, event_id, body=body)) == (400, errcode)


def test_clients_that_send_no_body_are_understood(alice: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    where = path("rooms", room_id, "receipt", "m.read", event_id)
    assert call(FUNCTION, "POST", where, None, token=alice.token).json == {}
    assert call(FUNCTION, "POST", where.replace("/v3/", "/r0/"), "", token=alice.token).json == {}
    assert item_of(room_id).number == 1


def test_an_event_id_with_a_slash_in_it_arrives_whole(alice: User) -> None:
    room_id = create_room(alice, room_version="3")
    event_ids = say(alice, room_id, *map(str, range(40)))
    slashed = next(event_id for event_id in event_ids if "/" in event_id)
    assert mark_read(alice, room_id, slashed).status == 200
    assert receipts_in(news(alice, room_id)) == {(alice.user_id, "m.read", ""): slashed}


def test_receipts_that_come_too_fast_are_told_to_wait_and_leave_no_trace(alice: User, server, monkeypatch) -> None:
    server(RATE_LIMITS="on")
    monkeypatch.setattr(receipts, "_BURST", 2)
    room_id = create_room(alice)
    one, two, three = say(alice, room_id, "one", "two", "three")
    now = clock.now_ms()
    monkeypatch.setattr(receipts, "now_ms", lambda: now)
    assert [mark_read(alice, room_id, event_id).status for event_id in (one, two)] == [200, 200]
    answer = mark_read(alice, room_id, three)
    assert refusal(answer) == (429, "M_LIMIT_EXCEEDED")
    assert answer.json["retry_after_ms"] == 500
    assert receipts_in(news(alice, room_id)) == {(alice.user_id, "m.read", ""): two}
    monkeypatch.setattr(receipts, "now_ms", lambda: now + 500)
    assert mark_read(alice, room_id, three).status == 200


# ── Threads ──────────────────────────────────────────────────────────────────────────────────────────────


def test_receipts_of_threads_stand_beside_each_other_and_the_unthreaded_one(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (root,) = say(alice, room_id, "root")
    reply = say_in_thread(alice, room_id, root, "reply")
    (last,) = say(alice, room_id, "last")
    assert mark_read(bob, room_id, last).status == 200
    assert mark_read(bob, room_id, last, thread="main").status == 200
    assert mark_read(bob, room_id, reply, thread=root).status == 200
    assert mark_read(bob, room_id, root, thread=root).status == 200  # older: moves nothing
    found = news(alice, room_id)
    assert receipts_in(found) == {
        (bob.user_id, "m.read", ""): last,
        (bob.user_id, "m.read", "main"): last,
        (bob.user_id, "m.read", root): reply,
    }
    # Two receipts of one kind at one event need two events: the unthreaded one comes first.
    first, second = found.events
    assert "thread_id" not in first["content"][last]["m.read"][bob.user_id]
    assert second["content"] == {last: {"m.read": {bob.user_id: second["content"][last]["m.read"][bob.user_id]}}}
    assert second["content"][last]["m.read"][bob.user_id]["thread_id"] == "main"


@pytest.mark.parametrize("thread", ["", 5, {}, "elsewhere", "$", "@alice:example.org"])
def test_a_thread_that_cannot_be_one_is_refused(alice: User, thread) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    answer = mark_read(alice, room_id, event_id, body={"thread_id": thread})
    assert refusal(answer) == (400, "M_INVALID_PARAM")
    assert item_of(room_id).number == 0


def test_a_thread_of_null_is_none(alice: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    assert mark_read(alice, room_id, event_id, body={"thread_id": None}).status == 200
    assert [receipt.thread for receipt in item_of(room_id).receipts] == [""]


def test_an_event_is_read_only_in_a_thread_that_it_is_in(alice: User) -> None:
    room_id = create_room(alice)
    root, other = say(alice, room_id, "root", "other")
    reply = say_in_thread(alice, room_id, root, "reply")
    reaction = say_in_thread(alice, room_id, reply, "reaction", "m.annotation")
    of_root = say_in_thread(alice, room_id, root, "reaction of the root", "m.annotation")
    allowed = {root: {"main", root}, other: {"main", other}, reply: {root, reply}, reaction: {root, reply, reaction}}
    allowed[of_root] = {"main", root, of_root}
    for event_id, threads in allowed.items():
        for thread in ("main", root, other, reply, reaction, of_root):
            for kind in ("m.read", PRIVATE):
                expected = 200 if thread in threads else 400
                answer = mark_read(alice, room_id, event_id, kind, thread=thread)
                assert (answer.status, answer.errcode) == (expected, None if expected == 200 else "M_INVALID_PARAM")


def test_a_fully_read_marker_has_no_thread(alice: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    answer = mark_read(alice, room_id, event_id, "m.fully_read", thread="main")
    assert refusal(answer) == (400, "M_INVALID_PARAM")


# ── Many receipts ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def crowd(alice: User) -> tuple[str, list[User]]:
    users = [alice, *(register() for _ in range(11))]
    return create_room(*users), users


def test_who_is_only_a_little_behind_reads_the_item_alone_and_who_is_more_also_the_rows(crowd) -> None:
    room_id, users = crowd
    (event_id,) = say(users[0], room_id, "hello")
    for user in users:
        assert mark_read(user, room_id, event_id).status == 200
    state = item_of(room_id)
    assert (state.number, len(state.receipts), state.low) == (12, 12 - state.low, 12 - len(state.receipts))
    assert 5 <= len(state.receipts) <= 8
    everything = {(user.user_id, "m.read", ""): event_id for user in users}
    for told in range(13):
        with metered() as meter:
            found = news(users[0], room_id, told=told)
        newer = dict(list(everything.items())[told:])
        assert receipts_in(found) == (everything if told == 0 else newer)
        assert (meter.rounds, found.number) == (1 if told >= state.low else 2, 12)


def test_the_item_and_the_rows_stay_small_and_old_threads_give_way(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    roots = say(alice, room_id, *(f"root {number}" for number in range(24)))
    for number, root in enumerate(roots):
        reply = say_in_thread(alice, room_id, root, f"reply {number}")
        assert mark_read(bob, room_id, reply, thread=root).status == 200
        assert mark_read(bob, room_id, reply).status == 200
    raw = ephemeral.EphemeralItem.fetch(room_id, "ephemeral").serialize()
    assert sum(len(str(value)) for value in raw.values()) < 1_700
    (row,) = ephemeral.query_raw(ephemeral.ReceiptRow, room_id, "receipt/", "receipt0", consistent=True)
    assert 500 < len(row["j"]["B"]) <= 850
    kept = [thread for _, _, thread in row_of(room_id, bob.user_id)]
    assert roots[0] not in kept
    newest = [thread for thread in (receipt.thread for receipt in item_of(room_id).receipts) if thread]
    assert newest[-1] == roots[-1]
    assert receipts_in(news(alice, room_id))[bob.user_id, "m.read", ""] == reply


def test_a_receipt_that_has_left_the_item_still_moves_forward_only(crowd) -> None:
    room_id, users = crowd
    first, second = say(users[0], room_id, "one", "two")
    for user in users:
        assert mark_read(user, room_id, second).status == 200
    early = users[0]
    assert item_of(room_id).receipt((early.user_id, "m.read", "")) is None
    assert mark_read(early, room_id, first).status == 200
    assert mark_read(early, room_id, second).status == 200
    assert item_of(room_id).number == 12
    (third,) = say(early, room_id, "three")
    assert mark_read(early, room_id, third).status == 200
    assert receipts_in(news(users[1], room_id))[early.user_id, "m.read", ""] == third


def test_a_row_that_was_read_before_its_receipt_came_into_it_is_read_again(crowd, monkeypatch) -> None:
    room_id, users = crowd
    first, second = say(users[0], room_id, "one", "two")
    (_last,) = say(users[0], room_id, "three")
    for user in users:
        assert mark_read(user, room_id, second).status == 200
    early = users[0]
    monkeypatch.setattr(receipts, "parse_row", lambda _: {})  # as torn reads show it
    assert mark_read(early, room_id, first).status == 200
    assert item_of(room_id).number == 12


def test_long_names_of_other_servers_fit_too() -> None:
    state = ephemeral.RoomEphemeral("!room:example.org")
    for number in range(10):
        user_id = f"@{'x' * 200}{number}:elsewhere.example"
        state = state.with_receipt(ephemeral.Receipt(user_id, "m.read", "", "$" + "e" * 43, 1, number + 1))
        assert state.receipts[-1].user_id == user_id
    assert len(state.receipts) == 1
    assert ephemeral._unpack(ephemeral._pack(state.receipts)) == state.receipts
