"""Feedback of the 2014 draft: an event for who gives it, a receipt for everybody else."""

from typing import Any

import pytest

from functions.draft import draft_room, post, put, refusal
from functions.draft_reading import ok
from functions.ephemeral import announced, item_of, mark_read, news, receipts_in
from functions.harness import Answer, User, call, register
from functions.rooms import create_room, events_of, say, set_state
from functions.rooms import post as modern
from homeserver.services.outgoing_edus import public_receipts
from homeserver.storage.ephemeral import DELIVERED, rows_of

FEEDBACK = "m.room.message.feedback"
READ = "m.read"


@pytest.fixture
def room(alice: User, bob: User) -> str:
    return draft_room(alice, bob)


def give(user: User, room_id: str, kind: Any, target: Any, txn: str | None = None) -> Answer:
    body = {"type": kind, "target_event_id": target}
    if txn is None:
        return post(user, "rooms", room_id, "send", FEEDBACK, **body)
    return put(user, "rooms", room_id, "send", FEEDBACK, txn, **body)


def kinds(room_id: str) -> dict[tuple[str, str], str]:
    """The receipts of a room by user and kind: the events."""
    receipts = [*rows_of(room_id), *item_of(room_id).receipts]
    return {(receipt.user_id, receipt.kind): receipt.event_id for receipt in receipts}


def compressed(user: User, room_id: str) -> dict[str, set[tuple[str, str]]]:
    """What the draft's history says of each message: by text who has got (d) and who has read it (r)."""
    page = ok(user, "rooms", room_id, "messages", feedback="true", dir="b", limit=50)
    return {
        found["content"]["body"]: {(entry["from"], entry["feedback"]) for entry in found["feedback"]}
        for found in page["chunk"]
        if found["type"] == "m.room.message"
    }


def test_feedback_is_a_receipt_and_no_event(room: str, alice: User, bob: User) -> None:
    (first,) = say(alice, room, "hello")
    before = events_of(alice, room)
    answers = [give(bob, room, "delivered", first), give(bob, room, "read", first)]
    assert [answer.status for answer in answers] == [200, 200]
    ids = [answer.json["event_id"] for answer in answers]
    assert all(event_id.startswith("$fb_") for event_id in ids)
    assert len(set(ids)) == 2
    assert events_of(alice, room) == before
    assert kinds(room) == {(bob.user_id, DELIVERED): first, (bob.user_id, READ): first}


def test_compressed_feedback_says_who_has_got_and_who_has_read(room: str, alice: User, bob: User) -> None:
    one, two, three = say(alice, room, "one", "two", "three")
    assert give(bob, room, "delivered", two).status == 200
    assert give(bob, room, "read", one).status == 200
    got, read = (bob.user_id, "d"), (bob.user_id, "r")
    assert compressed(alice, room) == {"one": {got, read}, "two": {got}, "three": set()}
    assert mark_read(bob, room, three).status == 200  # a receipt of today is feedback of the draft
    assert compressed(alice, room) == {"one": {got, read}, "two": {got, read}, "three": {read}}


def test_private_receipts_are_feedback_for_nobody_else(room: str, alice: User, bob: User) -> None:
    (first,) = say(alice, room, "hello")
    assert mark_read(bob, room, first, "m.read.private").status == 200
    assert compressed(alice, room) == {"hello": set()}
    assert compressed(bob, room) == {"hello": {(bob.user_id, "r")}}


def test_what_was_delivered_is_told_to_no_client_of_today(room: str, alice: User, bob: User) -> None:
    (first,) = say(alice, room, "hello")
    before = announced(alice, room)
    assert give(bob, room, "delivered", first).status == 200
    assert announced(alice, room) == before  # nobody is woken for it
    for user in (alice, bob):
        assert news(user, room).events == []
    assert give(bob, room, "read", first).status == 200
    assert announced(alice, room) > before
    for user in (alice, bob):
        assert receipts_in(news(user, room)) == {(bob.user_id, READ, ""): first}
    modern_kind = f"/_matrix/client/v3/rooms/{room}/receipt/{DELIVERED}/{first}"
    answer = call("client_ephemeral", "POST", modern_kind, {}, token=bob.token)
    assert refusal(answer) == (400, "M_INVALID_PARAM")


def test_what_was_delivered_is_told_to_no_other_server(room: str, alice: User, bob: User) -> None:
    (first,) = say(alice, room, "hello")
    assert give(bob, room, "delivered", first).status == 200
    assert public_receipts(item_of(room), 0) == []
    assert give(bob, room, "read", first).status == 200
    assert [receipt.kind for receipt in public_receipts(item_of(room), 0)] == [READ]


def test_what_was_delivered_stays_when_it_leaves_the_item_of_the_room(alice: User) -> None:
    crowd = [register() for _ in range(10)]
    room_id = draft_room(alice, *crowd)
    (first,) = say(alice, room_id, "hello")
    for user in crowd:
        assert give(user, room_id, "delivered", first).status == 200
    assert item_of(room_id).low > 0
    assert compressed(alice, room_id) == {"hello": {(user.user_id, "d") for user in crowd}}
    assert news(alice, room_id).events == []


@pytest.mark.parametrize("kind", ["seen", "", None, 7, "m.read", ["read"]])
def test_another_type_of_feedback_is_bad(room: str, alice: User, bob: User, kind: Any) -> None:
    (first,) = say(alice, room, "hello")
    answer = give(bob, room, kind, first)
    assert answer.status == 400
    assert answer.json["error"] == "Bad feedback type"
    assert kinds(room) == {}


def test_feedback_needs_a_target(room: str, bob: User) -> None:
    for target in (None, 7, {}):
        assert refusal(give(bob, room, "read", target)) == (400, "M_BAD_JSON")


def test_the_target_is_an_event_of_the_room_that_one_may_see(room: str, alice: User, bob: User) -> None:
    other = create_room(alice, bob)
    (elsewhere,) = say(alice, other, "elsewhere")
    for target in (elsewhere, "$" + "x" * 43, "hello", ""):
        assert refusal(give(bob, room, "read", target)) == (404, "M_NOT_FOUND")
    assert set_state(alice, room, "m.room.history_visibility", {"history_visibility": "joined"}).status == 200
    carol = register("carol")
    (before,) = say(alice, room, "before")
    assert modern(alice, room, "invite", {"user_id": carol.user_id}).status == 200
    assert modern(carol, room, "join").status == 200
    assert refusal(give(carol, room, "read", before)) == (404, "M_NOT_FOUND")


def test_who_is_not_in_the_room_gives_no_feedback(room: str, alice: User) -> None:
    (first,) = say(alice, room, "hello")
    assert refusal(give(register("carol"), room, "read", first)) == (403, "M_FORBIDDEN")


def test_feedback_on_ones_own_message_changes_nothing(room: str, alice: User) -> None:
    (first,) = say(alice, room, "hello")
    for kind in ("read", "delivered"):
        assert give(alice, room, kind, first).json["event_id"].startswith("$fb_")
        assert give(alice, room, kind, first, txn=kind).json["event_id"].startswith("$fb_")
    assert kinds(room) == {}


def test_feedback_under_a_transaction_id_is_given_once(room: str, alice: User, bob: User) -> None:
    one, two = say(alice, room, "one", "two")
    first = give(bob, room, "read", one, txn="t")
    assert give(bob, room, "read", one, txn="t") == first
    assert give(bob, room, "read", two, txn="t") == first  # another body: still the answer of the first
    assert kinds(room) == {(bob.user_id, READ): one}
    assert give(bob, room, "read", two, txn="u").json != first.json
    assert kinds(room) == {(bob.user_id, READ): two}


def test_feedback_that_is_behind_changes_nothing(room: str, alice: User, bob: User) -> None:
    one, two = say(alice, room, "one", "two")
    for txn in (None, "t"):
        assert give(bob, room, "read", two, txn and txn + "2").status == 200
        assert give(bob, room, "read", one, txn).status == 200
    assert kinds(room) == {(bob.user_id, READ): two}
