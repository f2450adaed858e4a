"""/sync with a token: what changed since, and nothing else."""

from collections.abc import Callable

import pytest

from benchmarks.caches import forget_everything
from functions.harness import User, call, register
from functions.remote_server import state_of
from functions.rooms import create_room, follow, get, path, post, redact, say, set_state, texts
from functions.syncing import Device, ids, keys, sync
from homeserver.observability import metered
from homeserver.storage import timeline_cache

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def phone(alice: User, bob: User) -> Device:
    """Bob's, who knows one room that alice made."""
    create_room(alice, bob, name="Tea")
    follow()
    device = Device(bob)
    device.sync()
    return device


def room_of(device: Device) -> str:
    (room_id,) = device.joined
    return room_id


def test_without_news_there_is_the_same_token_and_nothing_else(phone: Device) -> None:
    assert sync(phone.user, phone.since) == {"next_batch": phone.since}


def test_a_message_comes_alone(phone: Device, alice: User) -> None:
    (sent,) = say(alice, room_of(phone), "hello")
    follow()
    body = phone.sync()
    assert set(body) == {"next_batch", "rooms"}
    (room,) = body["rooms"]["join"].values()
    assert set(room) == {"timeline", "state"}
    assert (ids(room["timeline"]["events"]), room["timeline"]["limited"]) == ([sent], False)
    assert room["state"]["events"] == []


def test_only_rooms_that_moved_are_told(phone: Device, alice: User) -> None:
    others = [create_room(alice, phone.user) for _ in range(12)]
    follow()
    phone.sync()
    moved = [others[0], others[5], others[11]]
    for room_id in moved:
        say(alice, room_id, f"to {room_id}")
    follow()
    assert set(phone.sync()["rooms"]["join"]) == set(moved)


def test_a_gap_is_limited_and_its_state_is_what_changed_in_it(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    set_state(alice, room_id, "m.room.topic", {"topic": "in the gap"})
    set_state(alice, room_id, "m.room.topic", {"topic": "later in the gap"})
    say(alice, room_id, *[f"text {n}" for n in range(3)])
    set_state(alice, room_id, "m.room.name", {"name": "in the timeline"})
    say(alice, room_id, "last")
    follow()
    before = phone.since
    (room,) = phone.sync(filter={"room": {"timeline": {"limit": 3}}})["rooms"]["join"].values()
    assert room["timeline"]["limited"] is True
    assert texts(room["timeline"]["events"]) == ["text 2", "last"]
    assert [event["content"] for event in room["state"]["events"]] == [{"topic": "later in the gap"}]
    until = get(
        phone.user,
        "rooms",
        room_id,
        "messages",
        dir="b",
        limit=50,
        to=before,
        **{"from": room["timeline"]["prev_batch"]},
    )
    assert texts(until.json["chunk"]) == ["text 1", "text 0"]
    assert len(until.json["chunk"]) == 4
    assert "end" not in until.json


def test_state_that_a_timeline_filter_hides_is_told_as_state(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    say(alice, room_id, "one")
    set_state(alice, room_id, "m.room.name", {"name": "hidden"})
    say(alice, room_id, "two")
    follow()
    (room,) = phone.sync(filter={"room": {"timeline": {"types": ["m.room.message"]}}})["rooms"]["join"].values()
    assert texts(room["timeline"]["events"]) == ["one", "two"]
    assert [event["content"] for event in room["state"]["events"]] == [{"name": "hidden"}]


def test_events_that_a_filter_leaves_out_wake_but_tell_nothing(phone: Device, alice: User) -> None:
    say(alice, room_of(phone), "not for bob")
    follow()
    before = phone.since
    body = phone.sync(filter={"room": {"timeline": {"not_senders": [alice.user_id]}, "state": {"types": []}}})
    assert list(body) == ["next_batch"]
    assert body["next_batch"] != before


def test_a_timeline_filter_looks_further_back_for_what_passes(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    wanted = say(alice, room_id, "wanted")
    for number in range(15):
        set_state(alice, room_id, "m.room.topic", {"topic": str(number)})
    follow()
    (room,) = phone.sync(filter={"room": {"timeline": {"types": ["m.room.message"], "limit": 3}}})["rooms"][
        "join"
    ].values()
    assert ids(room["timeline"]["events"]) == wanted
    assert [event["content"] for event in room["state"]["events"]] == [{"topic": "14"}]


def test_lazy_loading_tells_senders_and_all_members_who_changed_in_a_gap(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    carol = register("carol")
    call("client_rooms", "POST", path("rooms", room_id, "invite"), {"user_id": carol.user_id}, token=alice.token)
    say(alice, room_id, *[f"text {n}" for n in range(4)])
    follow()
    lazy = {"room": {"timeline": {"limit": 2}, "state": {"lazy_load_members": True}}}
    (room,) = phone.sync(filter=lazy)["rooms"]["join"].values()
    assert keys(room["state"]["events"]) == {("m.room.member", carol.user_id), ("m.room.member", alice.user_id)}
    assert room["summary"]["m.invited_member_count"] == 1


def test_full_state_tells_every_room_whole_and_timelines_since_the_token(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    quiet = create_room(phone.user)
    follow()
    phone.sync()
    sent = say(alice, room_id, "hello")
    follow()
    told = phone.sync(full_state=True)["rooms"]["join"]
    assert set(told) == {room_id, quiet}
    assert ids(told[room_id]["timeline"]["events"]) == sent
    whole = {event["event_id"] for event in get(phone.user, "rooms", room_id, "state").json}
    assert set(ids(told[room_id]["state"]["events"])) == whole
    assert told[quiet]["timeline"]["events"] == []
    assert ("m.room.create", "") in keys(told[quiet]["state"]["events"])


def test_the_transaction_id_is_for_the_device_that_sent(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    login = {"type": "m.login.password", "user": "bob", "password": phone.user.password}
    second = call("client_login", "POST", path("login"), login).json
    other = User(phone.user.user_id, second["device_id"], second["access_token"])
    since = phone.since
    say(phone.user, room_id, "mine")
    follow()
    (mine,) = phone.sync()["rooms"]["join"][room_id]["timeline"]["events"]
    (theirs,) = sync(other, since)["rooms"]["join"][room_id]["timeline"]["events"]
    assert mine["unsigned"]["transaction_id"] == "say-mine"
    assert "transaction_id" not in theirs["unsigned"]
    assert mine["event_id"] == theirs["event_id"]


def test_account_data_is_told_once_and_only_what_is_new(phone: Device) -> None:
    room_id, user = room_of(phone), phone.user

    def put(data_type: str, content: dict, *where: str) -> None:
        answer = call(
            "client_user",
            "PUT",
            path("user", user.user_id, *where, "account_data", data_type),
            content,
            token=user.token,
        )
        assert answer.status == 200

    put("org.example.a", {"n": 1})
    put("org.example.a", {"n": 2})
    put("org.example.b", {"n": 3})
    put("org.example.r", {"n": 4}, "rooms", room_id)
    body = phone.sync()
    assert [event["content"] for event in body["account_data"]["events"]] == [{"n": 2}, {"n": 3}]
    assert body["rooms"] == {
        "join": {room_id: {"account_data": {"events": [{"type": "org.example.r", "content": {"n": 4}}]}}}
    }
    assert list(phone.sync()) == ["next_batch"]
    put("org.example.b", {"n": 5})
    assert phone.sync()["account_data"]["events"] == [{"type": "org.example.b", "content": {"n": 5}}]


def test_a_redaction_reaches_what_a_warm_process_knows(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    (secret, _) = say(alice, room_id, "secret", "harmless")
    name = set_state(alice, room_id, "org.example.note", {"note": "secret"}).json["event_id"]
    follow()
    before = phone.since
    assert "secret" in texts(phone.sync()["rooms"]["join"][room_id]["timeline"]["events"])
    sync(phone.user, full_state=True)
    redaction = redact(alice, room_id, secret, "r1").json["event_id"]
    assert redact(alice, room_id, name, "r2").status == 200
    follow()
    assert redaction in ids(phone.sync()["rooms"]["join"][room_id]["timeline"]["events"])
    (room,) = sync(phone.user, before)["rooms"]["join"].values()
    assert texts(room["timeline"]["events"]) == [None, "harmless"]
    redacted = room["timeline"]["events"][0]
    assert redacted["unsigned"]["redacted_because"]["event_id"] == redaction
    (room,) = sync(phone.user, filter={"room": {"timeline": {"limit": 1}}})["rooms"]["join"].values()
    assert [event["content"] for event in room["state"]["events"] if event["type"] == "org.example.note"] == [{}]


def test_what_was_read_before_a_redaction_is_not_kept_as_if_it_came_after(
    phone: Device, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entries are read, then the redaction is committed, then the head is read."""
    room_id = room_of(phone)
    (secret,) = say(alice, room_id, "secret")
    follow()
    before = phone.since
    read_ahead: Callable = timeline_cache.read_ahead

    def raced(*args: object) -> timeline_cache.Ahead:
        ahead: timeline_cache.Ahead = read_ahead(*args)
        monkeypatch.setattr(timeline_cache, "read_ahead", read_ahead)
        assert redact(alice, room_id, secret).status == 200
        return ahead

    timeline_cache._rooms.clear()
    monkeypatch.setattr(timeline_cache, "read_ahead", raced)
    monkeypatch.setattr(
        "homeserver.services.sync.in_parallel", lambda *calls: [call() for call in reversed(calls)][::-1]
    )
    sync(phone.user, before)
    (room,) = sync(phone.user, before)["rooms"]["join"].values()
    assert texts(room["timeline"]["events"]) == [None]


LAZY = {"room": {"state": {"lazy_load_members": True}}}


class TestLazyMembers:
    """The memberships that a lazy client needs are told as they were at the start of the timeline."""

    @pytest.fixture
    def lazy(self, phone: Device, alice: User) -> Device:
        device = Device(phone.user, {"filter": LAZY})
        device.sync_until_quiet()
        forget_everything()
        return device

    def test_a_membership_that_has_not_changed_is_told_in_one_round_beside_the_timeline(
        self, lazy: Device, alice: User
    ) -> None:
        room_id = room_of(lazy)
        say(alice, room_id, "hello")
        follow()
        forget_everything()
        with metered() as meter:
            told = lazy.sync()["rooms"]["join"][room_id]["state"]["events"]
        assert ids(told) == [member_of(alice, room_id)]
        assert meter.rounds <= 3

    def test_one_that_changes_in_the_timeline_is_told_as_it_was_before(self, lazy: Device, alice: User) -> None:
        room_id = room_of(lazy)
        before = member_of(alice, room_id)
        say(alice, room_id, "hello")
        changed = set_state(
            alice, room_id, "m.room.member", {"membership": "join", "displayname": "A"}, key=alice.user_id
        )
        say(alice, room_id, "hello again")
        follow()
        forget_everything()
        room = lazy.sync()["rooms"]["join"][room_id]
        assert ids(room["state"]["events"]) == [before]
        assert changed.json["event_id"] in ids(room["timeline"]["events"])

    def test_one_that_changed_before_the_timeline_is_told_as_it_is(self, lazy: Device, alice: User) -> None:
        room_id = room_of(lazy)
        changed = set_state(
            alice, room_id, "m.room.member", {"membership": "join", "displayname": "A"}, key=alice.user_id
        )
        say(alice, room_id, *[f"text {n}" for n in range(12)])
        follow()
        forget_everything()
        room = lazy.sync()["rooms"]["join"][room_id]
        assert room["timeline"]["limited"]
        assert ids(room["state"]["events"]) == [changed.json["event_id"]]

    def test_who_came_in_the_timeline_is_told_by_it_alone(self, lazy: Device, alice: User) -> None:
        room_id, carol = room_of(lazy), register("carol")
        assert post(alice, room_id, "invite", {"user_id": carol.user_id}).status == 200
        assert post(carol, room_id, "join").status == 200
        say(carol, room_id, "hello")
        follow()
        forget_everything()
        assert ids(lazy.sync()["rooms"]["join"][room_id]["state"]["events"]) == [member_of(alice, room_id)]


def member_of(user: User, room_id: str) -> str:
    """The user's membership event in the room now."""
    return state_of(room_id)["m.room.member", user.user_id]
