"""The summary of a room: counts and heroes, when they come, and what they cost in a crowd."""

import pytest

from benchmarks.caches import forget_everything
from functions.harness import User, register
from functions.rooms import create_room, follow, post, redact, say, set_state
from functions.syncing import JSON, Device, keys, sync
from homeserver.observability import metered
from homeserver.services import room_summary
from homeserver.storage import state_cache
from homeserver.storage.room_counts import read_counts

pytestmark = pytest.mark.usefixtures("set_up")

HEROES, JOINED, INVITED = "m.heroes", "m.joined_member_count", "m.invited_member_count"


def summary_of(body: JSON, room_id: str) -> JSON:
    found: JSON = body.get("rooms", {}).get("join", {}).get(room_id, {}).get("summary", {})
    return found


def test_heroes_are_the_first_five_others_in_the_order_in_which_they_came(alice: User) -> None:
    others = [register(f"user{number}") for number in (3, 1, 2, 6, 5, 4)]
    room_id = create_room(alice, preset="public_chat")
    for other in others[:4]:
        post(other, room_id, "join")
    for other in others[4:]:
        post(alice, room_id, "invite", {"user_id": other.user_id})
    follow()
    expected = [other.user_id for other in others[:5]]
    assert summary_of(sync(alice), room_id) == {HEROES: expected, JOINED: 5, INVITED: 2}
    assert summary_of(sync(others[0]), room_id)[HEROES] == [alice.user_id, *expected[1:]]


def test_a_room_of_one_is_named_after_those_who_left(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    post(bob, room_id, "leave")
    follow()
    assert summary_of(sync(alice), room_id) == {HEROES: [bob.user_id], JOINED: 1, INVITED: 0}


@pytest.mark.parametrize("state", [{"name": "Tea"}, {"room_alias_name": "tea"}])
def test_a_room_with_a_name_or_an_alias_needs_no_heroes(alice: User, bob: User, state: JSON) -> None:
    room_id = create_room(alice, bob, **state)
    follow()
    assert summary_of(sync(alice), room_id) == {JOINED: 2, INVITED: 0}


def test_an_empty_name_is_none(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name="Tea")
    follow()
    device = Device(alice)
    device.sync()
    set_state(alice, room_id, "m.room.name", {"name": ""})
    follow()
    assert summary_of(device.sync(), room_id) == {HEROES: [bob.user_id], JOINED: 2, INVITED: 0}


def test_a_name_that_was_redacted_is_none(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    named = set_state(alice, room_id, "m.room.name", {"name": "Tea"}).json["event_id"]
    follow()
    device = Device(alice)
    assert HEROES not in summary_of(device.sync(), room_id)
    assert redact(alice, room_id, named).status == 200
    follow()
    assert summary_of(device.sync(), room_id)[HEROES] == [bob.user_id]


def test_the_summary_comes_when_a_membership_changed_and_else_not(alice: User, bob: User) -> None:
    room_id = create_room(alice, preset="public_chat")
    follow()
    device = Device(alice)
    assert summary_of(device.sync(), room_id)[JOINED] == 1
    for change, expected in (
        (lambda: say(alice, room_id, "one"), {}),
        (lambda: post(bob, room_id, "join"), {HEROES: [bob.user_id], JOINED: 2, INVITED: 0}),
        (lambda: set_state(alice, room_id, "m.room.topic", {"topic": "t"}), {}),
        (lambda: set_state(alice, room_id, "m.room.name", {"name": "Tea"}), {}),
        (lambda: post(bob, room_id, "leave"), {JOINED: 1, INVITED: 0}),
    ):
        change()
        follow()
        assert summary_of(device.sync(), room_id) == expected


def test_a_change_in_a_gap_and_one_that_the_filter_hides_are_counted(alice: User, bob: User) -> None:
    room_id = create_room(alice, preset="public_chat", name="Tea")
    follow()
    gappy, blind = Device(alice), Device(alice, query={"filter": {"room": {"timeline": {"types": []}}}})
    for device in (gappy, blind):
        device.sync()
    post(bob, room_id, "join")
    say(alice, room_id, *[f"text {number}" for number in range(12)])
    follow()
    assert summary_of(gappy.sync(), room_id) == summary_of(blind.sync(), room_id) == {JOINED: 2, INVITED: 0}


def test_a_lazy_client_gets_the_memberships_of_the_heroes(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, carol)
    say(alice, room_id, *[f"text {number}" for number in range(10)])
    follow()
    room = sync(alice, filter={"room": {"state": {"lazy_load_members": True}}})["rooms"]["join"][room_id]
    heroes = [bob.user_id, carol.user_id]
    assert room["summary"][HEROES] == heroes
    assert {("m.room.member", hero) for hero in heroes} <= keys(room["state"]["events"])


class TestCrowd:
    """A dozen members are many here."""

    @pytest.fixture(autouse=True)
    def small_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(room_summary, "STORED_FROM", 5)
        monkeypatch.setattr(state_cache, "CROWD", 5)

    @pytest.fixture
    def crowd(self) -> list[User]:
        return [register(f"member{number:02d}") for number in range(12)]

    @pytest.fixture
    def room_id(self, alice: User, crowd: list[User]) -> str:
        room_id = create_room(alice, preset="public_chat")
        for user in crowd:
            post(user, room_id, "join")
        follow()
        return room_id

    def test_the_follower_stores_the_counts(self, room_id: str, alice: User, crowd: list[User]) -> None:
        stored = read_counts(room_id)
        assert stored is not None
        assert (stored.joined, stored.invited) == (13, 0)
        assert [user_id for _, user_id in stored.present.first][:2] == [alice.user_id, crowd[0].user_id]

    def test_old_counts_and_the_changes_since_are_the_counts_now(
        self, room_id: str, alice: User, crowd: list[User]
    ) -> None:
        before = read_counts(room_id)
        post(crowd[0], room_id, "leave")
        post(alice, room_id, "ban", {"user_id": crowd[1].user_id})
        follow()
        assert read_counts(room_id) == before
        forget_everything()
        heroes = [user.user_id for user in crowd[2:7]]
        assert summary_of(sync(alice), room_id) == {HEROES: heroes, JOINED: 11, INVITED: 0}

    def test_a_cold_lazy_sync_reads_as_much_as_in_a_room_of_two(
        self, room_id: str, alice: User, bob: User, crowd: list[User]
    ) -> None:
        small = create_room(bob, crowd[0])
        follow()
        lazy = {"room": {"state": {"lazy_load_members": True}}}
        costs = {}
        for name, user, room in (("crowd", alice, room_id), ("two", bob, small)):
            forget_everything()
            with metered() as meter:
                body = sync(user, filter=lazy)
            assert list(body["rooms"]["join"]) == [room]
            costs[name] = (meter.rounds, meter.rru)
        # In a room of two one read of all rows answers what are three questions in a crowd: the name, the state
        # without the members, the heroes.
        assert costs["crowd"][0] <= costs["two"][0] + 3 <= 8
        assert costs["crowd"][1] <= costs["two"][1] + 10

    def test_whole_and_lazy_states_agree_but_for_the_members(self, room_id: str, alice: User) -> None:
        set_state(alice, room_id, "m.room.topic", {"topic": "in the timeline"})
        follow()
        told = {}
        for lazy in (True, False):
            definition = {"room": {"timeline": {"limit": 3}, "state": {"lazy_load_members": lazy}}}
            events = sync(alice, filter=definition)["rooms"]["join"][room_id]["state"]["events"]
            told[lazy] = {event["event_id"] for event in events if event["type"] != "m.room.member"}
        assert told[True] == told[False]
