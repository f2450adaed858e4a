"""Tags of rooms, and the account data that they are."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from functions.ephemeral import one_call_at_a_time
from functions.harness import User, call
from functions.rooms import path, request
from homeserver.services import tags
from homeserver.services.access_tokens import Requester
from homeserver.storage import user_data

FUNCTION = "client_user"
ROOM = "!726s6s6q:example.org"


def at(user: User, *rest: str, room_id: str = ROOM) -> str:
    return path("user", user.user_id, "rooms", room_id, *rest)


def tag(user: User, name: str, content=None, **more):
    return request(FUNCTION, "PUT", at(user, "tags", name, **more), content or {}, token=user.token)


def tags_of(user: User, **more):
    answer = request(FUNCTION, "GET", at(user, "tags", **more), token=user.token)
    assert answer.status == 200
    return answer.json


def untag(user: User, name: str):
    return request(FUNCTION, "DELETE", at(user, "tags", name), token=user.token)


def refusal(answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_tags_are_set_listed_changed_and_removed(alice: User) -> None:
    assert tags_of(alice) == {"tags": {}}
    for name, content in (("m.favourite", {"order": 0.1}), ("u.Work", {"order": 1}), ("u.Customers", {})):
        answer = tag(alice, name, content)
        assert (answer.status, answer.json) == (200, {})
    assert tags_of(alice) == {"tags": {"m.favourite": {"order": 0.1}, "u.Work": {"order": 1}, "u.Customers": {}}}
    assert tag(alice, "u.Work", {"order": 0.25, "org.example.colour": "red"}).status == 200
    answer = untag(alice, "m.favourite")
    assert (answer.status, answer.json) == (200, {})
    assert tags_of(alice) == {"tags": {"u.Work": {"order": 0.25, "org.example.colour": "red"}, "u.Customers": {}}}
    assert tags_of(alice, room_id="!other:example.org") == {"tags": {}}


def test_tags_are_the_account_data_m_tag_of_the_room_and_go_through_its_stream(alice: User) -> None:
    assert tag(alice, "m.favourite", {"order": 0.5}).status == 200
    (change,) = user_data.changes_since(alice.user_id, 0)
    assert (change.n, change.room_id, change.type) == (1, ROOM, "m.tag")
    assert change.content == {"tags": {"m.favourite": {"order": 0.5}}}
    where = at(alice, "account_data", "m.tag")
    assert request(FUNCTION, "GET", where, token=alice.token).json == change.content
    assert request(FUNCTION, "PUT", where, {"tags": {"u.x": {}}, "other": 1}, token=alice.token).status == 200
    assert tag(alice, "u.y").status == 200
    assert user_data.load(alice.user_id, ROOM, "m.tag").content == {"tags": {"u.x": {}, "u.y": {}}, "other": 1}


def test_what_changes_nothing_is_not_announced(alice: User) -> None:
    assert tag(alice, "u.a", {"order": 0.5}).status == 200
    assert tag(alice, "u.a", {"order": 0.5}).status == 200
    assert untag(alice, "u.none").status == 200
    assert [change.n for change in user_data.changes_since(alice.user_id, 0)] == [1]


@pytest.mark.parametrize("content", [{"tags": []}, {"tags": "m.favourite"}, {}])
def test_account_data_that_holds_no_tags_is_no_obstacle(alice: User, content) -> None:
    where = at(alice, "account_data", "m.tag")
    assert request(FUNCTION, "PUT", where, content, token=alice.token).status == 200
    assert tags_of(alice) == {"tags": {}}
    assert untag(alice, "u.a").status == 200
    assert tag(alice, "u.a").status == 200
    assert tags_of(alice) == {"tags": {"u.a": {}}}


def test_of_tags_that_are_set_at_once_none_is_lost(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    one_call_at_a_time(monkeypatch)
    requester = Requester(alice.user_id, alice.device_id, "")

    def change(number: int) -> None:
        if number % 4 == 3:
            tags.remove_tag(requester, alice.user_id, ROOM, "u.gone")
        else:
            tags.set_tag(requester, alice.user_id, ROOM, f"u.{number}", {"order": number / 16})

    assert tag(alice, "u.gone").status == 200
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(8)))
    assert tags_of(alice) == {"tags": {f"u.{number}": {"order": number / 16} for number in (0, 1, 2, 4, 5, 6)}}


@pytest.mark.parametrize("name", ["a b", "ö", "a/b", "a%b", "m.lowpriority", "x" * 255])
def test_names_may_be_odd(alice: User, name: str) -> None:
    assert tag(alice, name, {"order": 0}).status == 200
    assert tags_of(alice) == {"tags": {name: {"order": 0}}}
    assert untag(alice, name).status == 200
    assert tags_of(alice) == {"tags": {}}


@pytest.mark.parametrize(
    ("order", "errcode"),
    [
        ("0.5", "M_BAD_JSON"),
        (True, "M_BAD_JSON"),
        ([], "M_BAD_JSON"),
        (-0.1, "M_INVALID_PARAM"),
        (2, "M_INVALID_PARAM"),
    ],
)
def test_an_order_that_is_none_is_refused(alice: User, order, errcode: str) -> None:
    assert refusal(tag(alice, "u.a", {"order": order})) == (400, errcode)
    assert tags_of(alice) == {"tags": {}}


@pytest.mark.parametrize(
    ("body", "errcode"), [("{", "M_NOT_JSON"), ("[]", "M_BAD_JSON"), ('{"order": NaN}', "M_NOT_JSON")]
)
def test_a_body_that_is_no_object_is_refused(alice: User, body: str, errcode: str) -> None:
    assert refusal(tag(alice, "u.a", body)) == (400, errcode)


def test_a_name_that_is_too_long_and_a_room_that_is_none_are_refused(alice: User) -> None:
    assert refusal(tag(alice, "x" * 256)) == (400, "M_INVALID_PARAM")
    assert refusal(tag(alice, "u.a", room_id="room")) == (400, "M_INVALID_PARAM")
    assert refusal(request(FUNCTION, "GET", at(alice, "tags", room_id="room"), token=alice.token)) == (
        400,
        "M_INVALID_PARAM",
    )


@pytest.mark.parametrize(("method", "rest"), [("GET", ()), ("PUT", ("u.a",)), ("DELETE", ("u.a",))])
def test_tags_of_others_are_out_of_reach(alice: User, bob: User, method: str, rest: tuple[str, ...]) -> None:
    assert tag(alice, "u.a").status == 200
    body = {} if method == "PUT" else None
    assert refusal(request(FUNCTION, method, at(alice, "tags", *rest), body, token=bob.token)) == (403, "M_FORBIDDEN")
    assert refusal(request(FUNCTION, method, at(alice, "tags", *rest), body)) == (401, "M_MISSING_TOKEN")
    assert tags_of(alice) == {"tags": {"u.a": {}}}


def test_a_method_that_tags_do_not_know_is_named(alice: User) -> None:
    answer = call(FUNCTION, "POST", at(alice, "tags", "u.a"), {}, token=alice.token)
    assert (answer.status, answer.errcode, answer.headers["allow"]) == (405, "M_UNRECOGNIZED", "DELETE, PUT")
