"""PUT /send: what is taken, what is refused, and that nothing is lost or done twice."""

import json
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK, signed
from functions.harness import Answer, User, invoke, payload
from functions.remote_server import KEY, RemoteServer, head_of
from functions.rooms import create_room, messages, post, set_state, texts
from functions.transactions import (
    FUNCTION,
    SEND,
    Elsewhere,
    Federated,
    Inbound,
    cut_off,
    line,
    pdu_of,
    points_of,
    send,
    staged_keys,
)
from homeserver.matrix.signing import SigningKey
from homeserver.storage.connection import connection
from homeserver.storage.received_transactions import ReceivedTransaction, read_ledger


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path, key=KEY) as running:
        yield running


@pytest.fixture
def room_id(alice: User, inbound: Inbound, elsewhere: Elsewhere) -> str:
    return create_room(alice, preset="public_chat", room_version="11")


@pytest.fixture
def remote(room_id: str, peer: Peer) -> RemoteServer:
    """The peer's users in the room: carol is joined."""
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    return remote


def bodies(user: User, room_id: str) -> list[str | None]:
    return texts(messages(user, room_id, dir="f").json["chunk"])


# ── What is taken ───────────────────────────────────────────────────────────────────────────────────


def test_a_message_of_another_server_is_answered_at_once_and_in_the_room_after_the_worker(
    checked, fed: Federated, alice: User
) -> None:
    event = fed.remote.say(fed.remote.user("carol"), "hello")
    answer = send(checked, fed.peer, "t1", [pdu_of(event)])
    assert (answer.status, answer.json) == (200, {"pdus": {event.event_id: {}}})
    assert bodies(alice, fed.room_id) == []
    assert staged_keys(fed.room_id) == ["pdu"]
    assert fed.inbound.work() == 1
    assert bodies(alice, fed.room_id) == ["hello"]
    assert staged_keys(fed.room_id) == []


@pytest.mark.parametrize("version", ["1", "3", "6", "9", "12"])
def test_pdus_are_answered_by_the_event_ids_of_their_room_version(
    checked, fed: Federated, alice: User, version: str
) -> None:
    room_id = create_room(alice, preset="public_chat", room_version=version)
    remote = RemoteServer(room_id, fed.peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    events = line(remote, remote.user("carol"), 2)
    answer = send(checked, fed.peer, "t1", [pdu_of(event) for event in events])
    assert answer.json == {"pdus": {event.event_id: {} for event in events}}
    fed.inbound.work()
    assert bodies(alice, room_id) == ["message 0", "message 1"]


def test_an_empty_transaction_one_without_lists_and_one_with_ts_are_taken(
    checked, peer: Peer, inbound: Inbound
) -> None:
    empty = {"pdus": {}}
    assert send(checked, peer, "t1").json == empty
    for number, body in enumerate(({"ts": 1}, {"origin": peer.name}, {"pdus": [], "ts": 1}, {"edus": None})):
        answer = signed(checked, peer, FUNCTION, "PUT", f"{SEND}/more{number}", body=body)
        assert (answer.status, answer.json) == (200, empty)
    assert inbound.work() == 0
    assert set(read_ledger(peer.name, ["t1", "more0", "more1", "more2", "more3", "t9"]).taken) == {
        "t1", "more0", "more1", "more2", "more3",
    }  # fmt: skip


def test_a_slash_behind_the_transaction_id_changes_nothing(call, peer: Peer, inbound: Inbound) -> None:
    body = {"origin": peer.name, "origin_server_ts": 1, "pdus": []}
    assert signed(call, peer, FUNCTION, "PUT", f"{SEND}/t1/", body=body).status == 200
    assert list(read_ledger(peer.name, ["t1", "t1/"]).taken) == ["t1"]


def test_a_transaction_is_read_in_one_round_however_many_rooms_it_is_about(
    call, fed: Federated, alice: User, monkeypatch
) -> None:
    pdus = []
    for _ in range(5):
        room_id = create_room(alice, preset="public_chat")
        assert set_state(alice, room_id, "m.room.server_acl", {"allow": ["*"]}).status == 200
        remote = RemoteServer(room_id, fed.peer.name)
        remote.accepted(remote.join(remote.user("carol")))
        pdus.append(pdu_of(remote.say(remote.user("carol"), "hello")))
    send(call, fed.peer, "before")  # whose signature is checked with a key that is fetched
    calls: list[str] = []
    dispatch = connection()._make_api_call

    def counted(operation: str, request: dict[str, object]) -> dict[str, object]:
        calls.append(operation)
        return dispatch(operation, request)

    monkeypatch.setattr(connection(), "_make_api_call", counted)
    assert list(send(call, fed.peer, "t1", pdus).json["pdus"].values()) == [{}] * 5
    assert [name for name in calls if name in {"BatchGetItem", "Query"}] == ["BatchGetItem"]


# ── What is refused ─────────────────────────────────────────────────────────────────────────────────


def errors(answer: Answer) -> dict[str, str]:
    assert answer.status == 200
    return {name: result.get("error", "") for name, result in answer.json["pdus"].items()}


def test_a_pdu_of_2014_is_refused_by_its_own_name_and_the_others_are_taken(call, fed: Federated, alice: User) -> None:
    old = {
        "pdu_id": "p1", "origin": fed.peer.name, "context": fed.room_id, "pdu_type": "m.room.message", "ts": 1,
        "prev_pdus": [["p0", fed.peer.name]], "user_id": fed.remote.user("carol"), "content": {"body": "unsigned"},
    }  # fmt: skip
    event = fed.remote.say(fed.remote.user("carol"), "signed")
    answer = send(call, fed.peer, "t1", [old, {**old, "pdu_id": "p2", "origin": 5}, pdu_of(event)])
    assert errors(answer) == {
        f"p1@{fed.peer.name}": "unsupported unsigned PDU format",
        f"p2@{fed.peer.name}": "unsupported unsigned PDU format",
        event.event_id: "",
    }
    fed.inbound.work()
    assert bodies(alice, fed.room_id) == ["signed"]


def test_a_room_that_this_server_does_not_know_or_is_no_longer_in_takes_nothing(
    checked, fed: Federated, alice: User
) -> None:
    unknown = fed.remote.say(fed.remote.user("carol"), "where?")
    late = fed.remote.say(fed.remote.user("carol"), "too late")
    assert post(alice, fed.room_id, "leave").status == 200
    answer = send(
        checked, fed.peer, "t1", [{**pdu_of(unknown), "room_id": "!nowhere:example.org"}, pdu_of(late), {"type": "x"}]
    )
    assert sorted(errors(answer).values()) == [
        "The event has no room ID.",
        "This server is not in this room.",
        "This server is not in this room.",
    ]
    assert errors(answer)[late.event_id] == "This server is not in this room."
    assert fed.inbound.work() == 0
    assert staged_keys(fed.room_id) == staged_keys("!nowhere:example.org") == []


def test_what_is_no_object_too_large_or_no_event_is_not_stored(
    checked, peer: Peer, room_id: str, remote: RemoteServer, inbound: Inbound
) -> None:
    # What is redacted away is in no reference hash: the ID stays.
    large = remote.say(remote.user("carol"), "large")
    many = {**pdu_of(remote.say(remote.user("carol"), "many")), "prev_events": ["$" + "a" * 43] * 21}
    answer = send(
        checked, peer, "t1", ["a string", None, 5, {**pdu_of(large), "content": {"body": "x" * 66_000}}, many]
    )
    found = errors(answer)
    assert found.pop(large.event_id).startswith("check 1: The event has 66")
    assert list(found.values()) == ["check 1: prev_events has more than 20 entries"]
    assert staged_keys(room_id) == []
    assert inbound.work() == 0


def test_a_server_that_the_rooms_acl_bans_gets_nothing_into_it(checked, fed: Federated, alice: User, caplog) -> None:
    assert set_state(alice, fed.room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["localhost"]}).status == 200
    event = fed.remote.say(fed.remote.user("carol"), "let me in", prev=[fed.remote.tips()[0]])
    answer = send(checked, fed.peer, "t1", [pdu_of(event)])
    assert errors(answer) == {event.event_id: "The server ACL of this room shuts your server out."}
    assert staged_keys(fed.room_id) == []
    assert set_state(alice, fed.room_id, "m.room.server_acl", {"allow": ["*"], "deny": []}).status == 200
    assert errors(send(checked, fed.peer, "t2", [pdu_of(event)])) == {event.event_id: ""}


def test_more_than_fifty_pdus_or_a_hundred_edus_are_refused_whole(
    checked, peer: Peer, room_id: str, remote: RemoteServer, inbound: Inbound
) -> None:
    event = pdu_of(remote.say(remote.user("carol"), "one"))
    for more in ({"pdus": [event] * 51}, {"edus": [{"edu_type": "m.nothing", "content": {}}] * 101}):
        answer = send(checked, peer, "t1", **more)
        assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    assert send(checked, peer, "t1", [event] * 50).status == 200
    assert staged_keys(room_id) == ["pdu"]  # fifty times the same one


@pytest.mark.parametrize(
    "more",
    [
        {"pdus": {}}, {"pdus": "x"}, {"edus": {}}, {"origin_server_ts": "now"}, {"ts": 1.5}, {"prev_ids": "t0"},
        {"prev_ids": [5]}, {"prev_ids": [""]}, {"prev_ids": ["t"] * 51}, {"prev_ids": ["t" * 256]},
    ],
)  # fmt: skip
def test_a_transaction_of_the_wrong_shape_is_refused(call, peer: Peer, inbound: Inbound, more) -> None:
    body = {"origin": peer.name, "origin_server_ts": 1, "pdus": [], **more}
    try:
        answer = signed(call, peer, FUNCTION, "PUT", f"{SEND}/t1", body=body)
    except ValueError:  # a float has no canonical JSON, so nobody can sign it
        answer = call(FUNCTION, "PUT", f"{SEND}/t1", body)
        assert (answer.status, answer.errcode) == (401, "M_UNAUTHORIZED")
        return
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    assert read_ledger(peer.name, ["t1"]).taken == {}


def test_a_body_that_is_no_object_or_is_missing_is_refused(call, peer: Peer, inbound: Inbound) -> None:
    for body in ([], "text"):
        answer = signed(call, peer, FUNCTION, "PUT", f"{SEND}/t1", body=json.dumps(body) if body == [] else body)
        assert answer.status in {400, 401}
    headers = {"authorization": peer.header("PUT", f"{SEND}/t1", "example.org", [])}
    answer = call(FUNCTION, "PUT", f"{SEND}/t1", b"[]", headers=headers)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    headers = {"authorization": peer.header("PUT", f"{SEND}/t1", "example.org")}
    answer = call(FUNCTION, "PUT", f"{SEND}/t1", b"", headers=headers)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


def test_a_transaction_in_the_name_of_another_server_is_forbidden(checked, peer: Peer, inbound: Inbound) -> None:
    answer = send(checked, peer, "t1", origin="other.test")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert read_ledger(peer.name, ["t1"]).taken == read_ledger("other.test", ["t1"]).taken == {}


def test_a_transaction_id_of_more_than_255_bytes_is_refused(checked, peer: Peer, inbound: Inbound) -> None:
    answer = send(checked, peer, "t" * 256)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert send(checked, peer, "t" * 255).status == 200


# ── Attacks ─────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_is_heard_without_a_signature_or_with_a_wrong_one(
    call, peer: Peer, room_id: str, remote: RemoteServer, inbound: Inbound
) -> None:
    body = {"origin": peer.name, "origin_server_ts": 1, "pdus": [pdu_of(remote.say(remote.user("carol"), "x"))]}
    uri = f"{SEND}/t1"
    right = peer.header("PUT", uri, "example.org", body)
    other_key = SigningKey.generate("r1", b"o" * 32)
    headers = {
        "none": {},
        "another key": {"authorization": peer.header("PUT", uri, "example.org", body, key=other_key)},
        "another transaction": {"authorization": peer.header("PUT", f"{SEND}/t2", "example.org", body)},
        "another method": {"authorization": peer.header("POST", uri, "example.org", body)},
        "another body": {"authorization": peer.header("PUT", uri, "example.org", {**body, "pdus": []})},
        "another destination": {"authorization": peer.header("PUT", uri, "other.test", body)},
        "another origin": {"authorization": right.replace(peer.name, "localhost:1")},
    }
    for what, one in headers.items():
        answer = call(FUNCTION, "PUT", uri, body, headers=one)
        assert (what, answer.status, answer.errcode) == (what, 401, "M_UNAUTHORIZED")
    assert staged_keys(room_id) == []
    assert read_ledger(peer.name, ["t1", "t2"]).taken == {}
    assert call(FUNCTION, "PUT", uri, body, headers={"authorization": right}).status == 200


def test_json_that_is_too_deep_to_be_signed_is_refused_whole(call, peer: Peer, room_id: str, inbound: Inbound) -> None:
    deep: object = "end"
    for _ in range(250):
        deep = [deep]
    headers = {"authorization": peer.header("PUT", f"{SEND}/t1", "example.org", {})}
    body = {"origin": peer.name, "pdus": [{"room_id": room_id, "content": deep}]}
    answer = call(FUNCTION, "PUT", f"{SEND}/t1", json.dumps(body), headers=headers)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    deepest = "[" * 5000 + "]" * 5000
    answer = call(FUNCTION, "PUT", f"{SEND}/t1", deepest, headers=headers)
    assert (answer.status, answer.errcode) == (400, "M_NOT_JSON")


def test_a_replayed_request_is_answered_again_and_does_nothing(call, fed: Federated, alice: User) -> None:
    event = fed.remote.say(fed.remote.user("carol"), "once")
    first = send(call, fed.peer, "t1", [pdu_of(event)])
    fed.inbound.work()
    again = send(call, fed.peer, "t1", [pdu_of(event)])
    assert (again.status, again.json) == (first.status, first.json)
    assert staged_keys(fed.room_id) == []
    assert fed.inbound.work() == 0
    assert bodies(alice, fed.room_id) == ["once"]


def test_another_body_under_a_known_id_is_answered_as_the_first_one_and_logged(call, fed: Federated, caplog) -> None:
    first, second = line(fed.remote, fed.remote.user("carol"), 2)
    assert send(call, fed.peer, "t1", [pdu_of(first)]).json == {"pdus": {first.event_id: {}}}
    with caplog.at_level("WARNING", "eigenserver"):
        assert send(call, fed.peer, "t1", [pdu_of(second)]).json == {"pdus": {first.event_id: {}}}
    assert "sends another transaction under the ID t1" in caplog.text
    assert staged_keys(fed.room_id) == ["pdu"]


def test_two_servers_may_use_the_same_transaction_id(call, fed: Federated, tmp_path) -> None:
    with Peer(tmp_path / "other", key=SigningKey.generate("r1", b"2" * 32)) as other:
        assert send(call, other, "t1").json == {"pdus": {}}
        event = fed.remote.say(fed.remote.user("carol"), "mine")
        assert send(call, fed.peer, "t1", [pdu_of(event)]).json == {"pdus": {event.event_id: {}}}


def test_the_recorded_payload_is_refused_because_its_server_is_nowhere() -> None:
    answer = invoke(FUNCTION, payload("federation_transactions_send"))
    assert (answer.status, answer.errcode) == (401, "M_UNAUTHORIZED")


# ── Crashes ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_receiver_that_is_stopped_anywhere_loses_nothing_and_does_nothing_twice(
    call, fed: Federated, alice: User
) -> None:
    carol = fed.remote.user("carol")
    probe = fed.remote.say(carol, "probe")
    points = points_of(lambda: send(call, fed.peer, "probe", [pdu_of(probe)]))
    fed.inbound.work()
    assert {"pdus.before_staging", "pdus.staged", "pdus.woken", "transaction.taken", "transaction.noted"} <= set(points)
    said = ["probe"]
    for number, point in enumerate(dict.fromkeys(points)):
        event = fed.remote.say(carol, point)
        try:
            cut_off(point, lambda event=event, number=number: send(call, fed.peer, f"t{number}", [pdu_of(event)]))
        finally:
            fed.inbound.work()  # the worker may come in between
        answer = send(call, fed.peer, f"t{number}", [pdu_of(event)])
        assert answer.json == {"pdus": {event.event_id: {}}}
        fed.inbound.work()
        said.append(point)
        assert bodies(alice, fed.room_id) == said
        assert staged_keys(fed.room_id) == []
    position = head_of(fed.room_id).position
    assert len(messages(alice, fed.room_id, dir="f").json["chunk"]) == position


def test_what_the_ledger_holds_is_forgotten_after_a_week(call, peer: Peer, inbound: Inbound) -> None:
    send(call, peer, quote("t1", safe=""))
    item = ReceivedTransaction.fetch(peer.name, "txn/t1")
    assert item is not None
    assert item.expires - item.arrived // 1000 == 7 * 24 * 3600
