"""Any history with forks and gaps, in pages of any size: paging back and forth shows each visible event once."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from functions.backfilling import HistoryPeer, HistoryRoom, arrives, enter, ids, page_back, page_on, skip_to
from functions.federating import LOOPBACK
from functions.harness import User
from functions.remote_server import state_of
from functions.rooms import get, messages
from homeserver.services import backfill
from homeserver.storage.event_places import read_places

pytestmark = pytest.mark.usefixtures("set_up")
SETTINGS = ("shared", "joined", "invited", "world_readable")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    backfill.forget_failures()


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[HistoryPeer]:
    server(**LOOPBACK)
    with HistoryPeer(tmp_path / "peer") as running:
        yield running


def grow(room: HistoryRoom, chance: random.Random, count: int, alice: User) -> None:
    """So many events more: messages, state, forks and what merges them."""
    carol, dave = room.user("carol"), room.user("dave")
    for _ in range(count):
        tips = room.tip
        prev = [chance.choice(tips)] if chance.random() < 0.5 else list(tips)
        if chance.random() < 0.15 and len(tips) < 3:
            prev = [chance.choice(room.events[tips[-1]].prev_event_ids or tips)]
        what = chance.random()
        if what < 0.1:
            room.topic(carol, str(chance.random()), prev=prev)
        elif what < 0.2:
            content = {"history_visibility": chance.choice(SETTINGS)}
            room.make("m.room.history_visibility", content, carol, state_key="", prev=prev)
        elif what < 0.3:
            room.member(dave, chance.choice(["join", "leave"]), dave, prev=prev)
        elif what < 0.35:
            room.member(carol, "invite", alice.user_id, prev=prev)
        else:
            room.say(carol, "hello", prev=prev)


def visible_to(room: HistoryRoom, user_id: str) -> set[str]:
    """What a user who joined at some time may see, worked out on the other server's graph; the user is joined now."""
    seen = set()
    for event in room.events.values():
        states = [room.before(event), room.after[event.event_id]]
        if not room.is_allowed(event, states[0]):
            continue
        for state in states:
            setting = room.events.get(state.get(("m.room.history_visibility", ""), ""))
            visibility = setting.content["history_visibility"] if setting is not None else "shared"
            member = room.events.get(state.get(("m.room.member", user_id), ""))
            membership = member.content["membership"] if member is not None else "leave"
            if (
                visibility in {"world_readable", "shared"}
                or membership == "join"
                or (visibility == "invited" and membership == "invite")
            ):
                seen.add(event.event_id)
    return seen


@pytest.mark.parametrize("seed", range(6))
def test_paging_through_any_history_shows_every_visible_event_once_and_in_order(
    alice: User, peer: HistoryPeer, seed: int
) -> None:
    chance = random.Random(seed)
    room = peer.tells(HistoryRoom(peer.name))
    grow(room, chance, 30, alice)
    enter(room, alice)
    for _ in range(2):
        live = [room.say(room.user("carol"), "live") for _ in range(chance.randint(1, 4))]
        arrives(room, *live)
        grow(room, chance, chance.randint(1, 12), alice)
        skip_to(room, room.say(room.user("carol"), "after the gap"))
    peer.most = chance.randint(3, 12)
    shown = ids(page_back(alice, room.room_id, limit=chance.randint(1, 9)))
    assert len(shown) == len(set(shown))
    assert set(shown) == visible_to(room, alice.user_id)
    at = {event_id: number for number, event_id in enumerate(shown)}
    known = read_places(room.events)
    for event in room.events.values():
        place = known[event.event_id]
        assert state_of(room.room_id, place.before) == room.before(event)
        parents = [i for i in event.prev_event_ids if i in at]
        assert event.event_id not in at or all(at[event.event_id] < at[i] for i in parents)
    assert ids(page_on(alice, room.room_id, "t0_0", limit=chance.randint(1, 9))) == shown[::-1]
    for event_id in chance.sample(shown, 5):
        around = get(alice, "rooms", room.room_id, "context", event_id, limit=chance.randint(0, 8)).json
        run = [*ids(around["events_before"])[::-1], event_id, *ids(around["events_after"])]
        first = shown[::-1].index(run[0])
        assert shown[::-1][first : first + len(run)] == run
        before = messages(alice, room.room_id, limit=2, **{"from": around["start"]}).json["chunk"]
        after = messages(alice, room.room_id, limit=2, dir="f", **{"from": around["end"]}).json["chunk"]
        assert ids(before) == shown[::-1][max(0, first - 2) : first][::-1]
        assert ids(after) == shown[::-1][first + len(run) : first + len(run) + 2]
