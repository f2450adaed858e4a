"""Sync tokens: what comes back from outside, long ones, old ones."""

import json
from dataclasses import replace

import pytest

from functions.harness import User, call
from functions.rooms import create_room, follow, path, say, texts
from functions.syncing import Device, ask, ids, sync
from homeserver.adapters import aws
from homeserver.matrix.sync_token import SyncToken
from homeserver.services import sync_delivered
from homeserver.settings import table_name
from homeserver.storage import server
from homeserver.storage.server import forget_identity, load_identity, replace_identity
from homeserver.storage.sync_bases import base_request, parse_bases

pytestmark = pytest.mark.usefixtures("set_up")


def status_of(user: User, since: str) -> tuple[int, str]:
    answer = ask(user, since)
    return answer["status"], json.loads(answer["body"]).get("errcode")


def other_device(user: User) -> User:
    login = {"type": "m.login.password", "user": user.user_id, "password": user.password}
    answer = call("client_login", "POST", path("login"), login).json
    return User(user.user_id, answer["device_id"], answer["access_token"])


@pytest.mark.parametrize("since", ["garbage", "s", "sAQ", "t1_0", "s72594_4483_1934", "s" + "A" * 70_000, "s☃"])
def test_what_is_no_token_is_refused(alice: User, since: str) -> None:
    assert status_of(alice, since) == (400, "M_INVALID_PARAM")


def test_a_token_of_another_user_is_refused(alice: User, bob: User) -> None:
    assert status_of(bob, sync(alice)["next_batch"]) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    "claim",
    [
        {"positions": {0: 8}},
        {"positions": {0: 2**62}},
        {"positions": {0: 3, 5: 1}},
        {"positions": {99_999: 1}},
        {"streams": {"account_data": 1}},
        {"streams": {"invites": 2**62}},
        {"streams": {"to_device": 1}},
        {"epoch": 2},
        {"epoch": 2**62},
    ],
)
def test_a_token_that_claims_more_than_there_ever_was_is_refused(alice: User, claim: dict) -> None:
    create_room(alice)
    honest = SyncToken.decode(sync(alice)["next_batch"], user_id=alice.user_id)
    assert list(honest.positions) == [0]
    assert 5 < honest.positions[0] < 8
    assert status_of(alice, replace(honest, **claim).encode()) == (400, "M_INVALID_PARAM")


def test_a_token_that_claims_less_is_told_more(alice: User) -> None:
    room_id = create_room(alice)
    honest = SyncToken.decode(sync(alice)["next_batch"], user_id=alice.user_id)
    body = sync(alice, replace(honest, positions={0: honest.positions[0] - 1}).encode())
    assert len(body["rooms"]["join"][room_id]["timeline"]["events"]) == 1


def test_a_token_ahead_of_the_inbox_but_not_of_the_room_is_good(alice: User, bob: User) -> None:
    """A kick is told before the follower has moved the slot."""
    room_id = create_room(alice, bob)
    follow()
    since = SyncToken.decode(sync(bob)["next_batch"], user_id=bob.user_id)
    say(alice, room_id, "not followed yet")
    ahead = replace(since, positions={0: since.positions[0] + 1}).encode()
    assert list(sync(bob, ahead)) == ["next_batch"]


def test_a_token_of_an_older_life_of_the_store_gets_limited_timelines_and_whole_states(alice: User) -> None:
    room_id = create_room(alice, name="Tea")
    since = sync(alice)["next_batch"]
    before = load_identity()
    assert before is not None
    assert replace_identity(before, replace(before, epoch=before.epoch + 1))
    body = sync(alice, since)
    room = body["rooms"]["join"][room_id]
    assert room["timeline"]["limited"] is True
    assert len(room["timeline"]["events"]) + len(room["state"]["events"]) == 7
    assert list(sync(alice, body["next_batch"])) == ["next_batch"]


def test_a_process_that_has_not_heard_of_a_new_epoch_takes_its_tokens(alice: User) -> None:
    create_room(alice)
    before = load_identity()
    assert before is not None
    old = sync(alice)["next_batch"]
    newer = replace(SyncToken.decode(old, user_id=alice.user_id), epoch=before.epoch + 1).encode()
    known = dict(server._known)
    assert replace_identity(before, replace(before, epoch=before.epoch + 1))
    server._known.update(known)
    assert list(sync(alice, newer)) == ["next_batch"]
    forget_identity()


class TestManyRooms:
    """Beyond the length of a token its positions go into a base; here a dozen rooms are many."""

    @pytest.fixture(autouse=True)
    def short_tokens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sync_delivered, "LONGEST_TOKEN", 31)

    @pytest.fixture
    def rooms(self, alice: User, bob: User) -> list[str]:
        rooms = [create_room(alice, bob) for _ in range(12)]
        follow()
        return rooms

    def bases(self, user: User) -> dict:
        item = aws.client("dynamodb").get_item(**base_request(user.user_id, user.device_id)).get("Item")
        return parse_bases(item)

    def test_every_room_is_told_once_over_many_bases_and_two_devices(
        self, rooms: list[str], alice: User, bob: User
    ) -> None:
        devices = [Device(bob), Device(other_device(bob))]
        for device in devices:
            assert set(device.sync()["rooms"]["join"]) == set(rooms)
            assert list(device.sync()) == ["next_batch"]
        told: list[list[str]] = [[], []]
        for number in range(18):
            say(alice, rooms[number % 12], f"text {number}")
            follow()
            for index, device in enumerate(devices):
                if index == 0 or number % 5 == 4:
                    for room in device.sync().get("rooms", {}).get("join", {}).values():
                        told[index] += texts(room["timeline"]["events"])
                    assert len(str(device.since)) <= 31
        for index, device in enumerate(devices):
            for room in device.sync().get("rooms", {}).get("join", {}).values():
                told[index] += texts(room["timeline"]["events"])
        assert told[0] == [f"text {number}" for number in range(18)]
        assert sorted(told[1]) == sorted(told[0])
        assert len(self.bases(bob)) == 2
        assert max(self.bases(bob)) == 2

    def test_the_token_before_the_newest_base_can_be_used_once_more(
        self, rooms: list[str], alice: User, bob: User
    ) -> None:
        device = Device(bob)
        device.sync()
        for number in range(12):
            sent = say(alice, rooms[number], f"text {number}")
            follow()
            before = device.since
            device.sync()
            device.since = before  # the answer was lost
            (room,) = device.sync()["rooms"]["join"].values()
            assert ids(room["timeline"]["events"]) == sent

    def test_a_base_that_is_gone_is_answered_with_everything(self, rooms: list[str], bob: User) -> None:
        device = Device(bob)
        device.sync()
        key = base_request(bob.user_id, bob.device_id)["Key"]
        aws.client("dynamodb").delete_item(TableName=table_name("INBOX"), Key=key)
        body = sync(bob, device.since)
        assert set(body["rooms"]["join"]) == set(rooms)
        assert all(room["timeline"]["limited"] for room in body["rooms"]["join"].values())

    def test_a_second_first_sync_of_a_device_gets_a_base_of_its_own(self, rooms: list[str], bob: User) -> None:
        first = sync(bob)["next_batch"]
        second = sync(bob)["next_batch"]
        assert first != second
        assert list(sync(bob, first)) == ["next_batch"]
        assert list(sync(bob, second)) == ["next_batch"]
