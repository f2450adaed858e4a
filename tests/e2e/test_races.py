"""Races, on a kind server and on servers that are as unkind as AWS may be.

An unkind server (`UNKIND_SEED`) answers eventually consistent reads with what was, tears reads beside transactions,
cancels transactions, and redelivers, splits and interleaves its streams. Every assertion holds there too.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from e2e.client import PASSWORD, V3, Answer, Client, at_once, is_message, segments
from e2e.local_run import SERVER_NAME, Server
from e2e.racing import race_on, servers

SENDERS = 16
MESSAGES = 6  # of each sender
_names = itertools.count(1)


@pytest.fixture(scope="session", params=servers("races", {"": "a", "1": "a", "2": "b", "3": "b"}))
def racing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server to race on."""
    with race_on(tmp_path_factory.mktemp("racing"), request.param) as server:
        yield server


@pytest.fixture
def register(racing: Server) -> Callable[[str], Client]:
    return lambda name: racing.register(f"{name}{next(_names)}")


def test_sixteen_senders_lose_and_repeat_nothing(register: Callable[[str], Client]) -> None:
    users = [register("sender") for _ in range(SENDERS)]
    owner, watchers = users[0], users[1:4]
    room_id = owner.create_room(preset="public_chat")
    at_once(*(partial(user.join, room_id) for user in users[1:]))
    expected = {f"{user.user_id} {number}" for user in users for number in range(MESSAGES)}
    for user in (owner, *watchers):
        user.sync()

    def talk(user: Client) -> list[str]:
        return [user.send(room_id, f"{user.user_id} {number}") for number in range(MESSAGES)]

    def watch(user: Client) -> list[str]:
        user.sync_until(lambda: set(user.bodies(room_id)) == expected, seconds=40)
        return user.ids(room_id)

    results = at_once(*(partial(talk, user) for user in users), *(partial(watch, user.twin()) for user in watchers))
    sent = [event_id for ids in results[:SENDERS] for event_id in ids]
    events = owner.history(room_id)
    messages = [event for event in events if is_message(event)]
    assert sorted(event["event_id"] for event in messages) == sorted(sent)
    assert {event["content"]["body"] for event in messages} == expected
    assert len(messages) == SENDERS * MESSAGES
    for user in users:  # one person's messages keep the order in which they were answered
        own = [e["content"]["body"] for e in messages if e["sender"] == user.user_id]
        assert own == [f"{user.user_id} {number}" for number in range(MESSAGES)]
    order = [event["event_id"] for event in events]
    for told in results[SENDERS:]:
        start = order.index(told[0])
        assert told == order[start : start + len(told)]
        assert order[start + len(told) :] == []
    owner.catch_up(room_id, events)


def test_one_transaction_sent_eight_times_at_once_is_one_event(register: Callable[[str], Client]) -> None:
    alice = register("alice")
    room_id = alice.create_room()
    alice.sync()
    devices = [alice.twin() for _ in range(8)]
    ids = at_once(*(partial(device.send, room_id, "once", "same") for device in devices))
    assert len(set(ids)) == 1
    assert alice.send(room_id, "once", "same") == ids[0]
    events = alice.history(room_id)
    assert [event["event_id"] for event in events if is_message(event)] == [ids[0]]
    alice.catch_up(room_id, events)


def test_nothing_follows_a_ban_that_races_it(register: Callable[[str], Client]) -> None:
    alice, bob, carol = register("alice"), register("bob"), register("carol")
    room_id = alice.create_room(preset="public_chat")
    carol.join(room_id)
    carol.sync()
    answers: list[Answer] = []
    for number in range(10):
        bob.join(room_id)
        second = bob.twin()
        ban, *sends = at_once(
            partial(alice.act, room_id, "ban", user_id=bob.user_id),
            partial(bob.try_send, room_id, f"{number} a"),
            partial(second.try_send, room_id, f"{number} b"),
        )
        assert ban.status == 200, ban
        assert {answer.status for answer in sends} <= {200, 403}, sends
        assert all(answer.errcode == "M_FORBIDDEN" for answer in sends if answer.status == 403)
        answers += sends
        assert alice.act(room_id, "unban", user_id=bob.user_id).status == 200
    events = alice.history(room_id)
    membership = "leave"
    for event in events:
        if event["type"] == "m.room.member" and event["state_key"] == bob.user_id:
            membership = event["content"]["membership"]
        elif event["sender"] == bob.user_id:
            assert membership == "join", "an event of a user who is not in the room"
    accepted = {answer.json["event_id"] for answer in answers if answer.status == 200}
    assert accepted == {event["event_id"] for event in events if event["sender"] == bob.user_id and is_message(event)}
    carol.catch_up(room_id, events)


def test_joins_leaves_and_kicks_of_one_user_make_one_story(register: Callable[[str], Client]) -> None:
    alice, bob, carol = register("alice"), register("bob"), register("carol")
    room_id = alice.create_room(preset="public_chat")
    carol.join(room_id)
    carol.sync()
    second = bob.twin()

    def story(client: Client, action: str, **body: str) -> set[int]:
        return {client.act(room_id, action, **body).status for _ in range(6)}

    statuses = at_once(
        partial(story, bob, "join"),
        partial(story, second, "leave"),
        partial(story, alice, "kick", user_id=bob.user_id),
    )
    assert statuses[0] == {200}
    assert set().union(*statuses) <= {200, 403}
    events = alice.history(room_id)
    membership = None
    for event in events:
        if event["type"] == "m.room.member" and event["state_key"] == bob.user_id:
            before = event["unsigned"].get("prev_content", {}).get("membership")
            assert before == membership, "an event that replaces another than the one before it"
            after = event["content"]["membership"]
            assert (before, after) in {(None, "join"), ("join", "leave"), ("leave", "join")}
            membership = after
    assert alice.state(room_id)["m.room.member", bob.user_id]["content"]["membership"] == membership
    assert (room_id in bob.ok("GET", f"{V3}/joined_rooms")["joined_rooms"]) == (membership == "join")
    joined = alice.ok("GET", segments("rooms", room_id, "joined_members"))["joined"]
    assert (bob.user_id in joined) == (membership == "join")
    carol.catch_up(room_id, events)
    bob.join(room_id)
    event_id = alice.send(room_id, "after all that")
    bob.sync_until(lambda: event_id in bob.ids(room_id))


def test_who_comes_and_goes_is_told_each_event_once(register: Callable[[str], Client]) -> None:
    alice, bob = register("alice"), register("bob")
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    bob.sync()
    for number in range(5):
        alice.send(room_id, f"{number} while bob is there")
        if number % 2:
            bob.sync()
        assert bob.act(room_id, "leave").status == 200
        bob.sync_until(lambda: bob.seen[room_id][-1]["content"].get("membership") == "leave")
        alice.send(room_id, f"{number} while bob is away")
        bob.join(room_id)
        bob.sync_until(lambda: bob.seen[room_id][-1]["content"].get("membership") == "join")
    # History is shared with who joins later: bob may read what was said while he was away.
    bob.catch_up(room_id, alice.history(room_id))


def test_one_of_many_rooms_gets_the_alias(register: Callable[[str], Client]) -> None:
    users = [register("founder") for _ in range(6)]
    name = f"town{next(_names)}"
    answers = at_once(
        *(partial(user.ask, "POST", f"{V3}/createRoom", {"room_alias_name": name, "name": name}) for user in users)
    )
    assert sorted(answer.status for answer in answers) == [200] + [400] * 5
    assert {answer.errcode for answer in answers} == {None, "M_ROOM_IN_USE"}
    room_id = next(answer.json["room_id"] for answer in answers if answer.status == 200)
    found = users[0].ok("GET", segments("directory", "room", f"#{name}:{SERVER_NAME}"))
    assert found == {"room_id": room_id, "servers": [SERVER_NAME]}
    rooms = [user.ok("GET", f"{V3}/joined_rooms")["joined_rooms"] for user in users]
    assert sorted(map(len, rooms)) == [0] * 5 + [1]
    assert [room_id] in rooms


def test_account_data_written_at_once_all_arrives(register: Callable[[str], Client]) -> None:
    alice = register("alice")
    alice.send(alice.create_room(), "so that there is something")
    alice.sync()
    devices = [alice.twin() for _ in range(6)]

    def write(device: Client, number: int) -> None:
        for value in range(4):
            for kind in ("shared", f"own.{number}"):
                device.ok(
                    "PUT",
                    segments("user", alice.user_id, "account_data", f"org.example.{kind}"),
                    {"by": number, "value": value},
                )

    told: dict[str, dict] = {}

    def follow() -> None:
        for event in alice.sync(timeout=0.5).get("account_data", {}).get("events", ()):
            told[event["type"]] = event["content"]

    at_once(*(partial(write, device, number) for number, device in enumerate(devices)))
    kinds = {"org.example.shared", *(f"org.example.own.{number}" for number in range(6))}
    stored = {kind: alice.ok("GET", segments("user", alice.user_id, "account_data", kind)) for kind in kinds}
    assert all(stored[f"org.example.own.{number}"] == {"by": number, "value": 3} for number in range(6))
    assert stored["org.example.shared"]["value"] == 3
    for _ in range(20):
        follow()
        if told == stored:
            break
    assert told == stored


def test_one_of_many_gets_the_user_name(racing: Server) -> None:
    name = f"wanted{next(_names)}"
    clients = [racing.client() for _ in range(8)]
    body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    answers = at_once(*(partial(client.ask, "POST", f"{V3}/register", body) for client in clients))
    assert sorted(answer.status for answer in answers) == [200] + [400] * 7
    assert {answer.errcode for answer in answers} == {None, "M_USER_IN_USE"}
    winner = next(answer for answer in answers if answer.status == 200)
    whoami = clients[0].ask("GET", f"{V3}/account/whoami", token=winner.json["access_token"])
    assert whoami.json["device_id"] == winner.json["device_id"]
    devices = clients[0].ask("GET", f"{V3}/devices", token=winner.json["access_token"]).json["devices"]
    assert [device["device_id"] for device in devices] == [winner.json["device_id"]]


def test_of_many_refreshes_at_once_one_pair_of_tokens_is_left(racing: Server) -> None:
    with racing.client() as client:
        client.register(f"fresh{next(_names)}", refresh_token=True)
        others = [racing.client() for _ in range(6)]
        body = {"refresh_token": client.refresh_token}
        answers = at_once(*(partial(other.ask, "POST", f"{V3}/refresh", body) for other in others))
        assert [answer.status for answer in answers] == [200] * 6
        # The pair before lives on until one of the new tokens is used.
        assert client.ask("GET", f"{V3}/account/whoami").status == 200
        whoami = [client.ask("GET", f"{V3}/account/whoami", token=answer.json["access_token"]) for answer in answers]
        assert sorted(answer.status for answer in whoami) == [200] + [401] * 5
        assert {answer.errcode for answer in whoami} == {None, "M_UNKNOWN_TOKEN"}
        assert client.ask("POST", f"{V3}/refresh", body).errcode == "M_UNKNOWN_TOKEN"
