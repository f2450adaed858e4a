"""GET /rooms/{roomId}/hierarchy."""

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from benchmarks.caches import forget_everything
from functions.harness import Answer, User, call, register
from functions.rooms import create_room, follow, path, post, request, set_state

pytestmark = pytest.mark.usefixtures("signing_key_of_the_server")
FUNCTION = "client_directory"
SPACE = {"creation_content": {"type": "m.space"}}


def ask(user: User, room_id: str, **query: Any) -> Answer:
    where = path("rooms", room_id, "hierarchy").replace("/v3/", "/v1/")
    return request(FUNCTION, "GET", where, token=user.token, query=query or None)


def hierarchy(user: User, room_id: str, **query: Any) -> dict[str, Any]:
    answer = ask(user, room_id, **query)
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.json
    return body


def names(body: dict[str, Any]) -> list[str]:
    return [room["name"] for room in body["rooms"]]


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def space(user: User, name: str, **body: Any) -> str:
    return create_room(user, **{"preset": "public_chat", "name": name, **SPACE, **body})


def room(user: User, name: str, **body: Any) -> str:
    return create_room(user, **{"preset": "public_chat", "name": name, **body})


def put_in(user: User, parent: str, child: str, **content: Any) -> str:
    answer = set_state(user, parent, "m.space.child", {"via": ["example.org"], **content}, child)
    assert answer.status == 200, answer
    return str(answer.json["event_id"])


@pytest.fixture
def tree(alice: User) -> dict[str, str]:
    """top > (a > (a1, deep > (d1, top again)), b, a1 again), in this order."""
    rooms = {name: space(alice, name) for name in ("top", "a", "deep")}
    rooms |= {name: room(alice, name) for name in ("a1", "d1", "b")}
    for parent, child, order in (
        ("top", "a", "1"),
        ("top", "b", "2"),
        ("top", "a1", "3"),
        ("a", "a1", "1"),
        ("a", "deep", "2"),
        ("deep", "d1", "1"),
        ("deep", "top", "2"),
    ):
        put_in(alice, rooms[parent], rooms[child], order=order)
    follow()
    return rooms


# ── The tree ────────────────────────────────────────────────────────────────────────────────────────


def test_three_levels_with_a_cycle_are_walked_depth_first_and_each_room_comes_once(
    tree: dict[str, str], bob: User
) -> None:
    body = hierarchy(bob, tree["top"])
    assert names(body) == ["top", "a", "a1", "deep", "d1", "b"]
    assert "next_batch" not in body


def test_a_room_is_told_as_its_summary_with_its_children(alice: User, bob: User) -> None:
    top, child = space(alice, "top", topic="all of it", room_version="11"), room(alice, "child", room_version="11")
    before = int(time.time() * 1000)
    put_in(alice, top, child, suggested=True)
    follow()
    (first, second) = hierarchy(bob, top)["rooms"]
    (stripped,) = first.pop("children_state")
    assert before - 5000 <= stripped.pop("origin_server_ts") <= before + 60_000
    assert stripped == {
        "type": "m.space.child",
        "state_key": child,
        "sender": alice.user_id,
        "content": {"via": ["example.org"], "suggested": True},
    }
    common = {"world_readable": False, "guest_can_join": False, "join_rule": "public", "num_joined_members": 1}
    common["room_version"] = "11"
    assert first == {"room_id": top, "name": "top", "topic": "all of it", "room_type": "m.space", **common}
    assert second == {"room_id": child, "name": "child", "children_state": [], **common}


def test_a_room_that_is_no_space_is_told_without_children(alice: User, bob: User) -> None:
    room_id, child = room(alice, "just a room"), room(alice, "child")
    put_in(alice, room_id, child)
    follow()
    (only,) = hierarchy(bob, room_id)["rooms"]
    assert (only["name"], only["children_state"]) == ("just a room", [])


def test_the_walk_needs_no_follower(alice: User, bob: User) -> None:
    top, child = space(alice, "top"), room(alice, "child")
    put_in(alice, top, child)
    assert names(hierarchy(bob, top)) == ["top", "child"]


def test_max_depth_ends_the_walk(tree: dict[str, str], bob: User) -> None:
    assert names(hierarchy(bob, tree["top"], max_depth=0)) == ["top"]
    assert len(hierarchy(bob, tree["top"], max_depth=0)["rooms"][0]["children_state"]) == 3
    assert names(hierarchy(bob, tree["top"], max_depth=1)) == ["top", "a", "b", "a1"]
    assert names(hierarchy(bob, tree["top"], max_depth=2)) == ["top", "a", "a1", "deep", "b"]


def test_children_come_by_order_then_by_age(alice: User, bob: User) -> None:
    top = space(alice, "top")
    orders: dict[str, Any] = {
        "second": "b",
        "old": None,
        "first": "a",
        "too long": "a" * 51,
        "no text": 7,
        "not ascii": "é",
        "empty": "",
        "third": "c",
    }
    for name, order in orders.items():
        content = {} if order is None else {"order": order}
        put_in(alice, top, room(alice, name), **content)
        time.sleep(0.002)  # the clock of the events counts milliseconds
    follow()
    expected = ["top", "first", "second", "third", "old", "too long", "no text", "not ascii", "empty"]
    # Not checked by the contract: the children's contents are what people sent, values of wrong types among them.
    where = path("rooms", top, "hierarchy").replace("/v3/", "/v1/")
    body = call(FUNCTION, "GET", where, token=bob.token).json
    assert names(body) == expected
    by_id = {found["room_id"]: found["name"] for found in body["rooms"]}
    assert [by_id[child["state_key"]] for child in body["rooms"][0]["children_state"]] == expected[1:]


def test_what_is_no_child_is_left_out(alice: User, bob: User) -> None:
    top = space(alice, "top")
    for name, via in (("none", None), ("empty", []), ("text", "example.org"), ("numbers", [7])):
        content = {} if via is None else {"via": via}
        assert set_state(alice, top, "m.space.child", content, room(alice, name)).status == 200
    set_state(alice, top, "m.space.child", {"via": ["example.org"]}, "no room ID")
    put_in(alice, top, "!elsewhere:unknown.example")
    child = room(alice, "child")
    put_in(alice, top, child)
    follow()
    body = hierarchy(bob, top)
    assert names(body) == ["top", "child"]
    shown = {event["state_key"] for event in body["rooms"][0]["children_state"]}
    assert shown == {child, "!elsewhere:unknown.example"}


def test_suggested_only_follows_suggested_children(alice: User, bob: User) -> None:
    top, inner = space(alice, "top"), space(alice, "inner")
    put_in(alice, top, inner, suggested=True, order="1")
    put_in(alice, top, room(alice, "not"), suggested=False, order="2")
    put_in(alice, top, room(alice, "none"), order="3")
    put_in(alice, inner, room(alice, "leaf"), suggested=True)
    put_in(alice, inner, room(alice, "other"))
    follow()
    body = hierarchy(bob, top, suggested_only="true")
    assert names(body) == ["top", "inner", "leaf"]
    assert [len(found["children_state"]) for found in body["rooms"]] == [1, 1, 0]
    assert len(names(hierarchy(bob, top, suggested_only="false"))) == 6


# ── Who may see what ────────────────────────────────────────────────────────────────────────────────


def test_rooms_that_the_reader_may_not_know_of_are_left_out_with_what_is_below(alice: User, bob: User) -> None:
    top, hidden = space(alice, "top"), space(alice, "hidden", preset="private_chat")
    for name, rule in (("knock", "knock"), ("invite", "invite")):
        child = room(alice, name, preset="private_chat")
        set_state(alice, child, "m.room.join_rules", {"join_rule": rule})
        put_in(alice, top, child)
    readable, invited, banned = (room(alice, name) for name in ("readable", "invited", "banned"))
    set_state(alice, readable, "m.room.join_rules", {"join_rule": "invite"})
    set_state(alice, readable, "m.room.history_visibility", {"history_visibility": "world_readable"})
    set_state(alice, invited, "m.room.join_rules", {"join_rule": "invite"})
    post(alice, invited, "invite", {"user_id": bob.user_id})
    post(alice, banned, "ban", {"user_id": bob.user_id})
    for child in (readable, invited, banned, hidden):
        put_in(alice, top, child)
    put_in(alice, hidden, room(alice, "below"))
    follow()
    assert sorted(names(hierarchy(bob, top))) == ["invited", "knock", "readable", "top"]
    assert sorted(names(hierarchy(alice, top))) == sorted(
        ["top", "hidden", "below", "knock", "invite", "readable", "invited", "banned"]
    )


def test_members_of_the_space_see_rooms_that_let_them_in(alice: User, bob: User) -> None:
    carol = register("carol")
    top, child = space(alice, "top"), room(alice, "members only")
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": top}]}
    set_state(alice, child, "m.room.join_rules", rule)
    put_in(alice, top, child)
    post(bob, top, "join")
    follow()
    body = hierarchy(bob, top)
    assert names(body) == ["top", "members only"]
    assert body["rooms"][1]["allowed_room_ids"] == [top]
    assert names(hierarchy(carol, top)) == ["top"]


def test_a_room_that_closes_is_hidden_before_any_follower_has_seen_it(alice: User, bob: User) -> None:
    top, child = space(alice, "top"), room(alice, "child")
    put_in(alice, top, child)
    follow()
    assert names(hierarchy(bob, top)) == ["top", "child"]
    set_state(alice, child, "m.room.join_rules", {"join_rule": "invite"})
    assert names(hierarchy(bob, top)) == ["top"]
    post(alice, child, "invite", {"user_id": bob.user_id})
    assert names(hierarchy(bob, top)) == ["top", "child"]


def test_a_space_that_one_may_not_know_of_is_refused(alice: User, bob: User, call: Callable[..., Answer]) -> None:
    hidden, banned = space(alice, "hidden", preset="private_chat"), space(alice, "banned")
    post(alice, banned, "ban", {"user_id": bob.user_id})
    follow()
    for room_id in (hidden, banned, "!none:example.org"):
        assert refusal(ask(bob, room_id)) == (403, "M_FORBIDDEN")
    assert names(hierarchy(alice, hidden)) == ["hidden"]
    where = path("rooms", hidden, "hierarchy").replace("/v3/", "/v1/")
    assert refusal(call(FUNCTION, "GET", where)) == (401, "M_MISSING_TOKEN")


# ── Pages ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def wide(alice: User) -> str:
    """A space with sixty children, every fifth of them private, and a space of three among them.

    The sixty are copies of two rooms, made item by item: so many commits would take the emulator long.
    """
    from homeserver.matrix.event_codec import pack, unpack
    from homeserver.storage.room_items import HEAD, Head, StateRow, state_key
    from homeserver.storage.room_previews import RoomPreview

    top, inner = space(alice, "top"), space(alice, "inner")
    models = [room(alice, "private", preset="private_chat"), *[room(alice, "public")] * 4]
    put_in(alice, top, inner, order="30a")
    for name in ("x", "y", "z"):
        put_in(alice, inner, room(alice, name), order=name)
    follow()
    for number in range(60):
        model, child = models[number % 5], f"!child{number:02d}:example.org"
        head, preview = Head.fetch(model, HEAD), RoomPreview.fetch(model, "preview")
        row = StateRow.fetch(top, state_key("m.space.child", inner))
        assert head is not None
        assert preview is not None
        assert row is not None
        facts = {**orjson.loads(preview.packed), "name": f"room {number:02d}"}
        event = {**unpack(row.packed), "state_key": child, "content": {"via": ["x"], "order": f"{number:02d}"}}
        head.room = preview.room = child
        preview.packed = orjson.dumps(facts)
        row.k, row.event_id, row.packed = state_key("m.space.child", child), f"$child{number}", pack(event)
        for item in (head, preview, row):
            item.save()
    return top


WIDE = [
    "top",
    *(f"room {number:02d}" for number in range(31) if number % 5),
    *("inner", "x", "y", "z"),
    *(f"room {number:02d}" for number in range(31, 60) if number % 5),
]


def test_sixty_children_in_pages_are_what_they_are_in_one(wide: str, alice: User, bob: User) -> None:
    assert names(hierarchy(bob, wide, limit=100)) == WIDE
    for limit in (7, 50):
        pages = [hierarchy(bob, wide, limit=limit)]
        while "next_batch" in pages[-1]:
            pages.append(hierarchy(bob, wide, limit=limit, **{"from": pages[-1]["next_batch"]}))
            assert len(pages) < 20
        assert [name for page in pages for name in names(page)] == WIDE
        assert {len(page["rooms"]) for page in pages[:-1]} == {limit}


def test_a_page_can_be_asked_for_again_and_limit_may_change(wide: str, bob: User) -> None:
    token = hierarchy(bob, wide, limit=5)["next_batch"]
    again = [hierarchy(bob, wide, limit=limit, **{"from": token}) for limit in (5, 5, 3)]
    assert names(again[0]) == names(again[1]) == WIDE[5:10]
    assert names(again[2]) == WIDE[5:8]


def test_a_token_is_good_for_the_same_question_only(tree: dict[str, str], alice: User, bob: User) -> None:
    token = hierarchy(bob, tree["top"], limit=2, max_depth=3, suggested_only="false")["next_batch"]
    for user, room_id, query in (
        (bob, tree["top"], {"max_depth": 2}),
        (bob, tree["top"], {}),
        (bob, tree["top"], {"max_depth": 3, "suggested_only": "true"}),
        (bob, tree["a"], {"max_depth": 3}),
        (alice, tree["top"], {"max_depth": 3}),
    ):
        assert refusal(ask(user, room_id, **{"from": token}, **query)) == (400, "M_INVALID_PARAM")
    assert refusal(ask(bob, tree["top"], **{"from": "made-up"})) == (400, "M_INVALID_PARAM")
    assert names(hierarchy(bob, tree["top"], max_depth=3, **{"from": token})) == ["a1", "deep", "d1", "b"]


def test_a_token_ends_when_its_hour_is_over(tree: dict[str, str], bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    from homeserver.storage import space_walks

    assert space_walks.SECONDS == 3600
    monkeypatch.setattr(space_walks, "SECONDS", 0)
    token = hierarchy(bob, tree["top"], limit=2)["next_batch"]
    assert refusal(ask(bob, tree["top"], **{"from": token})) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": "x"}, {"max_depth": -1}, {"max_depth": "x"}, {"suggested_only": "maybe"}]
)
def test_bad_parameters_are_refused(alice: User, query: dict[str, Any]) -> None:
    assert refusal(ask(alice, space(alice, "top"), **query)) == (400, "M_INVALID_PARAM")
    assert refusal(ask(alice, "no-room", **query)) == (400, "M_INVALID_PARAM")


def test_a_page_of_rooms_that_may_not_be_shown_ends_early_and_goes_on(
    wide: str, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.services import space_hierarchy

    monkeypatch.setattr(space_hierarchy, "MOST_ROOMS_OF_A_PAGE", 10)
    monkeypatch.setattr(space_hierarchy, "_AHEAD", 4)
    pages = [hierarchy(bob, wide, limit=4)]
    while "next_batch" in pages[-1]:
        pages.append(hierarchy(bob, wide, limit=4, **{"from": pages[-1]["next_batch"]}))
        assert len(pages) < 40
    assert [name for page in pages for name in names(page)] == WIDE


def test_a_space_that_is_too_large_is_walked_so_far_and_no_further(
    wide: str, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.services import space_hierarchy

    monkeypatch.setattr(space_hierarchy, "MOST_ROOMS", 9)
    body = hierarchy(bob, wide, limit=100)
    assert len(body["rooms"]) <= 9
    assert names(body) == WIDE[: len(body["rooms"])]
    assert "next_batch" not in body


# ── What it costs ───────────────────────────────────────────────────────────────────────────────────


def cost(user: User, room_id: str, **query: Any) -> tuple[int, float, float]:
    from homeserver.observability import metered
    from homeserver.services.access_tokens import Requester
    from homeserver.services.space_hierarchy import HierarchyQuery
    from homeserver.services.space_hierarchy import hierarchy as walk

    forget_everything()
    with metered() as meter:
        walk(Requester(user.user_id, "", ""), HierarchyQuery(room_id, **query))
    return meter.rounds, meter.rru, meter.wru


def test_rounds_follow_the_depth_and_not_the_number_of_rooms(alice: User, bob: User, wide: str) -> None:
    small, inner = space(alice, "small"), space(alice, "inner")
    put_in(alice, small, inner)
    put_in(alice, inner, room(alice, "leaf"))
    follow()
    few, many = cost(bob, small, limit=100), cost(bob, wide, limit=100)
    assert few[0] == many[0] == 5  # space, its children, their facts, children of the inner space, their facts
    assert many[1] <= 3 * 65 + 20  # three units a room, and the events that name the children
    assert (few[2], many[2]) == (0, 0)
    assert cost(bob, wide, limit=10)[2] == 1  # one write: the walk that is to be continued
