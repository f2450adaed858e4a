"""Events, states and keys as the draft of 2014 would have shown them, for other servers."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from federation_peer import Peer
from functions import rooms
from functions.federating import LOOPBACK, signed
from functions.harness import SERVER_NAME, Answer, User, call, invoke, payload
from functions.remote_server import KEY, RemoteServer
from functions.rooms import create_room, put, set_state
from homeserver.adapters import signing_key as adapter
from homeserver.matrix import unpadded_base64
from homeserver.matrix.signing import verify_signed_json
from homeserver.services import seed_views
from homeserver.services.clock import now_ms

pytestmark = pytest.mark.usefixtures("set_up")
FUNCTION = "federation_query"
BASE = "/_matrix/federation/v1"
NOT_FOUND, FORBIDDEN, UNKNOWN = (404, "M_NOT_FOUND"), (403, "M_FORBIDDEN"), (404, "M_UNRECOGNIZED")


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK, LEGACY_SEED_VIEWS="on")
    with Peer(tmp_path / "peer", key=KEY) as running:
        yield running


def ask(peer: Peer, *segments: str, query: str = "") -> Answer:
    uri = f"{BASE}/{'/'.join(quote(segment, safe='') for segment in segments)}/{query}"
    return signed(call, peer, FUNCTION, "GET", uri)


def say(user: User, room_id: str, text: str) -> str:
    (event_id,) = rooms.say(user, room_id, text)
    return event_id


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def pdus(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer
    assert answer.json.keys() == {"origin", "ts", "pdus", "prev_ids"}
    assert (answer.json["origin"], answer.json["prev_ids"]) == (SERVER_NAME, [])
    assert now_ms() - 60_000 < answer.json["ts"] <= now_ms()
    found: list[dict[str, Any]] = answer.json["pdus"]
    return found


@pytest.fixture
def room_id(alice: User) -> str:
    return create_room(alice, preset="public_chat", room_version="11", name="Tea")


@pytest.fixture
def remote(peer: Peer, room_id: str) -> RemoteServer:
    """The peer's users in the room: Carol, who is joined."""
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    return remote


def test_a_message_is_shown_with_the_server_of_its_parent(peer: Peer, alice: User, remote: RemoteServer) -> None:
    carol = remote.user("carol")
    before = remote.say(carol, "hello")
    remote.accepted(before)
    waves = say(alice, remote.room_id, "waves")
    (view,) = pdus(ask(peer, "pdu", SERVER_NAME, waves))
    ts = view.pop("ts")
    assert abs(ts - now_ms()) < 60_000
    assert view == {
        "pdu_id": waves,
        "origin": SERVER_NAME,
        "context": remote.room_id,
        "pdu_type": "m.room.message",
        "prev_pdus": [[before.event_id, peer.name]],
        "depth": before.depth + 1,
        "is_state": False,
        "user_id": alice.user_id,
        "content": {"msgtype": "m.text", "body": "waves"},
    }


def test_a_state_event_is_shown_with_levels_and_what_it_replaced(peer: Peer, alice: User, remote: RemoteServer) -> None:
    first = set_state(alice, remote.room_id, "m.room.topic", {"topic": "one"}).json["event_id"]
    levels = {"users": {alice.user_id: 100, remote.user("carol"): 60}, "events": {"m.room.topic": 55}}
    assert put(alice, remote.room_id, "state", "m.room.power_levels", "", body=levels).status == 200
    second = remote.topic(remote.user("carol"), "two")
    remote.accepted(second)
    (view,) = pdus(ask(peer, "pdu", peer.name, second.event_id))
    shown = ("is_state", "state_key", "power_level", "required_power_level", "prev_state_id", "prev_state_origin")
    assert [view[key] for key in shown] == [True, "", 60, 55, first, SERVER_NAME]
    (view,) = pdus(ask(peer, "pdu", SERVER_NAME, first))
    assert [view.get(key) for key in shown] == [True, "", 100, 50, None, None]


def test_a_pdu_of_another_server_a_hidden_and_a_made_up_one_are_not_found(
    peer: Peer, alice: User, remote: RemoteServer
) -> None:
    waves = say(alice, remote.room_id, "waves")
    assert refusal(ask(peer, "pdu", peer.name, waves)) == NOT_FOUND
    assert refusal(ask(peer, "pdu", SERVER_NAME, "$nothing")) == NOT_FOUND
    assert refusal(ask(peer, "pdu", SERVER_NAME, "nothing")) == NOT_FOUND
    private = create_room(alice, preset="private_chat")
    said = say(alice, private, "private")
    assert refusal(ask(peer, "pdu", SERVER_NAME, said)) == NOT_FOUND


def test_what_was_said_before_the_server_came_is_hidden_where_the_room_hides_it(peer: Peer, alice: User) -> None:
    hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = create_room(alice, preset="public_chat", room_version="11", initial_state=[hidden])
    before = say(alice, room_id, "before")
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    after = say(alice, room_id, "after")
    assert refusal(ask(peer, "pdu", SERVER_NAME, before)) == NOT_FOUND
    assert pdus(ask(peer, "pdu", SERVER_NAME, after))[0]["content"]["body"] == "after"
    texts = [view["content"]["body"] for view in pdus(ask(peer, "context", room_id)) if "body" in view["content"]]
    assert texts == ["after"]


def test_an_event_id_with_slashes_is_found(peer: Peer, alice: User) -> None:
    # Room version 3 has IDs in plain base64: some have a slash before long.
    room_id = create_room(alice, preset="public_chat", room_version="3")
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    slashed = next(said for said in (say(alice, room_id, f"{n}") for n in range(40)) if "/" in said)
    (view,) = pdus(ask(peer, "pdu", SERVER_NAME, slashed))
    assert view["pdu_id"] == slashed


def test_the_context_is_the_room_in_its_order(peer: Peer, alice: User, remote: RemoteServer) -> None:
    last = [say(alice, remote.room_id, f"{number}") for number in range(3)]
    views = pdus(ask(peer, "context", remote.room_id))
    assert [view["pdu_id"] for view in views[-3:]] == last
    assert [view["pdu_type"] for view in views[:3]] == ["m.room.create", "m.room.member", "m.room.power_levels"]
    assert [view["depth"] for view in views] == list(range(1, len(views) + 1))
    known = {view["pdu_id"]: view["origin"] for view in views}
    assert [view["prev_pdus"] for view in views[1:]] == [[[i, known[i]]] for i in list(known)[:-1]]
    joined = next(view for view in views if view["user_id"] == remote.user("carol"))
    assert (joined["origin"], joined["power_level"], "prev_state_id" in joined) == (peer.name, 0, False)


def test_a_long_context_ends_at_a_hundred_events_and_at_its_size(
    peer: Peer, alice: User, remote: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_views, "MOST_EVENTS", 4)
    last = [say(alice, remote.room_id, f"{number}") for number in range(4)]
    views = pdus(ask(peer, "context", remote.room_id))
    assert [view["pdu_id"] for view in views] == last
    assert views[0]["prev_pdus"][0][1] == peer.name  # of a parent that is not in the answer
    monkeypatch.setattr(seed_views, "MOST_BYTES", 1000)
    assert [view["pdu_id"] for view in pdus(ask(peer, "context", remote.room_id))] == last[-2:]


def test_the_state_is_the_current_one(
    peer: Peer, alice: User, remote: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_state(alice, remote.room_id, "m.room.topic", {"topic": "one"})
    second = set_state(alice, remote.room_id, "m.room.topic", {"topic": "two"}).json["event_id"]
    monkeypatch.setattr(seed_views, "_STATES_AT_ONCE", 3)
    views = {(view["pdu_type"], view["state_key"]): view for view in pdus(ask(peer, "state", remote.room_id))}
    topic = views["m.room.topic", ""]
    assert (topic["pdu_id"], topic["power_level"], topic["required_power_level"]) == (second, 100, 50)
    assert topic["prev_state_origin"] == SERVER_NAME
    assert {view["is_state"] for view in views.values()} == {True}
    members = [key for event_type, key in views if event_type == "m.room.member"]
    assert sorted(members) == sorted([alice.user_id, remote.user("carol")])
    monkeypatch.setattr(seed_views, "MOST_STATE", 3)
    assert refusal(ask(peer, "state", remote.room_id)) == (413, "M_TOO_LARGE")


def test_with_an_event_the_state_is_answered_as_today(peer: Peer, alice: User, remote: RemoteServer) -> None:
    waves = say(alice, remote.room_id, "waves")
    answer = ask(peer, "state", remote.room_id, query=f"?event_id={quote(waves, safe='')}")
    assert answer.json.keys() == {"pdus", "auth_chain"}
    without = signed(call, peer, FUNCTION, "GET", f"{BASE}/state/{quote(remote.room_id, safe='')}")
    assert refusal(without) == (400, "M_MISSING_PARAM")


def test_servers_outside_and_those_that_the_acl_shuts_out_see_nothing(peer: Peer, alice: User, room_id: str) -> None:
    for kind in ("context", "state"):
        assert refusal(ask(peer, kind, room_id)) == FORBIDDEN
        assert refusal(ask(peer, kind, "!none:example.org")) == NOT_FOUND
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    waves = say(alice, room_id, "waves")
    assert ask(peer, "context", room_id).status == 200
    set_state(alice, room_id, "m.room.server_acl", {"allow": [SERVER_NAME], "deny": []})
    assert [refusal(ask(peer, kind, room_id)) for kind in ("context", "state")] == [FORBIDDEN] * 2
    assert refusal(ask(peer, "pdu", SERVER_NAME, waves)) == NOT_FOUND


def test_a_request_needs_a_signature(peer: Peer, remote: RemoteServer) -> None:
    assert refusal(invoke(FUNCTION, payload("federation_query_seed_context"))) == (401, "M_UNAUTHORIZED")
    for path in (f"context/{remote.room_id}/", f"state/{remote.room_id}/", f"pdu/{SERVER_NAME}/$x/"):
        assert refusal(call(FUNCTION, "GET", f"{BASE}/{path}")) == (401, "M_UNAUTHORIZED")


def test_unless_the_operator_wants_them_there_are_no_views(
    peer: Peer, alice: User, remote: RemoteServer, server: Callable[..., None]
) -> None:
    waves = say(alice, remote.room_id, "waves")
    server(LEGACY_SEED_VIEWS="off")
    for segments in (("context", remote.room_id), ("state", remote.room_id), ("pdu", SERVER_NAME, waves)):
        assert refusal(ask(peer, *segments)) == UNKNOWN


def test_a_view_is_not_taken_for_an_event(peer: Peer, alice: User, remote: RemoteServer) -> None:
    view = pdus(ask(peer, "pdu", SERVER_NAME, say(alice, remote.room_id, "waves")))[0]
    body = {"origin": peer.name, "origin_server_ts": now_ms(), "pdus": [view]}
    answer = signed(call, peer, "federation_transactions", "PUT", f"{BASE}/send/t1", body=body)
    key = f"{view['pdu_id']}@{SERVER_NAME}"
    assert answer.json["pdus"] == {key: {"error": "unsupported unsigned PDU format"}}


def test_a_query_of_an_unknown_type_is_unrecognized(peer: Peer) -> None:
    answer = signed(call, peer, FUNCTION, "GET", f"{BASE}/query/horoscope?user_id=x")
    assert refusal(answer) == UNKNOWN
    assert refusal(call(FUNCTION, "GET", f"{BASE}/query/horoscope")) == (401, "M_UNAUTHORIZED")


def test_the_key_in_use_is_published_as_the_draft_has_it() -> None:
    answer = call("federation_keys", "GET", "/_matrix/key/v1")
    key = adapter.signing_key()
    assert answer.json.keys() == {"server_name", "verify_keys", "signatures"}
    assert answer.json["server_name"] == SERVER_NAME
    assert answer.json["verify_keys"] == {key.key_id: base64.b64encode(key.verify_key).decode().rstrip("=")}
    keys = {name: unpadded_base64.decode(value) for name, value in answer.json["verify_keys"].items()}
    verify_signed_json(answer.json, SERVER_NAME, keys)
