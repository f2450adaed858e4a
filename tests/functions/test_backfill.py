"""History before a join: fetched from other servers when somebody pages back to it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from functions.backfilling import HistoryPeer, HistoryRoom, arrives, enter, ids, page_back, page_on, skip_to
from functions.federating import LOOPBACK
from functions.harness import User
from functions.remote_server import head_of, state_of
from functions.rooms import event, follow, get, messages, request, say, sync, texts
from homeserver import observability
from homeserver.services import backfill
from homeserver.storage.event_places import read_places

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    backfill.forget_failures()
    yield
    observability.fault_hook = None


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[HistoryPeer]:
    server(**LOOPBACK)
    with HistoryPeer(tmp_path / "peer") as running:
        yield running


@pytest.fixture
def room(peer: HistoryPeer) -> HistoryRoom:
    return peer.tells(HistoryRoom(peer.name))


def test_a_member_pages_back_to_the_create_event(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    said = room.says(250)
    enter(room, alice)
    follow()
    found = page_back(alice, room.room_id, limit=50)
    assert texts(found) == said[::-1]
    assert [one["type"] for one in found[-4:]] == [
        "m.room.join_rules",
        "m.room.power_levels",
        "m.room.member",
        "m.room.create",
    ]
    assert [one["event_id"] for one in found] == [*room.events][::-1]
    assert peer.count("backfill") == 3
    asked = len(peer.asked)
    assert ids(page_back(alice, room.room_id, limit=100)) == ids(found)
    assert len(peer.asked) == asked
    first = messages(alice, room.room_id, limit=50).json
    assert ids(page_on(alice, room.room_id, "t0_0", limit=70)) == ids(found)[::-1]
    assert ids(page_on(alice, room.room_id, first["end"], limit=13)) == ids(found)[:50][::-1]
    old = found[200]
    assert event(alice, room.room_id, old["event_id"]).json["content"] == old["content"]


def test_a_history_without_state_events_asks_for_no_state(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    room.says(150)
    enter(room, alice)
    assert len(messages(alice, room.room_id, limit=100).json["chunk"]) == 100
    assert (peer.count("backfill"), peer.count("state_ids"), peer.count("event")) == (1, 0, 0)


def test_states_in_the_history_are_those_of_the_other_server(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol, dave = room.user("carol"), room.user("dave")
    room.join(dave)
    room.topic(carol, "first")
    room.says(30)
    room.topic(carol, "second")
    room.member(dave, "leave", dave)
    room.says(100)
    room.topic(carol, "third")
    room.says(20, by=carol)
    enter(room, alice)
    found = page_back(alice, room.room_id, limit=40)
    assert ids(found) == [*room.events][::-1]
    places = read_places(room.events)
    for made in room.events.values():
        place = places[made.event_id]
        assert state_of(room.room_id, place.before) == room.before(made), made.type
        assert state_of(room.room_id, place.after) == room.after[made.event_id], made.type
    topics = [one["unsigned"].get("prev_content") for one in found if one["type"] == "m.room.topic"]
    assert topics == [{"topic": "second"}, {"topic": "first"}, None]


def test_forks_in_the_history_come_once_and_in_order(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol, dave = room.user("carol"), room.user("dave")
    room.join(dave)
    room.says(3)
    for number in range(6):
        (base,) = room.tip
        left = [room.topic(carol, f"left {number}", prev=[base])]
        left.append(room.say(carol, f"l{number}", prev=[left[0].event_id]))
        right = [room.say(dave, f"r{number}", prev=[base])]
        for _ in range(number):
            right.append(room.say(dave, "more", prev=[right[-1].event_id]))
        room.say(carol, f"merge {number}", prev=[left[-1].event_id, right[-1].event_id])
    peer.most = 7
    enter(room, alice)
    found = ids(page_back(alice, room.room_id, limit=5))
    assert sorted(found) == sorted(room.events)
    at = {event_id: number for number, event_id in enumerate(found)}
    assert all(at[made.event_id] < at[i] for made in room.events.values() for i in made.prev_event_ids)
    places = read_places(room.events)
    for made in room.events.values():
        assert state_of(room.room_id, places[made.event_id].before) == room.before(made)
    assert ids(page_on(alice, room.room_id, "t0_0", limit=9)) == found[::-1]


@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
def test_every_kind_of_room_version_has_its_history(alice: User, peer: HistoryPeer, version: str) -> None:
    room = peer.tells(HistoryRoom(peer.name, version=version))
    room.topic(room.user("carol"), "Tea")
    said = room.says(3)
    enter(room, alice)
    found = page_back(alice, room.room_id, limit=4)
    assert (ids(found), texts(found)) == ([*room.events][::-1], said[::-1])


# ── Visibility ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("visibility", "seen"),
    [("shared", ["m1", "m0"]), ("world_readable", ["m1", "m0"]), ("joined", []), ("invited", [])],
)
def test_the_visibility_of_the_time_decides_what_a_newcomer_sees(
    alice: User, peer: HistoryPeer, visibility: str, seen: list[str]
) -> None:
    room = peer.tells(HistoryRoom(peer.name, visibility=visibility))
    room.says(2)
    enter(room, alice)
    assert texts(page_back(alice, room.room_id)) == seen


def test_an_invitation_opens_what_comes_after_it_where_the_invited_see_the_history(
    alice: User, peer: HistoryPeer
) -> None:
    room = peer.tells(HistoryRoom(peer.name, visibility="invited"))
    room.says(2)
    room.member(room.user("carol"), "invite", alice.user_id)
    room.says(2)
    enter(room, alice)
    assert texts(page_back(alice, room.room_id)) == ["m3", "m2"]


def test_visibility_that_changed_in_the_history_counts_for_each_event(alice: User, peer: HistoryPeer) -> None:
    room = peer.tells(HistoryRoom(peer.name))
    room.says(2)
    for setting in ("joined", "shared"):
        content = {"history_visibility": setting}
        room.make("m.room.history_visibility", content, room.user("carol"), state_key="")
        room.says(2)
    enter(room, alice)
    assert texts(page_back(alice, room.room_id)) == ["m5", "m4", "m1", "m0"]
    hidden = [made.event_id for made in room.events.values() if made.content.get("body") == "m2"]
    assert event(alice, room.room_id, hidden[0]).status == 404


def test_a_stay_from_before_is_seen_whatever_the_visibility(alice: User, peer: HistoryPeer) -> None:
    room = peer.tells(HistoryRoom(peer.name, visibility="joined"))
    room.says(1)
    room.join(alice.user_id)
    room.says(2)
    room.member(alice.user_id, "leave", alice.user_id)
    room.says(1)
    enter(room, alice)
    assert texts(page_back(alice, room.room_id)) == ["m2", "m1"]


# ── /sync, state and context ────────────────────────────────────────────────────────────────────────


def test_sync_begins_at_the_join_and_its_token_leads_into_the_history(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    said = room.says(5)
    join = enter(room, alice)
    follow()
    told = sync(alice)["rooms"]["join"][room.room_id]["timeline"]
    assert (told["limited"], ids(told["events"])) == (True, [join.event_id])
    found = page_back(alice, room.room_id, told["prev_batch"], limit=3)
    assert texts(found) == said[::-1]
    told = sync(alice)["rooms"]["join"][room.room_id]["timeline"]
    assert (told["limited"], ids(told["events"])) == (True, [join.event_id])


def test_the_members_at_a_place_in_the_history_are_those_of_the_time(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    dave = room.user("dave")
    room.says(2)
    room.join(dave)
    room.says(2)
    enter(room, alice)
    follow()
    before = sync(alice)["rooms"]["join"][room.room_id]["timeline"]["prev_batch"]

    def members(at: str) -> list[str]:
        answer = get(alice, "rooms", room.room_id, "members", at=at)
        return sorted(one["state_key"] for one in answer.json["chunk"])

    carol = room.user("carol")
    assert members(before) == [carol, dave]
    first = messages(alice, room.room_id, limit=3).json
    assert texts(first["chunk"]) == ["m3", "m2"]
    assert members(first["end"]) == [carol, dave]
    second = messages(alice, room.room_id, limit=1, **{"from": first["end"]}).json
    assert second["chunk"][0]["state_key"] == dave
    assert members(second["end"]) == [carol]


def test_lazily_loaded_members_are_those_of_the_time(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    dave = room.user("dave")
    first = room.join(dave)
    room.says(2, by=dave)
    room.make("m.room.member", {"membership": "join", "displayname": "D"}, dave, state_key=dave)
    room.says(2, by=dave)
    enter(room, alice)
    page_back(alice, room.room_id)
    oldest = next(made for made in room.events.values() if made.content.get("body") == "m1")
    around = get(alice, "rooms", room.room_id, "context", oldest.event_id, limit=0).json
    page = messages(alice, room.room_id, limit=1, filter={"lazy_load_members": True}, **{"from": around["end"]}).json
    assert (texts(page["chunk"]), ids(page["state"])) == (["m1"], [first.event_id])


def test_the_context_of_an_old_event_reaches_over_the_anchor(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    room.says(4)
    join = enter(room, alice)
    later = say(alice, room.room_id, "hello", "there")
    page_back(alice, room.room_id)
    old = {made.content.get("body"): made.event_id for made in room.events.values()}
    found = get(alice, "rooms", room.room_id, "context", old["m3"], limit=6).json
    assert ids(found["events_before"]) == [old["m2"], old["m1"], old["m0"]]
    assert ids(found["events_after"]) == [join.event_id, *later]
    assert messages(alice, room.room_id, limit=1, **{"from": found["start"]}).json["chunk"][0]["type"] == (
        "m.room.join_rules"
    )
    found = get(alice, "rooms", room.room_id, "context", later[0], limit=6).json
    assert ids(found["events_before"]) == [join.event_id, old["m3"], old["m2"]]
    assert found["end"] == f"t{head_of(room.room_id).position}_0"


# ── The event at a time ─────────────────────────────────────────────────────────────────────────────


def at_time(user: User, room: HistoryRoom, ts: int, direction: str) -> str | None:
    where = f"/_matrix/client/v1/rooms/{quote(room.room_id)}/timestamp_to_event"
    answer = request("client_history", "GET", where, token=user.token, query={"ts": ts, "dir": direction})
    return answer.json["event_id"] if answer.status == 200 else None


def test_the_event_at_a_time_is_found_in_the_history_and_fetched_if_need_be(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    room.says(230)
    enter(room, alice)
    made = [*room.events.values()]
    target = made[150]
    peer.times = True
    assert at_time(alice, room, target.origin_server_ts, "f") == target.event_id
    assert peer.count("timestamp_to_event") == 1
    asked = len(peer.asked)
    for known in (made[150], made[200], made[233], made[-1]):
        assert at_time(alice, room, known.origin_server_ts, "f") == known.event_id
        assert at_time(alice, room, known.origin_server_ts, "b") == known.event_id
    assert len(peer.asked) == asked
    assert at_time(alice, room, made[3].origin_server_ts, "b") == made[3].event_id
    assert at_time(alice, room, 1, "b") is None
    assert at_time(alice, room, 1, "f") == made[0].event_id


def test_where_no_server_knows_an_event_at_a_time_the_closest_here_is_told(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    room.says(3)
    join = enter(room, alice)
    assert at_time(alice, room, 1, "f") == join.event_id
    assert at_time(alice, room, 1, "b") is None
    assert peer.count("backfill") == 0


# ── Relationships ───────────────────────────────────────────────────────────────────────────────────


def relates(rel_type: str, parent: str, **content: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": parent}, **content}


def test_relationships_of_old_events_are_told_with_them(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol, dave = room.user("carol"), room.user("dave")
    room.join(dave)
    root = room.say(carol, "root")
    wrong = room.say(carol, "wrnog")
    edit = {"msgtype": "m.text", "body": "* wrong", "m.new_content": {"msgtype": "m.text", "body": "wrong"}}
    edited = room.make("m.room.message", relates("m.replace", wrong.event_id, **edit), carol)
    room.make("m.room.message", relates("m.replace", wrong.event_id, **edit), dave)
    reply = {"msgtype": "m.text", "body": "reply"}
    replies = [room.make("m.room.message", relates("m.thread", root.event_id, **reply), by) for by in (carol, dave)]
    reaction = room.make(
        "m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": root.event_id, "key": "y"}}, dave
    )
    enter(room, alice)
    live = room.make("m.room.message", relates("m.thread", root.event_id, **reply), dave)
    arrives(room, live)
    found = {one["event_id"]: one for one in page_back(alice, room.room_id, limit=4)}
    assert found.keys() == room.events.keys()
    assert found[wrong.event_id]["unsigned"]["m.relations"]["m.replace"]["event_id"] == edited.event_id
    thread = found[root.event_id]["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (3, live.event_id)
    where = f"/_matrix/client/v1/rooms/{quote(room.room_id)}"

    def asked(path: str, **query: Any) -> dict[str, Any]:
        answer = request("client_history", "GET", f"{where}/{path}", token=alice.token, query=query)
        assert answer.status == 200
        return dict(answer.json)

    everything = [live.event_id, reaction.event_id, replies[1].event_id, replies[0].event_id]
    assert ids(asked(f"relations/{quote(root.event_id)}")["chunk"]) == everything
    assert ids(asked(f"relations/{quote(root.event_id)}", dir="f")["chunk"]) == everything[::-1]
    for direction, expected in (("b", everything), ("f", everything[::-1])):
        told, token = [], {}
        for _ in range(6):
            page = asked(f"relations/{quote(root.event_id)}", limit=1, dir=direction, **token)
            told += ids(page["chunk"])
            if "next_batch" not in page:
                break
            token = {"from": page["next_batch"]}
        assert told == expected
    assert ids(asked("threads")["chunk"]) == [root.event_id]
    shown = event(alice, room.room_id, wrong.event_id).json
    assert shown["unsigned"]["m.relations"]["m.replace"]["content"]["body"] == "* wrong"
    room.make("m.room.redaction", {"redacts": live.event_id}, dave)
    arrives(room, room.events[room.tip[0]])
    thread = event(alice, room.room_id, root.event_id).json["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (2, replies[1].event_id)


def test_what_was_missed_counts_for_what_it_relates_to(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol = room.user("carol")
    enter(room, alice)
    root = room.say(carol, "root")
    arrives(room, root)
    follow()
    since = sync(alice)["next_batch"]
    reply = {"msgtype": "m.text", "body": "missed"}
    missed = room.make("m.room.message", relates("m.thread", root.event_id, **reply), carol)
    skip_to(room, room.say(carol, "later"))
    page_back(alice, room.room_id)
    thread = event(alice, room.room_id, root.event_id).json["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (1, missed.event_id)
    follow()
    assert texts(sync(alice, since)["rooms"]["join"][room.room_id]["timeline"]["events"]) == ["later"]
    told = [one for one in messages(alice, room.room_id).json["chunk"] if one["event_id"] == root.event_id]
    assert told[0]["unsigned"]["m.relations"]["m.thread"]["count"] == 1
