"""GET and POST /publicRooms, GET and PUT /directory/list/room/{roomId}."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.caches import forget_everything
from functions.harness import Answer, User, invoke, payload, register
from functions.rooms import V3, create_room, follow, path, post, put, redact, request, say, set_state

pytestmark = pytest.mark.usefixtures("signing_key_of_the_server")
FUNCTION = "client_directory"
LIST = f"{V3}/publicRooms"


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def listing(**query: Any) -> dict[str, Any]:
    answer = request(FUNCTION, "GET", LIST, query=query or None)
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.json
    return body


def search(user: User, **body: Any) -> dict[str, Any]:
    answer = request(FUNCTION, "POST", LIST, body, token=user.token)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def names(body: dict[str, Any]) -> list[str | None]:
    return [room.get("name") for room in body["chunk"]]


def public_room(user: User, *members: User, **body: Any) -> str:
    room_id = create_room(user, preset="public_chat", visibility="public", **body)
    for member in members:
        assert post(member, room_id, "join").status == 200
    follow()
    return room_id


def publish(user: User, room_id: str, **body: Any) -> Answer:
    return request(FUNCTION, "PUT", path("directory", "list", "room", room_id), body, token=user.token)


def visibility(room_id: str) -> Answer:
    return request(FUNCTION, "GET", path("directory", "list", "room", room_id))


# ── What an entry says ──────────────────────────────────────────────────────────────────────────────


def test_a_room_made_public_is_listed_with_all_that_is_known_of_it(alice: User, bob: User) -> None:
    room_id = public_room(
        alice,
        bob,
        name="Tea",
        topic="leaves",
        room_alias_name="tea",
        creation_content={"type": "m.space"},
        initial_state=[
            {"type": "m.room.avatar", "content": {"url": "mxc://example.org/tea"}},
            {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}},
            {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}},
        ],
    )
    assert listing() == {
        "chunk": [
            {
                "room_id": room_id,
                "num_joined_members": 2,
                "world_readable": True,
                "guest_can_join": True,
                "join_rule": "public",
                "name": "Tea",
                "topic": "leaves",
                "canonical_alias": "#tea:example.org",
                "avatar_url": "mxc://example.org/tea",
                "room_type": "m.space",
            }
        ],
        "total_room_count_estimate": 1,
    }
    assert visibility(room_id).json == {"visibility": "public"}


def test_changes_of_the_room_reach_its_entry(alice: User, bob: User) -> None:
    room_id = public_room(alice, bob, name="Tea")
    set_state(alice, room_id, "m.room.name", {"name": "Coffee"})
    set_state(alice, room_id, "m.room.join_rules", {"join_rule": "knock"})
    post(bob, room_id, "leave")
    follow()
    (entry,) = listing()["chunk"]
    assert (entry["name"], entry["join_rule"], entry["num_joined_members"]) == ("Coffee", "knock", 1)


def test_a_redacted_name_is_gone_from_the_entry(alice: User) -> None:
    room_id = public_room(alice)
    event_id = set_state(alice, room_id, "m.room.name", {"name": "Rude"}).json["event_id"]
    follow()
    assert names(listing()) == ["Rude"]
    assert redact(alice, room_id, event_id).status == 200
    follow()
    assert names(listing()) == [None]


def test_a_room_that_everybody_left_is_not_listed_until_somebody_comes_back(alice: User) -> None:
    room_id = public_room(alice)
    post(alice, room_id, "leave")
    follow()
    assert listing() == {"chunk": [], "total_room_count_estimate": 0}
    assert visibility(room_id).json == {"visibility": "public"}
    post(alice, room_id, "join")
    follow()
    assert [room["room_id"] for room in listing()["chunk"]] == [room_id]


# ── Publishing ──────────────────────────────────────────────────────────────────────────────────────


def test_publishing_and_taking_back_show_at_once(alice: User) -> None:
    room_id = create_room(alice, name="Tea", preset="public_chat")
    follow()
    assert visibility(room_id).json == {"visibility": "private"}
    assert listing() == {"chunk": [], "total_room_count_estimate": 0}
    for _ in range(2):  # the second time nothing is left to do
        assert publish(alice, room_id).json == {}
        assert names(listing()) == ["Tea"]
        assert listing()["total_room_count_estimate"] == 1
    assert visibility(room_id).json == {"visibility": "public"}
    for _ in range(2):
        assert publish(alice, room_id, visibility="private").json == {}
        assert listing() == {"chunk": [], "total_room_count_estimate": 0}
    assert visibility(room_id).json == {"visibility": "private"}


def test_a_room_can_be_published_before_any_follower_has_seen_it(alice: User) -> None:
    room_id = create_room(alice, name="Tea", preset="public_chat")
    assert publish(alice, room_id, visibility="public").json == {}
    assert names(listing()) == ["Tea"]
    follow()
    assert listing()["total_room_count_estimate"] == 1


def test_only_who_may_set_the_main_alias_may_publish(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, preset="public_chat")
    for user in (bob, carol):
        assert refusal(publish(user, room_id)) == (403, "M_FORBIDDEN")
    levels = {"users": {bob.user_id: 50}, "events": {"m.room.canonical_alias": 50}}
    assert put(alice, room_id, "state", "m.room.power_levels", "", body=levels).status == 200
    assert publish(bob, room_id).json == {}
    assert visibility(room_id).json == {"visibility": "public"}


def test_an_unknown_room_has_no_visibility(alice: User) -> None:
    room_id = "!nowhere:example.org"
    assert refusal(visibility(room_id)) == (404, "M_NOT_FOUND")
    assert refusal(publish(alice, room_id)) == (404, "M_NOT_FOUND")


def test_bad_requests_to_publish_are_refused(alice: User, call: Callable[..., Answer]) -> None:
    room_id = create_room(alice)
    assert refusal(publish(alice, room_id, visibility="secret")) == (400, "M_BAD_JSON")
    assert refusal(publish(alice, room_id, visibility=7)) == (400, "M_BAD_JSON")
    assert refusal(publish(alice, "tea")) == (400, "M_INVALID_PARAM")
    assert refusal(visibility("tea")) == (400, "M_INVALID_PARAM")
    assert refusal(call(FUNCTION, "PUT", path("directory", "list", "room", room_id), {})) == (401, "M_MISSING_TOKEN")
    assert visibility(room_id).json == {"visibility": "private"}


# ── Paging and searching ────────────────────────────────────────────────────────────────────────────


def fill(count: int, *, members: Callable[[int], int] = lambda number: number + 1) -> list[str]:
    """Entries as the follower writes them; their names in the order of the list."""
    from homeserver.storage.connection import Transaction
    from homeserver.storage.published_rooms import list_room, place_of

    for number in range(count):
        transaction, room_id = Transaction(), f"!room{number:03d}:example.org"
        joined = members(number)
        chunk = {
            "room_id": room_id,
            "name": f"Room {number}",
            "num_joined_members": joined,
            "world_readable": False,
            "guest_can_join": False,
        }
        if number % 3 == 0:
            chunk |= {"room_type": "m.space", "topic": f"Äpfel {number % 2}"}
        list_room(transaction, place_of(room_id, joined), chunk, before=None)
        transaction.commit()
    order = sorted(range(count), key=lambda number: (members(number), number), reverse=True)
    return [f"Room {number}" for number in order]


def walk(first: dict[str, Any], token: str, more: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """All pages in one direction."""
    pages = [first]
    while token in pages[-1]:
        pages.append(more(since=pages[-1][token]))
        assert len(pages) < 50
    return pages


def test_three_hundred_rooms_are_listed_once_each_and_back_again() -> None:
    order = fill(300, members=lambda number: number // 7 + 1)  # many of the same size
    pages = walk(listing(limit=47), "next_batch", lambda **query: listing(limit=47, **query))
    assert [len(page["chunk"]) for page in pages] == [47] * 6 + [18]
    assert [name for page in pages for name in names(page)] == order
    assert {page["total_room_count_estimate"] for page in pages} == {300}
    assert "prev_batch" not in pages[0]
    assert "next_batch" not in pages[-1]
    back = walk(pages[-1], "prev_batch", lambda **query: listing(limit=47, **query))
    assert [name for page in reversed(back) for name in names(page)] == order
    assert "prev_batch" not in back[-1]
    assert names(listing(limit=500)) == order


def test_a_page_costs_its_entries_and_not_the_directory(alice: User) -> None:
    fill(300)
    from homeserver.observability import metered

    forget_everything()
    with metered() as meter:
        assert len(listing(limit=20)["chunk"]) == 20
    assert (meter.rounds, meter.calls, meter.wru) == (1, 2, 0)
    assert meter.rru <= 2  # 20 entries of 200 bytes, and the number of rooms


def test_a_search_reads_the_directory_once_in_thirty_seconds(alice: User) -> None:
    fill(300)
    from homeserver.observability import metered
    from homeserver.services.public_rooms import DirectoryQuery, published_rooms

    forget_everything()
    costs = []
    for _ in range(2):
        with metered() as meter:
            assert len(published_rooms(DirectoryQuery(search_term="room 29"))["chunk"]) == 11
        costs.append((meter.rounds, meter.rru))
    assert costs[0][0] == 1
    assert costs[0][1] <= 12  # 300 entries of 250 bytes at the most
    assert costs[1] == (0, 0)


def test_paging_goes_on_while_rooms_come_go_and_grow() -> None:
    order = fill(30)
    from homeserver.storage.connection import Transaction
    from homeserver.storage.published_rooms import list_room, place_of, unlist_room

    first = listing(limit=10)
    transaction = Transaction()
    gone, grown = "!room019:example.org", "!room015:example.org"  # one that the next page would begin with, one later
    unlist_room(transaction, place_of(gone, 20))
    transaction.commit()
    transaction = Transaction()
    chunk = {"room_id": grown, "name": "Room 15", "num_joined_members": 99, "world_readable": False}
    list_room(transaction, place_of(grown, 99), chunk | {"guest_can_join": False}, before=place_of(grown, 16))
    transaction.commit()
    rest = walk(listing(limit=10, since=first["next_batch"]), "next_batch", lambda **q: listing(limit=10, **q))
    told = [*names(first), *(name for page in rest for name in names(page))]
    assert told == [name for name in order if name not in {"Room 19", "Room 15"}]
    assert names(listing(limit=1)) == ["Room 15"]
    assert names(listing(limit=10, since=rest[0]["prev_batch"])) == names(first)


def test_the_way_back_from_an_empty_page_misses_nothing() -> None:
    fill(3)
    from homeserver.storage.connection import Transaction
    from homeserver.storage.published_rooms import place_of, unlist_room

    first = listing(limit=2)
    transaction = Transaction()
    unlist_room(transaction, place_of("!room000:example.org", 1))
    transaction.commit()
    empty = listing(limit=2, since=first["next_batch"])
    assert empty["chunk"] == []
    assert names(listing(limit=2, since=empty["prev_batch"])) == ["Room 2", "Room 1"]
    second = listing(limit=1, since=listing(limit=1)["next_batch"])
    top = listing(limit=1, since=second["prev_batch"])
    assert names(top) == ["Room 2"]
    assert names(listing(limit=1, since=top["next_batch"])) == ["Room 1"]


def test_a_search_finds_words_of_name_topic_and_alias_without_case_or_accents(alice: User) -> None:
    order = fill(12)
    assert names(search(alice, filter={"generic_search_term": "room 1"})) == ["Room 11", "Room 10", "Room 1"]
    assert names(search(alice, filter={"generic_search_term": "APFEL 0"})) == ["Room 6", "Room 0"]
    assert names(search(alice, filter={"generic_search_term": ""})) == order
    assert search(alice, filter={"generic_search_term": "nothing"}) == {"chunk": [], "total_room_count_estimate": 12}
    assert names(search(alice)) == order
    public_room(alice, room_alias_name="hidden-away")
    forget_everything()
    (found,) = search(alice, filter={"generic_search_term": "#HIDDEN"})["chunk"]
    assert found["canonical_alias"] == "#hidden-away:example.org"


def test_a_search_pages_in_both_directions(alice: User) -> None:
    order = [name for name in fill(40) if int(name.removeprefix("Room ")) % 3 == 0]
    wanted = {"room_types": ["m.space"], "generic_search_term": "room"}

    def more(**body: Any) -> dict[str, Any]:
        return search(alice, limit=4, filter=wanted, **body)

    pages = walk(more(), "next_batch", more)
    assert [name for page in pages for name in names(page)] == order
    back = walk(pages[-1], "prev_batch", more)
    assert [name for page in reversed(back) for name in names(page)] == order


def test_room_types_choose_rooms_and_null_means_rooms_without_one(alice: User) -> None:
    fill(6)
    assert names(search(alice, filter={"room_types": ["m.space"]})) == ["Room 3", "Room 0"]
    assert names(search(alice, filter={"room_types": [None]})) == ["Room 5", "Room 4", "Room 2", "Room 1"]
    assert len(names(search(alice, filter={"room_types": [None, "m.space"]}))) == 6
    assert names(search(alice, filter={"room_types": []})) == []
    assert names(search(alice, filter={"room_types": ["org.example"]})) == []


def test_a_room_that_was_just_published_is_found_by_the_next_search(alice: User) -> None:
    room_id = create_room(alice, name="Tea", preset="public_chat")
    wanted = {"generic_search_term": "tea"}
    assert names(search(alice, filter=wanted)) == []
    publish(alice, room_id)
    assert names(search(alice, filter=wanted)) == ["Tea"]
    publish(alice, room_id, visibility="private")
    assert names(search(alice, filter=wanted)) == []


def test_third_party_networks_have_no_rooms_here(alice: User) -> None:
    fill(2)
    assert search(alice, third_party_instance_id="irc") == {"chunk": [], "total_room_count_estimate": 0}
    assert len(search(alice, include_all_networks=True)["chunk"]) == 2
    both = request(
        FUNCTION, "POST", LIST, {"include_all_networks": True, "third_party_instance_id": "irc"}, token=alice.token
    )
    assert refusal(both) == (400, "M_INVALID_PARAM")


def test_the_own_server_may_be_named(alice: User) -> None:
    fill(1)
    assert names(listing(server="example.org")) == ["Room 0"]
    answer = request(FUNCTION, "POST", LIST, {}, token=alice.token, query={"server": "example.org"})
    assert names(answer.json) == ["Room 0"]


@pytest.mark.parametrize(
    "since",
    ["", "x", "nope", "bjAwMDAwMDAwMDE", "eDAwMDAwMDAwMDEvIXI6eA", "////", "bjEvIXI6eA", "bjAwMDAwMDAwMDEvIXI6eA=="],
)
def test_a_token_of_something_else_is_refused(alice: User, since: str) -> None:
    assert refusal(request(FUNCTION, "GET", LIST, query={"since": since})) == (400, "M_INVALID_PARAM")
    answer = request(FUNCTION, "POST", LIST, {"since": since}, token=alice.token)
    assert refusal(answer) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"limit": 0}, "M_INVALID_PARAM"),
        ({"limit": "many"}, "M_BAD_JSON"),
        ({"since": 7}, "M_BAD_JSON"),
        ({"filter": []}, "M_BAD_JSON"),
        ({"filter": {"generic_search_term": 7}}, "M_BAD_JSON"),
        ({"filter": {"room_types": "m.space"}}, "M_BAD_JSON"),
        ({"filter": {"room_types": [7]}}, "M_BAD_JSON"),
        ({"include_all_networks": "yes"}, "M_BAD_JSON"),
    ],
)
def test_bad_questions_are_refused(alice: User, body: dict[str, Any], errcode: str) -> None:
    assert refusal(request(FUNCTION, "POST", LIST, body, token=alice.token)) == (400, errcode)


def test_the_list_is_open_to_all_and_the_search_needs_a_token(call: Callable[..., Answer]) -> None:
    assert listing()["chunk"] == []
    assert refusal(call(FUNCTION, "POST", LIST, {})) == (401, "M_MISSING_TOKEN")
    for limit in ("0", "-1", "x"):
        assert refusal(request(FUNCTION, "GET", LIST, query={"limit": limit})) == (400, "M_INVALID_PARAM")


def test_the_recorded_payloads_are_answered(alice: User) -> None:
    fill(2)
    answer = invoke(FUNCTION, payload("client_directory_public_rooms"))
    assert (answer.status, names(answer.json)) == (200, ["Room 1", "Room 0"])
    assert refusal(invoke(FUNCTION, payload("client_directory_publish"))) == (401, "M_UNKNOWN_TOKEN")
    assert refusal(invoke(FUNCTION, payload("client_directory_search_users"))) == (401, "M_UNKNOWN_TOKEN")


# ── What following costs ────────────────────────────────────────────────────────────────────────────


def test_the_number_of_members_of_a_large_room_is_written_once_a_minute(alice: User, monkeypatch: Any) -> None:
    from homeserver.services import room_listing
    from homeserver.storage.room_items import HEAD, Head
    from homeserver.storage.room_previews import RoomPreview, preview_key
    from homeserver.storage.rooms import load_room

    room_id = public_room(alice, name="Tea")
    now = [room_listing.now_ms()]
    monkeypatch.setattr(room_listing, "now_ms", lambda: now[0])

    def grow(members: int) -> int:
        Head(room_id, HEAD).update([Head.local_members.set(members)])
        room_listing.keep_listing(room_id)
        (entry,) = listing()["chunk"]
        return int(entry["num_joined_members"])

    assert grow(100) == 100
    assert grow(104) == 100  # less than a twentieth
    assert grow(105) == 105
    now[0] += room_listing.COUNT_AGAIN_MS
    assert grow(106) == 106
    assert grow(20) == 20
    assert grow(19) == 19  # small rooms are exact
    assert listing()["total_room_count_estimate"] == 1
    view, found = load_room(room_id, extras=[preview_key(room_id)])
    assert view is not None
    stored = found[preview_key(room_id)]
    assert isinstance(stored, RoomPreview)
    assert int(stored.listed) == 19


def test_who_read_an_older_preview_writes_nothing_and_repeating_changes_nothing(alice: User) -> None:
    from homeserver.matrix.room_facts import FACT_KEYS
    from homeserver.observability import metered
    from homeserver.services.room_listing import keep_listing, store_listing
    from homeserver.storage.room_previews import preview_key
    from homeserver.storage.rooms import load_room

    room_id = create_room(alice, name="Tea", preset="public_chat")
    follow()
    view, read = load_room(room_id, FACT_KEYS, extras=[preview_key(room_id)])
    assert view is not None
    assert publish(alice, room_id).status == 200
    set_state(alice, room_id, "m.room.name", {"name": "Coffee"})
    assert store_listing(view, read[preview_key(room_id)], publish=True) is False
    assert names(listing()) == ["Tea"]
    keep_listing(room_id)
    with metered() as meter:
        keep_listing(room_id)
    assert meter.calls == 1  # it only reads
    assert names(listing()) == ["Coffee"]
    assert visibility(room_id).json == {"visibility": "public"}


def test_messages_cost_the_directory_nothing_and_members_of_other_rooms_one_read(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.observability import metered
    from homeserver.services import inboxes
    from homeserver.services.directory_follow import follow_directory

    room_id = create_room(alice, preset="public_chat")
    published = public_room(alice, name="Tea")
    calls = []

    def measured(*args: Any) -> None:
        with metered() as meter:
            follow_directory(*args)
        calls.append(meter.calls)

    monkeypatch.setattr(inboxes, "follow_directory", measured)
    say(alice, room_id, "hello")
    follow()
    post(bob, room_id, "join")
    follow()
    post(bob, published, "join")
    follow()
    # Is it published? Then also: what is it, and one transaction (its units: test_directory_budget).
    assert calls == [0, 1, 3]
