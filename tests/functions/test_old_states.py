"""States as they were, of rooms with very many members: right for every reader, whatever the rows show."""

import pytest

from benchmarks.caches import forget_everything
from functions.harness import User, register
from functions.remote_server import State, head_of, state_of
from functions.rooms import create_room, follow, get, post, redact, say, set_state
from functions.syncing import Device
from functions.test_receive_events_rows import lagging_room
from homeserver.matrix import state_tree
from homeserver.observability import metered
from homeserver.storage import state_cache
from homeserver.storage.room_items import Head, StateRow, state_key
from homeserver.storage.timeline import read_positions

LAZY = {"lazy_load_members": True}
MEMBER = "m.room.member"


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees are deep, and rows fill many Queries, with a dozen members."""
    monkeypatch.setattr(state_tree, "LEAF_LIMIT", 300)
    monkeypatch.setattr(state_cache, "CROWD", 8)
    monkeypatch.setattr(state_cache, "_ROWS_AT_ONCE", 4)


def told(events: list[dict]) -> State:
    return {(event["type"], event["state_key"]): event["event_id"] for event in events}


def members_of(state: State) -> State:
    return {key: event_id for key, event_id in state.items() if key[0] == MEMBER}


def check_states(user: User, room_id: str) -> list[int]:
    """Every state of the room that the user may see is told as the tree has it; how many members the lazy ones had."""
    counts = []
    for entry in read_positions(room_id, 1, int(head_of(room_id).position)):
        if entry.event_id is None or entry.pdu is None:
            continue
        expected = state_of(room_id, entry.room_root)
        for cold in (True, False):
            if cold:
                forget_everything()
            whole = get(user, "rooms", room_id, "context", entry.event_id, limit=0, filter={})
            if whole.status == 404:
                break
            assert told(whole.json["state"]) == expected
            if cold:
                forget_everything()
            lazy = told(get(user, "rooms", room_id, "context", entry.event_id, limit=0, filter=LAZY).json["state"])
            sender = (MEMBER, entry.pdu["sender"])
            assert lazy == {key: i for key, i in expected.items() if key[0] != MEMBER or key == sender}
            if cold:
                forget_everything()
            chunk = get(user, "rooms", room_id, "members", at=whole.json["end"]).json["chunk"]
            assert told(chunk) == members_of(expected)
        else:
            counts.append(len(members_of(expected)))
    return counts


@pytest.fixture
def crowd() -> list[User]:
    return [register(f"member{number:02d}") for number in range(12)]


@pytest.fixture
def room_id(alice: User, crowd: list[User]) -> str:
    room_id = create_room(alice, preset="public_chat", name="Tea")
    for number, user in enumerate(crowd):
        assert post(user, room_id, "join").status == 200
        assert set_state(alice, room_id, "m.room.topic", {"topic": f"{number}"}).status == 200
    assert post(crowd[0], room_id, "leave").status == 200
    assert post(alice, room_id, "ban", {"user_id": crowd[1].user_id}).status == 200
    say(alice, room_id, "hello")
    set_state(alice, room_id, "org.example.setting", {"a": 1}, key="k")
    follow()
    return room_id


def test_every_old_state_is_told_as_it_was(alice: User, room_id: str) -> None:
    counts = check_states(alice, room_id)
    assert counts[-1] == 13
    assert sorted(counts) == counts


def test_who_came_last_is_told_the_same(room_id: str) -> None:
    late = register("late")
    assert post(late, room_id, "join").status == 200
    assert check_states(late, room_id)[-1] == 14


def test_who_left_sees_the_state_as_it_was_then_whatever_came_after(
    alice: User, room_id: str, crowd: list[User]
) -> None:
    leaver = crowd[2]
    assert post(leaver, room_id, "leave").status == 200
    expected = state_of(room_id)
    for user in crowd[3:6]:
        assert post(user, room_id, "leave").status == 200
    assert set_state(alice, room_id, "m.room.topic", {"topic": "later"}).status == 200
    forget_everything()
    assert told(get(leaver, "rooms", room_id, "state").json) == expected
    forget_everything()
    assert told(get(leaver, "rooms", room_id, "members").json["chunk"]) == members_of(expected)
    assert state_of(room_id) != expected


def test_a_redaction_shows_in_every_state_that_has_the_event(alice: User, room_id: str) -> None:
    first = set_state(alice, room_id, "m.room.topic", {"topic": "first"}).json["event_id"]
    (between,) = say(alice, room_id, "between")
    second = set_state(alice, room_id, "m.room.topic", {"topic": "second"}).json["event_id"]
    (last,) = say(alice, room_id, "last")
    for event_id in (first, second):
        assert get(alice, "rooms", room_id, "context", last, limit=0, filter=LAZY).status == 200  # it is in memory
        assert redact(alice, room_id, event_id, txn=event_id).status == 200
    for cold in (False, True):
        for at, topic in ((between, first), (last, second)):
            for event_filter in (LAZY, {}):
                if cold:
                    forget_everything()
                state = get(alice, "rooms", room_id, "context", at, limit=0, filter=event_filter).json["state"]
                (event,) = [event for event in state if event["type"] == "m.room.topic"]
                assert (event["event_id"], event["content"]) == (topic, {})


@pytest.mark.usefixtures("set_up")
def test_old_states_are_right_while_the_rows_lag_behind(alice: User, bob: User) -> None:
    remote, _ = lagging_room(alice, bob)
    assert check_states(alice, remote.room_id)[-1] >= 3
    assert head_of(remote.room_id).rows_root != head_of(remote.room_id).root


@pytest.mark.usefixtures("set_up")
def test_a_lazy_client_is_told_the_right_membership_while_its_row_lags_behind(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    device = Device(bob, {"filter": {"room": {"state": LAZY}}})
    before, row = state_of(room_id), StateRow.fetch(room_id, state_key(MEMBER, alice.user_id))
    root = head_of(room_id).root
    content = {"membership": "join", "displayname": "A"}
    changed = set_state(alice, room_id, MEMBER, content, key=alice.user_id).json["event_id"]
    follow()
    device.sync_until_quiet()
    say(alice, room_id, "hello")
    follow()
    # As after a change of the state that was too large for its commit: the rows show an earlier state, with its root.
    assert row is not None
    assert row.event_id == before[MEMBER, alice.user_id] != changed
    row.update(
        [StateRow.event_id.set(row.event_id), StateRow.position.set(row.position), StateRow.packed.set(row.packed)]
    )
    head_of(room_id).update([Head.rows_root.set(root)])
    forget_everything()
    room = device.sync()["rooms"]["join"][room_id]
    assert [event["sender"] for event in room["timeline"]["events"]] == [alice.user_id]
    assert told(room["state"]["events"]) == {(MEMBER, alice.user_id): changed}


@pytest.mark.parametrize("event_filter", [LAZY, {}])
def test_an_old_state_takes_a_round_a_level_of_its_tree_and_one_for_its_events(
    alice: User, room_id: str, event_filter: dict
) -> None:
    (at,) = say(alice, room_id, "old")
    for topic in range(3):
        set_state(alice, room_id, "m.room.topic", {"topic": f"later {topic}"})
    forget_everything()
    with metered() as meter:
        assert get(alice, "rooms", room_id, "context", at, limit=0, filter=event_filter).status == 200
    # token; the room with the event's record; timeline; the tree, which is three levels deep; the events, old and new
    assert meter.rounds <= 3 + 3 + 1
