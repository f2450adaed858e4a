"""Read markers: m.fully_read in the account data of a room, and the receipts that come with it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from functions.ephemeral import FUNCTION, item_of, mark, mark_read, news, one_call_at_a_time, receipts_in
from functions.harness import User, register
from functions.rooms import create_room, path, post, request, say
from homeserver.services.access_tokens import Requester
from homeserver.services.read_markers import set_fully_read
from homeserver.storage import user_data
from homeserver.storage.inbox import read_inbox

PRIVATE = "m.read.private"


def marker(user: User, room_id: str) -> str | None:
    where = path("user", user.user_id, "rooms", room_id, "account_data", "m.fully_read")
    answer = request("client_user", "GET", where, token=user.token)
    if answer.status == 404:
        return None
    assert set(answer.json) == {"event_id"}
    return str(answer.json["event_id"])


def refusal(answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_the_marker_is_account_data_of_the_room_and_announced(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    assert marker(bob, room_id) is None
    answer = mark(bob, room_id, fully_read=event_id)
    assert (answer.status, answer.json) == (200, {})
    assert (marker(bob, room_id), marker(alice, room_id)) == (event_id, None)
    (change,) = user_data.changes_since(bob.user_id, 0)
    assert (change.type, change.room_id, change.content) == ("m.fully_read", room_id, {"event_id": event_id})
    assert read_inbox(bob.user_id, consistent=True).streams["account_data"] == change.n
    assert item_of(room_id).number == 0  # nobody else learns of it


def test_all_three_move_in_one_request(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    one, two, three = say(alice, room_id, "one", "two", "three")
    assert mark(bob, room_id, fully_read=one, read=two, private=three).status == 200
    assert marker(bob, room_id) == one
    assert receipts_in(news(bob, room_id)) == {(bob.user_id, "m.read", ""): two, (bob.user_id, PRIVATE, ""): three}
    assert receipts_in(news(alice, room_id)) == {(bob.user_id, "m.read", ""): two}


def test_receipts_move_without_the_marker(alice: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    assert mark(alice, room_id, read=event_id).status == 200
    assert mark(alice, room_id).status == 200
    assert marker(alice, room_id) is None
    assert receipts_in(news(alice, room_id)) == {(alice.user_id, "m.read", ""): event_id}


def test_the_marker_moves_forward_only(alice: User) -> None:
    room_id = create_room(alice)
    one, two, three = say(alice, room_id, "one", "two", "three")
    for event_id, expected in ((two, two), (one, two), (two, two), (three, three)):
        assert mark(alice, room_id, fully_read=event_id).status == 200
        assert marker(alice, room_id) == expected
    assert len(user_data.changes_since(alice.user_id, 0)) == 1
    assert read_inbox(alice.user_id, consistent=True).streams["account_data"] == 2


def test_the_receipt_endpoint_moves_the_marker_too(alice: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    assert mark_read(alice, room_id, event_id, "m.fully_read").status == 200
    assert marker(alice, room_id) == event_id
    assert news(alice, room_id).events == []


def test_of_markers_that_move_at_once_the_last_event_stays(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    one_call_at_a_time(monkeypatch)
    room_id = create_room(alice)
    event_ids = say(alice, room_id, *map(str, range(6)))
    requester = Requester(alice.user_id, alice.device_id, "")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda event_id: set_fully_read(requester, room_id, event_id), event_ids))
    assert marker(alice, room_id) == event_ids[-1]


def test_nothing_moves_where_one_event_is_wrong(alice: User) -> None:
    room_id, other = create_room(alice), create_room(alice)
    (good,) = say(alice, room_id, "good")
    (elsewhere,) = say(alice, other, "elsewhere")
    for wrong, expected in ((elsewhere, (404, "M_NOT_FOUND")), ("hello", (400, "M_INVALID_PARAM"))):
        assert refusal(mark(alice, room_id, fully_read=wrong, read=good)) == expected
        assert refusal(mark(alice, room_id, fully_read=good, private=wrong)) == expected
    assert marker(alice, room_id) is None
    assert item_of(room_id).number == 0


@pytest.mark.parametrize("key", ["fully_read", "read", "private"])
def test_only_members_move_markers(alice: User, bob: User, key: str) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, preset="public_chat")
    (event_id,) = say(alice, room_id, "hello")
    assert post(bob, room_id, "leave").status == 200
    for user in (bob, carol):
        assert refusal(mark(user, room_id, **{key: event_id})) == (403, "M_FORBIDDEN")
    where = path("rooms", room_id, "read_markers")
    assert refusal(request(FUNCTION, "POST", where, {})) == (401, "M_MISSING_TOKEN")


@pytest.mark.parametrize("key", ["fully_read", "read", "private"])
@pytest.mark.parametrize("value", [1, True, {}, ["$a"]])
def test_a_marker_that_is_no_string_is_refused(alice: User, key: str, value) -> None:
    assert refusal(mark(alice, create_room(alice), **{key: value})) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(("body", "errcode"), [("{", "M_NOT_JSON"), ([], "M_BAD_JSON")])
def test_a_body_that_is_no_object_is_refused(alice: User, body, errcode: str) -> None:
    where = path("rooms", create_room(alice), "read_markers")
    assert refusal(request(FUNCTION, "POST", where, body, token=alice.token)) == (400, errcode)


def test_a_room_that_is_marked_unread_is_ordinary_account_data_that_a_marker_leaves_alone(alice: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    where = path("user", alice.user_id, "rooms", room_id, "account_data", "m.marked_unread")
    assert request("client_user", "PUT", where, {"unread": True}, token=alice.token).status == 200
    assert mark(alice, room_id, fully_read=event_id, read=event_id).status == 200
    assert request("client_user", "GET", where, token=alice.token).json == {"unread": True}
