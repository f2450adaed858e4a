"""EDUs that are kept for whoever will read them: messages to devices, presence, devices and signing keys."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK
from functions.harness import User, register
from functions.remote_server import KEY, RemoteServer
from functions.rooms import create_room, follow
from functions.transactions import Elsewhere, Inbound, cut_off, edu, points_of, send
from homeserver.services import received_edus
from homeserver.storage import remote_devices, to_device
from homeserver.storage.presence import PresenceItem, load_presence
from homeserver.storage.remote_devices import RemoteDeviceItem, asked, load_changes, load_list
from homeserver.storage.to_device import DeviceMessage, ToDeviceItem, count_of, load_messages, store_messages

MONTH_S = 30 * 24 * 3600


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path, key=KEY) as running:
        yield running


@pytest.fixture
def carol(alice: User, peer: Peer, inbound: Inbound, elsewhere: Elsewhere) -> str:
    """A user of the peer who shares a room with alice."""
    room_id = create_room(alice, preset="public_chat", room_version="11")
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    follow()
    return remote.user("carol")


def to(sender: str, messages: Any, message_id: str = "m1", event_type: str = "m.room_key") -> dict[str, Any]:
    return edu("m.direct_to_device", sender=sender, type=event_type, message_id=message_id, messages=messages)


def contents(found: list[tuple[int, DeviceMessage]]) -> list[tuple[int, str, Any]]:
    return [(number, message.device_id, message.content) for number, message in found]


# ── Messages to devices ─────────────────────────────────────────────────────────────────────────────


def test_messages_to_devices_are_numbered_for_each_user_and_read_by_device(
    checked, peer: Peer, alice: User, carol: str
) -> None:
    messages = {alice.user_id: {"PHONE": {"n": 1}, "*": {"n": 2}, "a/b~": {"n": 3}, "sent": {"n": 4}}}
    assert send(checked, peer, "t1", edus=[to(carol, messages)]).json == {"pdus": {}}
    send(checked, peer, "t2", edus=[to(carol, {alice.user_id: {"PHONE": {"n": 5}}}, "m2")])
    assert count_of(alice.user_id) == 5
    phone = load_messages(alice.user_id, "PHONE", 0, most=10)
    assert contents(phone) == [(1, "PHONE", {"n": 1}), (2, "*", {"n": 2}), (5, "PHONE", {"n": 5})]
    assert phone[0][1] == DeviceMessage(alice.user_id, "PHONE", carol, "m.room_key", {"n": 1})
    assert contents(load_messages(alice.user_id, "PHONE", 2, most=10)) == [(5, "PHONE", {"n": 5})]
    assert contents(load_messages(alice.user_id, "PHONE", 0, most=2)) == contents(phone)[:2]
    assert contents(load_messages(alice.user_id, "a/b~", 2, most=10)) == [(3, "a/b~", {"n": 3})]
    assert contents(load_messages(alice.user_id, "sent", 2, most=10)) == [(4, "sent", {"n": 4})]
    assert load_messages(alice.user_id, "a", 2, most=10) == []


def test_a_message_id_of_a_server_is_taken_once(call, peer: Peer, tmp_path, alice: User, carol: str) -> None:
    edus = [to(carol, {alice.user_id: {"PHONE": {"n": 1}}})]
    send(call, peer, "t1", edus=edus)
    send(call, peer, "t2", edus=edus)
    assert count_of(alice.user_id) == 1
    with Peer(tmp_path / "other", key=KEY) as other:
        send(call, other, "t1", edus=[to(f"@eve:{other.name}", {alice.user_id: {"PHONE": {"n": 2}}})])
    assert contents(load_messages(alice.user_id, "PHONE", 0, most=10)) == [
        (1, "PHONE", {"n": 1}),
        (2, "PHONE", {"n": 2}),
    ]


def test_messages_from_users_of_others_and_to_nobody_are_dropped(call, peer: Peer, alice: User, carol: str) -> None:
    to_alice = {alice.user_id: {"PHONE": {}}}
    wrong = [
        to("@mallory:other.test", to_alice), to(alice.user_id, to_alice), to("", to_alice), to(carol, to_alice, ""),
        to(carol, {"@nobody:example.org": {"PHONE": {}}}), to(carol, {"@a:other.test": {"PHONE": {}}}),
        to(carol, {alice.user_id: {"": {}}}), to(carol, {alice.user_id: {"PHONE": "text"}}), to(carol, [alice.user_id]),
        to(carol, to_alice, "m" * 256), to(carol, {alice.user_id: {"PHONE": {"x": "y" * 66_000}}}),
    ]  # fmt: skip
    assert send(call, peer, "t1", edus=wrong).status == 200
    assert list(ToDeviceItem.scan()) == []


def test_messages_are_forgotten_after_thirty_days_and_beyond_a_number_the_oldest_first(
    call, peer: Peer, alice: User, carol: str, monkeypatch
) -> None:
    monkeypatch.setattr(to_device, "MOST_MESSAGES", 60)
    for number in range(5):
        devices = {f"D{n % 3}": {"n": n} for n in range(3)}
        messages = {alice.user_id: {**devices, **{f"E{n}": {} for n in range(27)}}}
        send(call, peer, f"t{number}", edus=[to(carol, messages, f"m{number}")])
    assert count_of(alice.user_id) == 150
    kept = sorted(
        int(row.k.rpartition("/")[2]) for row in ToDeviceItem.query(alice.user_id) if to_device._is_message(row.k)
    )
    assert kept == list(range(91, 151))
    rows = {row.k: row for row in ToDeviceItem.query(alice.user_id)}
    times = {int(row.expires) for key, row in rows.items() if key != "count"}
    assert max(times) - min(times) < 60
    assert min(times) > MONTH_S
    assert rows["count"].expires > max(times) * 2  # numbers never begin anew


def test_more_messages_than_a_transaction_may_have_are_dropped(call, peer: Peer, alice: User, carol: str, monkeypatch):
    monkeypatch.setattr(received_edus, "MOST_DEVICE_MESSAGES", 2)
    send(call, peer, "t1", edus=[to(carol, {alice.user_id: {"A": {}, "B": {}, "C": {}}})])
    assert count_of(alice.user_id) == 2


def test_messages_that_are_stored_at_the_same_time_get_different_numbers(
    call, peer: Peer, alice: User, carol: str, monkeypatch
) -> None:
    commit, raced = to_device.Transaction.commit, []

    def late(self: to_device.Transaction) -> None:
        if not raced:
            raced.append(True)
            monkeypatch.setattr(to_device.Transaction, "commit", commit)
            store_messages("b.test", [DeviceMessage(alice.user_id, "A", "@b:b.test", "x", {"n": 1}, "m")], now_ms=1)
        commit(self)

    monkeypatch.setattr(to_device.Transaction, "commit", late)
    send(call, peer, "t1", edus=[to(carol, {alice.user_id: {"A": {"n": 2}}})])
    assert contents(load_messages(alice.user_id, "A", 0, most=5)) == [(1, "A", {"n": 1}), (2, "A", {"n": 2})]


# ── Presence ────────────────────────────────────────────────────────────────────────────────────────


def push(*updates: dict[str, Any]) -> dict[str, Any]:
    return edu("m.presence", push=list(updates))


def test_presence_of_users_who_share_a_room_is_kept_and_numbered(call, peer: Peer, alice: User, carol: str) -> None:
    stranger = f"@stranger:{peer.name}"
    online = {"presence": "online", "last_active_ago": 5000, "currently_active": True, "status_msg": "here"}
    send(call, peer, "t1", edus=[push({"user_id": carol, **online}, {"user_id": stranger, **online})])
    found = load_presence([carol, stranger])
    assert list(found) == [carol]
    number, presence = found[carol]
    assert (number, presence.presence, presence.status, presence.is_active) == (1, "online", "here", True)
    item = PresenceItem.fetch(carol)
    assert item is not None
    assert presence.last_active_ms is not None
    assert abs(int(item.told) - 5000 - presence.last_active_ms) < 1000
    assert item.expires == item.told // 1000 + MONTH_S
    send(call, peer, "t2", edus=[push({"user_id": carol, **online, "last_active_ago": 6000})])
    assert load_presence([carol])[carol][0] == 1  # nothing new
    send(call, peer, "t3", edus=[push({"user_id": carol, "presence": "offline"})])
    number, presence = load_presence([carol])[carol]
    assert (number, presence.presence, presence.status, presence.last_active_ms) == (2, "offline", None, None)


def test_presence_that_cannot_be_is_dropped(call, peer: Peer, alice: User, carol: str) -> None:
    updates = [
        {"user_id": alice.user_id, "presence": "offline"}, {"user_id": carol}, {"user_id": carol, "presence": "hiding"},
        {"user_id": carol, "presence": ["online"]}, {"user_id": carol, "presence": "online", "status_msg": 5},
        {"user_id": carol, "presence": "online", "status_msg": "x" * 1025}, "carol",
    ]  # fmt: skip
    assert send(call, peer, "t1", edus=[push(*updates)]).status == 200  # type: ignore[arg-type]
    assert list(PresenceItem.scan()) == []


# ── Devices and signing keys ────────────────────────────────────────────────────────────────────────


def device(user_id: str, stream: Any, prev: Any = (), device_id: str = "PHONE", **more: Any) -> dict[str, Any]:
    ids = {"stream_id": stream, "prev_id": list(prev) if isinstance(prev, tuple) else prev}
    return edu("m.device_list_update", user_id=user_id, device_id=device_id, **ids, **more)


def test_what_is_told_of_devices_is_kept_with_a_number_for_each_change(call, peer: Peer, carol: str) -> None:
    keys = {"user_id": carol, "device_id": "PHONE", "keys": {"ed25519:PHONE": "abc"}}
    send(call, peer, "t1", edus=[device(carol, 5, keys=keys, device_display_name="Phone")])
    send(call, peer, "t2", edus=[device(carol, 6, (5,), device_id="TABLET")])
    changes, signing = load_changes(carol, 0)
    assert [(c.number, c.device_id, c.told) for c in changes] == [
        (1, "PHONE", {"device_display_name": "Phone", "keys": keys}),
        (2, "TABLET", {"device_display_name": None, "keys": None}),
    ]
    assert signing is None
    assert [c.device_id for c in load_changes(carol, 1)[0]] == ["TABLET"]
    send(call, peer, "t3", edus=[device(carol, 7, (6,), deleted=True)])
    assert [(c.number, c.device_id, c.told) for c in load_changes(carol, 2)[0]] == [(3, "PHONE", {})]
    # What is older than what is known changes nothing.
    send(call, peer, "t4", edus=[device(carol, 6, (5,))])
    assert load_list(carol).number == 3
    item = RemoteDeviceItem.fetch(carol, "device/PHONE")
    listed = RemoteDeviceItem.fetch(carol, "list")
    assert item is not None
    assert listed is not None
    assert int(item.expires) <= int(listed.expires)
    assert int(item.expires) > MONTH_S


def test_a_change_that_was_missed_leaves_a_hole_until_the_whole_list_was_asked_for(
    call, peer: Peer, carol: str
) -> None:
    send(call, peer, "t1", edus=[device(carol, 5)])
    before = load_list(carol)
    assert (before.number, before.stream, before.needs_asking) == (1, 5, True)  # of the list nothing is known at first
    assert asked(carol, before)
    assert not load_list(carol).needs_asking
    send(call, peer, "t2", edus=[device(carol, 6, (5,), device_id="A")])
    assert not load_list(carol).needs_asking
    send(call, peer, "t3", edus=[device(carol, 9, (8,), device_id="B")])
    after = load_list(carol)
    assert (after.stream, after.needs_asking) == (9, True)
    send(call, peer, "t4", edus=[device(carol, 10, (9,), device_id="C")])
    assert not asked(carol, after)  # more has come since
    assert load_list(carol).needs_asking


def test_devices_beyond_a_number_only_say_that_the_list_must_be_asked_for(
    call, peer: Peer, carol: str, monkeypatch
) -> None:
    monkeypatch.setattr(remote_devices, "MOST_DEVICES", 2)
    for number in range(4):
        prev = (number - 1,) if number else ()
        send(call, peer, f"t{number}", edus=[device(carol, number, prev, device_id=f"D{number}")])
        if number == 0:
            asked(carol, load_list(carol))
    assert [change.device_id for change in load_changes(carol, 0)[0]] == ["D0", "D1"]
    assert (load_list(carol).number, load_list(carol).needs_asking) == (4, True)


def test_signing_keys_are_kept_and_put_together(call, peer: Peer, carol: str) -> None:
    master, own = ({"user_id": carol, "usage": [usage], "keys": {}} for usage in ("master", "self_signing"))
    send(call, peer, "t1", edus=[edu("m.signing_key_update", user_id=carol, master_key=master)])
    send(call, peer, "t2", edus=[edu("m.signing_key_update", user_id=carol, self_signing_key=own)])
    assert load_changes(carol, 1) == ([], {"master_key": master, "self_signing_key": own})
    send(call, peer, "t3", edus=[edu("m.signing_key_update", user_id=carol, master_key=master)])
    assert load_list(carol).number == 2


def test_devices_and_keys_of_users_of_others_or_whom_nobody_shares_a_room_with_are_dropped(
    call, peer: Peer, alice: User, carol: str
) -> None:
    stranger = f"@stranger:{peer.name}"
    edus = [device(user, 1) for user in (alice.user_id, "@x:other.test", stranger, "no user")]
    edus += [edu("m.signing_key_update", user_id=user, master_key={}) for user in (alice.user_id, stranger)]
    edus += [
        device(carol, "1"),
        device(carol, True),
        device(carol, 1, "x"),
        device(carol, 1, ["x"]),
    ]
    edus += [device(carol, 1, device_id=""), device(carol, 1, keys="x"), device(carol, 1, deleted="yes")]
    edus += [edu("m.signing_key_update", user_id=carol, master_key="x"), edu("m.signing_key_update", user_id=carol)]
    assert send(call, peer, "t1", edus=edus).status == 200
    assert list(RemoteDeviceItem.scan()) == []


# ── Crashes ─────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_to_be_kept_is_kept_once_wherever_the_receiver_is_stopped(
    call, peer: Peer, alice: User, carol: str
) -> None:
    bob = register("bob")

    def transaction(number: int) -> Callable[[], Any]:
        messages = {alice.user_id: {"A": {"n": number}}, bob.user_id: {"B": {"n": number}}}
        edus = [
            to(carol, messages, f"m{number}"),
            device(carol, number, (number - 1,)),
            push({"user_id": carol, "presence": "online"}),
        ]
        edus.append(edu("m.signing_key_update", user_id=carol, master_key={"n": number}))
        return lambda: send(call, peer, f"t{number}", edus=edus)

    points = points_of(transaction(1))
    assert {"to_device.before", "remote_devices.before", "edus.stored"} <= set(points)
    number = 1
    for point in dict.fromkeys(points):
        for passes in range(points.count(point)):
            number += 1
            cut_off(point, transaction(number), passes)
            assert transaction(number)().status == 200
    for user, name in ((alice, "A"), (bob, "B")):
        assert [m.content["n"] for _, m in load_messages(user.user_id, name, 0, most=1000)] == list(
            range(1, number + 1)
        )
    assert load_list(carol).number == 2 * number
    assert load_changes(carol, 0)[1] == {"master_key": {"n": number}}
