"""POST /search: texts of rooms, as far as the user may see them."""

from collections.abc import Sequence
from typing import Any

import pytest

from functions.harness import Answer, User, call, invoke, payload, register
from functions.rooms import V3, create_room, post, put, redact, request, say, send, set_state, sync
from homeserver.matrix.event_codec import pack, unpack
from homeserver.observability import Meter, counting_on
from homeserver.services import search as search_service
from homeserver.storage.room_items import HEAD, Head, TimelineEntry, bucket_of
from homeserver.storage.search_index import SearchBucket

pytestmark = pytest.mark.usefixtures("set_up")
JSON = dict[str, Any]


def ask(user: User | None, term: Any = "tea", *, next_batch: str | None = None, **criteria: Any) -> Answer:
    body = {"search_categories": {"room_events": {"search_term": term, "order_by": "recent", **criteria}}}
    query = {"next_batch": next_batch} if next_batch is not None else None
    token = user.token if user is not None else None
    return request("client_search", "POST", f"{V3}/search", body, token=token, query=query)


def search(user: User, term: str = "tea", **criteria: Any) -> JSON:
    answer = ask(user, term, **criteria)
    assert answer.status == 200, answer
    found: JSON = answer.json["search_categories"]["room_events"]
    return found


def bodies(found: JSON) -> list[str]:
    return [result["result"]["content"].get("body") for result in found["results"]]


def everything(user: User, term: str = "tea", **criteria: Any) -> list[JSON]:
    """The results of all pages."""
    results, token = [], None
    for _ in range(100):
        found = search(user, term, next_batch=token, **criteria)
        results += found["results"]
        token = found.get("next_batch")
        if token is None:
            return results
    raise AssertionError("a search goes on for ever")


def names(results: Sequence[JSON]) -> list[str]:
    return [result["result"]["event_id"] for result in results]


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def fill(room_id: str, texts: Sequence[str]) -> None:
    """Messages like the room's last one, a second apart: the timeline and the head that counts it, nothing else."""
    head = Head.fetch(room_id, HEAD)
    assert head is not None
    position = int(head.position)
    entry = TimelineEntry.fetch(bucket_of(room_id, position), position)
    assert entry is not None
    pdu = unpack(entry.packed)
    with TimelineEntry.batch_write() as batch:
        for number, text in enumerate(texts, 1):
            ts = int(entry.arrived) + number * 1000
            content = {"msgtype": "m.text", "body": text}
            batch.save(
                TimelineEntry(
                    bucket_of(room_id, position + number),
                    position + number,
                    event_id=f"$filled{position + number}",
                    packed=pack({**pdu, "content": content, "origin_server_ts": ts}),
                    room_root=entry.room_root,
                    arrived=ts,
                )
            )
    head.update([Head.position.set(position + len(texts)), Head.arrived.set(int(entry.arrived) + len(texts) * 1000)])


def long_room(user: User, texts: Sequence[str], *members: User) -> str:
    room_id = create_room(user, *members)
    say(user, room_id, "first")
    fill(room_id, texts)
    return room_id


def indexed() -> dict[int, bool]:
    """The buckets that have an item, and whether it has postings."""
    return {int(item.bucket): item.postings is not None for item in SearchBucket.scan()}


# ── What is found ────────────────────────────────────────────────────────────────────────────────────────


def test_messages_names_and_topics_are_found(alice: User) -> None:
    room_id = create_room(alice, name="Tea house", topic="All about tea")
    say(alice, room_id, "coffee", "a cup of Tea")
    found = search(alice)
    assert [result["result"]["type"] for result in found["results"]] == [
        "m.room.message",
        "m.room.topic",
        "m.room.name",
    ]
    first = found["results"][0]
    assert first["result"]["content"]["body"] == "a cup of Tea"
    assert (first["result"]["room_id"], first["result"]["sender"]) == (room_id, alice.user_id)
    assert (found["count"], found["highlights"]) == (3, ["tea"])
    assert "next_batch" not in found
    assert found.keys() == {"count", "highlights", "results"}


@pytest.mark.parametrize(
    ("keys", "types"),
    [
        (["content.body"], ["m.room.message"]),
        (["content.name"], ["m.room.name"]),
        (["content.topic", "content.name"], ["m.room.topic", "m.room.name"]),
        ([], []),
    ],
)
def test_only_the_keys_that_are_asked_for_are_searched(alice: User, keys: list[str], types: list[str]) -> None:
    room_id = create_room(alice, name="Tea house", topic="All about tea")
    say(alice, room_id, "tea")
    found = search(alice, keys=keys)
    assert [result["result"]["type"] for result in found["results"]] == types


def test_every_word_has_to_be_in_the_text(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, "green tea", "tea", "tea, which is GREEN", "greenish tea")
    assert bodies(search(alice, "tea green")) == ["tea, which is GREEN", "green tea"]
    for nothing in ("", "?", "coffee"):
        assert search(alice, nothing)["results"] == []


def test_the_closest_match_comes_first_unless_the_newest_is_wanted(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, "tea tea tea", "tea and a great many other things", "tea time")
    assert bodies(search(alice)) == ["tea time", "tea and a great many other things", "tea tea tea"]
    for order in ({"order_by": "rank"}, {"order_by": None}):
        found = search(alice, **order)
        assert bodies(found) == ["tea tea tea", "tea time", "tea and a great many other things"]
        ranks = [result["rank"] for result in found["results"]]
        assert ranks == sorted(ranks, reverse=True)
        assert len(set(ranks)) == 3


def test_results_of_all_rooms_come_newest_first(alice: User, bob: User) -> None:
    first, second = create_room(alice, bob), create_room(alice, bob)
    for number in range(4):
        send(alice, (first, second)[number % 2], f"tea {number}", f"t{number}")
    assert bodies(search(bob)) == ["tea 3", "tea 2", "tea 1", "tea 0"]


def test_the_filter_decides_which_events_count(alice: User, bob: User) -> None:
    first, second = create_room(alice, bob), create_room(alice, bob)
    say(alice, first, "tea of alice")
    say(bob, second, "tea of bob")
    put(bob, second, "send", "m.room.message", "u", body={"msgtype": "m.file", "body": "tea.png", "url": "mxc://a/b"})
    assert bodies(search(alice, filter={"rooms": [first]})) == ["tea of alice"]
    assert bodies(search(alice, filter={"not_rooms": [first]})) == ["tea.png", "tea of bob"]
    assert bodies(search(alice, filter={"senders": [alice.user_id]})) == ["tea of alice"]
    assert bodies(search(alice, filter={"contains_url": True})) == ["tea.png"]
    assert bodies(search(alice, filter={"types": ["m.room.name"]})) == []
    assert bodies(search(alice, filter={"types": []})) == []
    assert bodies(search(alice, filter={"rooms": ["!unknown:example.org"]})) == []


# ── What is not found ────────────────────────────────────────────────────────────────────────────────────


def test_encrypted_events_never_match(alice: User) -> None:
    room_id = create_room(alice)
    encrypted = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "tea", "body": "tea"}
    put(alice, room_id, "send", "m.room.encrypted", "e", body=encrypted)
    put(alice, room_id, "send", "org.example.note", "n", body={"body": "tea"})
    assert search(alice)["results"] == []


def test_redacted_events_match_neither_before_nor_after_they_were_indexed(alice: User) -> None:
    room_id = long_room(alice, ["quiet"] * 120)
    (new,) = say(alice, room_id, "tea that is new")
    assert redact(alice, room_id, new, "r1").status == 200
    assert search(alice)["results"] == []
    assert indexed() == {0: True}
    assert set_state(alice, room_id, "m.room.name", {"name": "other"}).status == 200


def test_a_redaction_takes_the_words_out_of_the_index(alice: User) -> None:
    room_id = create_room(alice)
    (event_id, kept) = say(alice, room_id, "secret tea", "more tea")
    fill(room_id, ["quiet"] * 120)
    assert names(everything(alice)) == [kept, event_id]
    assert indexed() == {0: True}
    assert redact(alice, room_id, event_id).status == 200
    assert indexed() == {0: False}
    assert names(everything(alice)) == [kept]
    assert indexed() == {0: True}
    assert everything(alice, "secret") == []
    (item,) = SearchBucket.scan()
    assert int(item.changes) == 1


def test_an_index_that_was_read_before_a_redaction_is_not_stored_after_it(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.services import search_index

    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "secret tea")
    fill(room_id, ["quiet"] * 120)
    build = search_index.build_postings

    def redact_first(texts: Any) -> bytes:
        monkeypatch.setattr(search_index, "build_postings", build)
        assert redact(alice, room_id, event_id).status == 200
        return build(texts)

    monkeypatch.setattr(search_index, "build_postings", redact_first)
    assert names(everything(alice)) == [event_id]  # as it was when the search began
    assert indexed() == {0: False}
    assert everything(alice) == []
    assert indexed() == {0: True}


def test_only_rooms_that_the_user_is_or_was_in_are_searched(alice: User, bob: User) -> None:
    room_id = create_room(alice, preset="public_chat", initial_state=[WORLD_READABLE])
    invited = create_room(alice, invite=[bob.user_id])
    for room in (room_id, invited):
        say(alice, room, "tea")
    assert search(bob)["results"] == []
    assert search(bob, filter={"rooms": [room_id]})["results"] == []
    post(bob, room_id, "join")
    assert bodies(search(bob)) == ["tea"]
    post(bob, room_id, "leave")
    assert bodies(search(bob)) == ["tea"]
    post(bob, room_id, "forget")
    assert search(bob)["results"] == []


WORLD_READABLE = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}


def test_history_visibility_holds_across_leaving_and_joining(alice: User, bob: User) -> None:
    joined = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = create_room(alice, preset="public_chat", initial_state=[joined])
    say(alice, room_id, "tea before")
    post(bob, room_id, "join")
    say(alice, room_id, "tea during")
    post(bob, room_id, "leave")
    say(alice, room_id, "tea after")
    assert bodies(search(bob)) == ["tea during"]
    post(bob, room_id, "join")
    say(alice, room_id, "tea again")
    assert bodies(search(bob)) == ["tea again", "tea during"]
    assert bodies(search(alice)) == ["tea again", "tea after", "tea during", "tea before"]


def test_an_index_of_others_shows_nothing_that_one_may_not_see(alice: User, bob: User) -> None:
    joined = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = create_room(alice, preset="public_chat", initial_state=[joined])
    say(alice, room_id, "tea for members")
    fill(room_id, ["tea"] * 150)
    assert len(everything(alice)) == 151
    post(bob, room_id, "join")
    found = search(bob)
    assert (found["results"], found["count"]) == ([], 0)


# ── Around the results ───────────────────────────────────────────────────────────────────────────────────


def test_the_context_is_what_the_user_may_see_around(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    ids = say(alice, room_id, "one", "two", "tea", "three", "four")
    assert "context" not in search(alice)["results"][0]
    context = search(alice, event_context={"before_limit": 1, "after_limit": 5})["results"][0]["context"]
    assert [event["event_id"] for event in context["events_before"]] == [ids[1]]
    assert [event["event_id"] for event in context["events_after"]] == ids[3:]
    assert context.keys() == {"start", "end", "events_before", "events_after"}
    where = f"{V3}/rooms/{room_id}/messages"
    more = request("client_history", "GET", where, token=alice.token, query={"dir": "b", "from": context["start"]})
    assert more.json["chunk"][0]["event_id"] == ids[0]
    nothing = search(alice, event_context={"before_limit": 0, "after_limit": 0})["results"][0]["context"]
    assert (nothing["events_before"], nothing["events_after"]) == ([], [])
    default = search(alice, event_context={})["results"][0]["context"]
    assert (len(default["events_before"]), len(default["events_after"])) == (5, 2)


def test_profiles_are_those_of_that_time(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, "tea")
    content = {"membership": "join", "displayname": "Alice the Great"}
    assert set_state(alice, room_id, "m.room.member", content, alice.user_id).status == 200
    say(alice, room_id, "more tea")
    results = search(alice, event_context={"include_profile": True})["results"]
    profiles = [result["context"]["profile_info"] for result in results]
    assert profiles == [{alice.user_id: {"displayname": "Alice the Great"}}, {alice.user_id: {"displayname": "alice"}}]


def test_the_state_of_the_rooms_of_the_results_comes_along(alice: User) -> None:
    room_id, _other = create_room(alice, name="House"), create_room(alice, name="Other")
    say(alice, room_id, "tea")
    assert "state" not in search(alice)
    states = search(alice, include_state=True)["state"]
    assert states.keys() == {room_id}
    assert ("m.room.name", "House") in [(event["type"], event["content"].get("name")) for event in states[room_id]]


def test_results_are_grouped_by_room_and_sender_and_each_group_can_be_paged(alice: User, bob: User) -> None:
    first, second = create_room(alice, bob), create_room(alice, bob)
    ids = [*say(alice, first, "tea 1", "tea 2"), *say(bob, second, "tea 3", "tea 4")]
    groupings = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
    groups = search(alice, groupings=groupings)["groups"]
    assert groups["room_id"] == {
        second: {"order": 0, "results": [ids[3], ids[2]]},
        first: {"order": 1, "results": [ids[1], ids[0]]},
    }
    assert [group["results"] for group in groups["sender"].values()] == [[ids[3], ids[2]], [ids[1], ids[0]]]
    page = search(alice, groupings=groupings, filter={"limit": 1})
    assert names(page["results"]) == [ids[3]]
    of_room = page["groups"]["room_id"][second]["next_batch"]
    assert names(search(alice, next_batch=of_room)["results"]) == [ids[2]]
    of_sender = page["groups"]["sender"][bob.user_id]["next_batch"]
    assert names(search(alice, next_batch=of_sender)["results"]) == [ids[2]]
    assert "groups" not in search(alice)


# ── Pages, and what they cost ────────────────────────────────────────────────────────────────────────────


def test_pages_repeat_nothing_and_skip_nothing_whatever_happens_meanwhile(alice: User, bob: User) -> None:
    first, second = create_room(alice, bob), create_room(alice, bob)
    expected = []
    for number in range(11):
        answer = send(alice, (first, second)[number % 3 == 0], f"tea {number}", f"t{number}")
        expected.insert(0, answer.json["event_id"])
    found: list[str] = []
    token = None
    counts = []
    for page in range(20):
        answer = search(bob, next_batch=token, filter={"limit": 3})
        assert len(answer["results"]) <= 3
        found += names(answer["results"])
        counts.append(answer["count"])
        send(alice, first, f"tea that comes later {page}", f"l{page}")
        token = answer.get("next_batch")
        if token is None:
            break
    assert found == expected
    assert counts == sorted(counts)
    assert counts[-1] == 11


def test_a_budget_that_is_spent_leaves_the_rest_to_the_next_page(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    room_id = long_room(alice, [f"tea {n}" if n % 97 == 0 else "quiet" for n in range(1050)])
    monkeypatch.setattr(search_service, "_MOST_BUILT", 3)
    pages = []
    token = None
    while True:
        page = search(alice, next_batch=token)
        pages.append(names(page["results"]))
        token = page.get("next_batch")
        if token is None:
            break
    assert len(pages) >= 3
    found = [name for page in pages for name in page]
    assert len(found) == len(set(found)) == 11
    assert found == names(everything(alice))
    assert len(indexed()) == 10
    assert room_id in {item.room for item in SearchBucket.scan()}


def test_the_second_search_reads_the_index_and_the_first_makes_it(alice: User) -> None:
    texts = [f"some words about number {n} and others, {n % 13} {n % 17} {n % 19}" for n in range(2000)]
    texts[70] += " needle"
    long_room(alice, texts)
    cost = []
    for _ in range(2):
        meter = Meter()
        with counting_on(meter):
            assert len(everything(alice, "needle")) == 1
        cost.append(meter)
    cold, warm = cost
    assert len(indexed()) == 20
    assert all(indexed().values())
    assert cold.wru >= 20
    assert warm.wru == 0
    # The index has a tenth of the timeline; beside it there is the bucket that is not complete, and the one result.
    assert warm.rru < cold.rru / 4
    print(f"2,000 events: first search {cold.rru} RRU {cold.wru} WRU, second {warm.rru} RRU, {warm.rounds} rounds")


def test_an_index_of_before_a_restore_counts_as_absent(alice: User) -> None:
    long_room(alice, ["quiet"] * 120 + ["tea"])
    assert len(everything(alice)) == 1
    (item,) = SearchBucket.scan()
    item.update([SearchBucket.epoch.set(99), SearchBucket.postings.set(b"\2junk")])
    assert len(everything(alice)) == 1
    (item,) = SearchBucket.scan()
    assert int(item.epoch) == 1


def test_rooms_that_nobody_searches_have_no_index(alice: User) -> None:
    room_id = long_room(alice, ["tea"] * 150)
    say(alice, room_id, "more")
    sync(alice)
    assert indexed() == {}


# ── Requests that cannot be ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("criteria", "errcode"),
    [
        ({"term": None}, "M_MISSING_PARAM"),
        ({"term": 1}, "M_BAD_JSON"),
        ({"keys": "content.body"}, "M_BAD_JSON"),
        ({"keys": ["content.formatted_body"]}, "M_INVALID_PARAM"),
        ({"order_by": "oldest"}, "M_INVALID_PARAM"),
        ({"filter": []}, "M_BAD_JSON"),
        ({"filter": {"limit": 0}}, "M_INVALID_PARAM"),
        ({"filter": {"rooms": ["tea"]}}, "M_INVALID_PARAM"),
        ({"event_context": 1}, "M_BAD_JSON"),
        ({"event_context": {"before_limit": -1}}, "M_INVALID_PARAM"),
        ({"event_context": {"after_limit": "5"}}, "M_BAD_JSON"),
        ({"event_context": {"include_profile": 1}}, "M_BAD_JSON"),
        ({"include_state": "yes"}, "M_BAD_JSON"),
        ({"groupings": {"group_by": [{"key": "type"}]}}, "M_INVALID_PARAM"),
        ({"groupings": {"group_by": ["sender"]}}, "M_BAD_JSON"),
        ({"next_batch": "nonsense"}, "M_INVALID_PARAM"),
    ],
)
def test_criteria_that_cannot_be(alice: User, criteria: JSON, errcode: str) -> None:
    assert refusal(ask(alice, **criteria)) == (400, errcode)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [({}, "M_MISSING_PARAM"), ({"search_categories": []}, "M_BAD_JSON"), (b"x", "M_NOT_JSON"), (b"[]", "M_BAD_JSON")],
)
def test_a_body_that_cannot_be(alice: User, body: Any, errcode: str) -> None:
    assert refusal(request("client_search", "POST", f"{V3}/search", body, token=alice.token)) == (400, errcode)


def test_a_search_in_no_category_finds_nothing(alice: User) -> None:
    answer = request("client_search", "POST", f"{V3}/search", {"search_categories": {}}, token=alice.token)
    assert answer.json == {"search_categories": {}}


def test_searching_needs_a_token_and_is_slowed_down(alice: User, server: Any) -> None:
    assert refusal(ask(None)) == (401, "M_MISSING_TOKEN")
    assert refusal(invoke("client_search", payload("client_search_search"))) == (401, "M_UNKNOWN_TOKEN")
    server(RATE_LIMITS="on")
    answers = [ask(alice) for _ in range(40)]
    assert {answer.status for answer in answers} == {200, 429}
    assert answers[-1].errcode == "M_LIMIT_EXCEEDED"
    assert ask(register()).status == 200
    assert call("client_search", "GET", f"{V3}/search").status == 405


def test_what_ignored_users_said_is_not_found(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    say(alice, room_id, "tea of alice")
    say(bob, room_id, "tea of bob")
    ignored = {"ignored_users": {bob.user_id: {}}}
    where = f"{V3}/user/{alice.user_id}/account_data/m.ignored_user_list"
    assert call("client_user", "PUT", where, ignored, token=alice.token).status == 200
    assert bodies(search(alice)) == ["tea of alice"]
    assert bodies(search(bob)) == ["tea of bob", "tea of alice"]


def test_a_result_brings_what_relates_to_it(alice: User, bob: User) -> None:
    first, second = create_room(alice, bob), create_room(alice, bob)
    (old,), (other,) = say(alice, first, "tea"), say(alice, second, "tea too")
    say(alice, first, *[f"number {number}" for number in range(3)])
    edit = {
        "msgtype": "m.text",
        "body": "* coffee",
        "m.new_content": {"msgtype": "m.text", "body": "coffee"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": old},
    }
    edited = put(alice, first, "send", "m.room.message", "edit", body=edit).json["event_id"]
    found = {result["result"]["event_id"]: result["result"] for result in search(bob)["results"]}
    assert set(found) == {old, other}
    assert found[old]["unsigned"]["m.relations"]["m.replace"]["event_id"] == edited
    assert "m.relations" not in found[other]["unsigned"]
