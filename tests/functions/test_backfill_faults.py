"""Gaps that are hard to fill: between known events, through servers that fail or lie, while others do the same."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from federation_peer import Peer
from functions.backfilling import HistoryPeer, HistoryRoom, arrives, enter, ids, page_back, page_on, skip_to
from functions.federating import LOOPBACK
from functions.harness import User
from functions.remote_server import head_of
from functions.rooms import event, follow, messages, redact, sync, texts
from homeserver import observability
from homeserver.matrix.filters import RoomEventFilter
from homeserver.services import backfill, history
from homeserver.services.access_tokens import Requester
from homeserver.services.backfill import fill_gap
from homeserver.storage.room_items import EventRecord, RemoteServer
from homeserver.storage.timeline import read_entry

pytestmark = pytest.mark.usefixtures("set_up")


class Crash(Exception):
    """The process ends here."""


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


def bodies(room: HistoryRoom) -> dict[str, str]:
    return {made.content.get("body", made.type): made.event_id for made in room.events.values()}


# ── Between ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_outage_leaves_a_gap_that_is_filled_between_what_is_known(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    carol = room.user("carol")
    room.says(2)
    enter(room, alice)
    arrives(room, room.say(carol, "m2"), room.say(carol, "m3"))
    follow()
    since = sync(alice)["next_batch"]
    room.says(40)
    room.topic(carol, "missed")
    room.says(1)
    skip_to(room, room.say(carol, "m45"))
    arrives(room, room.say(carol, "m46"))
    follow()
    told = sync(alice, since)["rooms"]["join"][room.room_id]
    assert (told["timeline"]["limited"], texts(told["timeline"]["events"])) == (True, ["m45", "m46"])
    assert [one["content"] for one in told["state"]["events"]] == [{"topic": "missed"}]
    found = page_back(alice, room.room_id, told["timeline"]["prev_batch"], limit=15)
    everything = [i for i in [*room.events][::-1] if i not in ids(told["timeline"]["events"])]
    assert ids(found) == everything
    assert ids(page_back(alice, room.room_id, limit=15)) == [*room.events][::-1]
    assert ids(page_on(alice, room.room_id, "t0_0", limit=15)) == [*room.events]
    entry = anchor_of(room.room_id, bodies(room)["m45"])
    assert (entry.gap, entry.backfilled) == ((), 42)
    assert (
        ids(page_on(alice, room.room_id, f"t{entry.position - 1}_0", to=f"t{entry.position}_-3"))
        == ([*room.events][-44:-4])
    )


def anchor_of(room_id: str, event_id: str) -> Any:
    record = EventRecord.fetch(event_id)
    assert record is not None
    return read_entry(room_id, int(record.position))


def test_a_gap_whose_parents_came_by_another_way_closes_without_a_request(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    carol = room.user("carol")
    enter(room, alice)
    page_back(alice, room.room_id)
    missed = room.say(carol, "missed")
    skip_to(room, room.say(carol, "later"))
    arrives(room, missed)
    asked = len(peer.asked)
    assert texts(page_back(alice, room.room_id)) == ["missed", "later"]
    assert len(peer.asked) == asked
    assert anchor_of(room.room_id, bodies(room)["later"]).gap == ()


def test_what_two_anchors_lead_to_comes_once(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol = room.user("carol")
    enter(room, alice)
    (base,) = room.tip
    shared = room.say(carol, "shared", prev=[base])
    skip_to(room, room.say(carol, "one", prev=[shared.event_id]))
    skip_to(room, room.say(carol, "two", prev=[shared.event_id]))
    found = page_back(alice, room.room_id, limit=2)
    assert sorted(ids(found)) == sorted(room.events)
    assert ids(page_on(alice, room.room_id, "t0_0", limit=3)) == ids(found)[::-1]


# ── Whom to ask ─────────────────────────────────────────────────────────────────────────────────────


def test_another_server_is_asked_where_one_does_not_answer(
    alice: User, peer: HistoryPeer, room: HistoryRoom, tmp_path: Path
) -> None:
    said = room.says(3)
    enter(room, alice)
    with HistoryPeer(tmp_path / "other") as other:
        other.rooms = peer.rooms
        RemoteServer(room.room_id, f"server/{other.name}", members=3, joined_since=1).save()
        peer.instead[f"/_matrix/federation/v1/backfill/{room.room_id.replace('!', '%21').replace(':', '%3A')}"] = (
            500,
            b"{}",
            {},
        )
        assert texts(page_back(alice, room.room_id)) == said[::-1]
        assert other.count("backfill") == 1


def test_where_nobody_answers_the_page_ends_with_a_token_that_continues(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    said = room.says(3)
    join = enter(room, alice)
    rooms, peer.rooms = peer.rooms, {}
    first = messages(alice, room.room_id).json
    assert ids(first["chunk"]) == [join.event_id]
    asked = len(peer.asked)
    again = messages(alice, room.room_id, **{"from": first["end"]}).json
    assert (again["chunk"], again["end"]) == ([], first["end"])
    assert len(peer.asked) == asked
    peer.rooms = rooms
    backfill.forget_failures()
    assert texts(page_back(alice, room.room_id, first["end"])) == said[::-1]


def test_a_gap_that_nobody_fills_does_not_hide_what_lies_before_it(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    carol = room.user("carol")
    enter(room, alice)
    page_back(alice, room.room_id)
    arrives(room, room.say(carol, "before"))
    room.say(carol, "lost")
    skip_to(room, room.say(carol, "after"))
    peer.rooms = {}
    assert texts(page_back(alice, room.room_id)) == ["after", "before"]


# ── Lies ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_not_asked_for_is_not_taken(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol = room.user("carol")
    said = room.says(2)
    enter(room, alice)
    newer = room.say(carol, "newer")
    other = peer.tells(HistoryRoom(peer.name, start=1_600_000_000_000))
    foreign = other.say(carol, "foreign")
    everything = [newer, foreign, *room.events.values()]
    peer._earlier = lambda *_: everything  # type: ignore[method-assign]
    assert texts(page_back(alice, room.room_id)) == said[::-1]
    assert [EventRecord.fetch(one.event_id) for one in (newer, foreign)] == [None, None]


def test_an_event_with_a_wrong_signature_is_not_taken_and_one_with_a_wrong_hash_is_redacted(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    room.says(3)
    enter(room, alice)
    made = bodies(room)
    changed = dict(room.events[made["m1"]].pdu)
    peer.forged[made["m1"]] = {**changed, "content": {"body": "changed", "msgtype": "m.text"}}
    assert texts(page_back(alice, room.room_id)) == ["m2", None, "m0"]
    late = peer.tells(HistoryRoom(peer.name, start=1_600_000_000_000))
    late.says(2)
    enter(late, alice)
    last = late.events[bodies(late)["m1"]]
    peer.forged[last.event_id] = {**last.pdu, "signatures": {late.name: {"ed25519:r1": "A" * 86}}}
    assert texts(messages(alice, late.room_id).json["chunk"]) == []
    assert EventRecord.fetch(last.event_id) is None


def test_an_event_that_the_rules_refuse_is_not_shown_and_the_history_goes_on(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    mallory = room.user("mallory")
    room.says(1)
    refused = room.say(mallory, "never joined")
    forged = room.make("m.room.topic", {"topic": "mine"}, mallory, state_key="", auth=[room.create.event_id])
    room.says(1)
    enter(room, alice)
    assert texts(page_back(alice, room.room_id)) == ["m2", "m0"]
    for made in (refused, forged):
        record = EventRecord.fetch(made.event_id)
        assert record is not None
        assert (record.flags, record.position) == ("r", None)
        assert event(alice, room.room_id, made.event_id).status == 404


def test_an_event_whose_authority_nobody_has_is_passed_over(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    dave = room.user("dave")
    room.join(dave)
    room.says(1)
    (base,) = room.tip
    aside = room.join(dave, prev=[base])
    before = room.after[base]
    auth = [before["m.room.create", ""], before["m.room.power_levels", ""], aside.event_id]
    unknown = room.say(dave, "m1", prev=[base], auth=auth)
    room.tip = [unknown.event_id]
    room.says(1)
    peer.withheld.add(aside.event_id)
    enter(room, alice)
    assert texts(page_back(alice, room.room_id)) == ["m2", "m0"]
    assert EventRecord.fetch(unknown.event_id) is None


def test_a_second_create_event_ends_nothing_and_is_not_taken(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol = room.user("carol")
    room.says(1)
    second = room._build("m.room.create", {"room_version": "11"}, carol, "", prev=[], auth=[])
    (tip,) = room.tip
    room.events[second.event_id], room.after[second.event_id] = second, {}
    room.after[second.event_id] = dict(room.after[tip])
    room.say(carol, "m1", prev=[tip, second.event_id])
    enter(room, alice)
    assert texts(page_back(alice, room.room_id)) == ["m1", "m0"]
    assert EventRecord.fetch(second.event_id) is None


def test_answers_that_are_none_change_nothing(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    room.says(1)
    join = enter(room, alice)
    where = f"/_matrix/federation/v1/backfill/{room.room_id.replace('!', '%21').replace(':', '%3A')}"
    for answer in (b"", b"[]", b"{", b'{"pdus": 5}', b'{"pdus": [null, 7, {}, {"type": []}]}', b"[" * 10_000):
        peer.instead[where] = (200, answer, {})
        backfill.forget_failures()
        assert ids(messages(alice, room.room_id).json["chunk"]) == [join.event_id]


# ── Redactions ──────────────────────────────────────────────────────────────────────────────────────


def test_redactions_in_the_history_are_applied(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol = room.user("carol")
    first, second = room.say(carol, "first"), room.say(carol, "second")
    topic = room.topic(carol, "secret")
    room.topic(carol, "open")
    for target in (first, topic):
        room.make("m.room.redaction", {"redacts": target.event_id}, carol)
    enter(room, alice)
    redaction = room.make("m.room.redaction", {"redacts": second.event_id}, carol)
    arrives(room, redaction)
    found = {one["event_id"]: one for one in page_back(alice, room.room_id, limit=3)}
    assert found.keys() | {redaction.event_id} == room.events.keys()
    for target in (first, second, topic):
        assert found[target.event_id]["content"] == {}
        assert "redacted_because" in found[target.event_id]["unsigned"]
    opened = next(one for one in found.values() if one["content"].get("topic") == "open")
    assert opened["unsigned"].get("prev_content", {}) == {}
    shown = event(alice, room.room_id, redaction.event_id)
    assert (shown.status, shown.json["content"]) == (200, {"redacts": second.event_id})


def test_a_redaction_that_was_missed_applies_to_what_is_known(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    carol = room.user("carol")
    enter(room, alice)
    target = room.say(carol, "known")
    arrives(room, target)
    follow()
    sync(alice)
    room.make("m.room.redaction", {"redacts": target.event_id}, carol)
    skip_to(room, room.say(carol, "later"))
    position = head_of(room.room_id).position
    assert texts(page_back(alice, room.room_id)) == ["later", None]
    assert event(alice, room.room_id, target.event_id).json["content"] == {}
    assert head_of(room.room_id).redaction_position == position + 1


def test_an_event_of_the_history_can_be_redacted(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    carol = room.user("carol")
    room.power(carol, {alice.user_id: 50})
    old = room.say(carol, "old")
    enter(room, alice)
    page_back(alice, room.room_id)
    assert redact(alice, room.room_id, old.event_id).status == 200
    assert event(alice, room.room_id, old.event_id).json["content"] == {}
    assert texts(page_back(alice, room.room_id)) == [None]
    assert event(alice, room.room_id, bodies(room)["m.room.join_rules"]).json["content"] == {"join_rule": "public"}


# ── At once, and cut off ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("at", ["backfill.judged", "backfill.before_commit", "backfill.committed"])
@pytest.mark.parametrize("time", [1, 2])
def test_who_is_cut_off_leaves_whole_steps_and_the_next_goes_on(
    alice: User, peer: HistoryPeer, room: HistoryRoom, at: str, time: int
) -> None:
    carol = room.user("carol")
    room.says(60)
    room.topic(carol, "Tea")
    room.says(60)
    enter(room, alice)
    seen = 0

    def crash(name: str) -> None:
        nonlocal seen
        if name == at:
            seen += 1
            if seen == time:
                raise Crash

    position = int(head_of(room.room_id).position)
    observability.fault_hook = crash
    filled = 0
    while seen < time:
        try:
            filled += fill_gap(room.room_id, position).placed
        except Crash:
            filled += 1000
    assert filled >= 1000
    observability.fault_hook = None
    assert ids(page_back(alice, room.room_id, limit=30)) == [*room.events][::-1]


def test_two_who_fill_the_same_gap_write_once(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    room.says(130)
    enter(room, alice)
    position = int(head_of(room.room_id).position)
    other: list[Any] = []

    def meanwhile(name: str) -> None:
        if name == "backfill.before_commit" and not other:
            other.append(None)
            other.append(fill_gap(room.room_id, position, 50))

    observability.fault_hook = meanwhile
    filled = fill_gap(room.room_id, position)
    observability.fault_hook = None
    assert (filled.placed, other[1].placed) == (0, 50)
    assert ids(page_back(alice, room.room_id)) == [*room.events][::-1]


def test_many_readers_at_once_see_everything_once(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    room.says(60)
    enter(room, alice)
    requester = Requester(alice.user_id, alice.device_id, "")
    found: dict[int, list[str]] = {}

    def reads(number: int) -> None:
        told: list[str] = []
        start: str | None = None
        while start is not None or not told:
            page = history.messages(
                requester,
                room.room_id,
                history.PageQuery(backwards=True, start=start, stop=None, limit=25, event_filter=RoomEventFilter()),
            )
            told += ids(page["chunk"])
            start = page.get("end")
        found[number] = told

    readers = [threading.Thread(target=reads, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert list(found.values()) == [[*room.events][::-1]] * 3


def test_events_that_arrive_meanwhile_disturb_nothing(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    room.says(50)
    enter(room, alice)
    known, live = [*room.events], list[str]()

    def meanwhile(name: str) -> None:
        if name == "backfill.before_commit" and len(live) < 2:
            event = room.say(room.user("carol"), f"live {len(live)}")
            live.append(event.event_id)
            arrives(room, event)

    observability.fault_hook = meanwhile
    page_back(alice, room.room_id)
    observability.fault_hook = None
    assert len(live) == 2
    assert ids(page_back(alice, room.room_id)) == [*live[::-1], *known[::-1]]


def test_a_server_that_does_nothing_but_answer_slowly_does_not_hold_a_reader_up(
    alice: User, room: HistoryRoom, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.services.gap_filling.SECONDS", 0.5)
    released = threading.Event()
    where = f"/_matrix/federation/v1/backfill/{room.room_id.replace('!', '%21').replace(':', '%3A')}"
    join = enter(room, alice)
    peer.instead[where] = lambda _: released.wait(5)
    page = messages(alice, room.room_id).json
    released.set()
    assert (ids(page["chunk"]), "end" in page) == ([join.event_id], True)
