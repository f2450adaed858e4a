"""History for other servers: backfill, missing events, and the event closest to a time."""

from pathlib import Path
from typing import Any

import pytest

from federation_peer import Peer
from functions.asking import (
    FUNCTION,
    Asked,
    asked,
    ban_server,
    bodies,
    create_room,
    ids_of,
    members_of,
    peer,
    post,
    refusal,
    running_peers,
    say,
    set_state,
    stranger,
)
from functions.backfilling import HistoryPeer, HistoryRoom, enter, page_back
from functions.harness import User, invoke, payload
from functions.remote_server import RemoteServer, head_of
from functions.rooms import redact, send
from homeserver.observability import metered
from homeserver.services import served_history
from homeserver.services.receive_events import Verdict
from homeserver.services.served_history import backfill, missing_events

__all__ = ["asked", "peer", "running_peers", "stranger"]

NOT_FOUND = (404, "M_NOT_FOUND")
FORBIDDEN = (403, "M_FORBIDDEN")
MISSING = (400, "M_MISSING_PARAM")
INVALID = (400, "M_INVALID_PARAM")
BAD_JSON = (400, "M_BAD_JSON")
UNKNOWN = "$" + "A" * 43


@pytest.fixture
def room_id(alice: User) -> str:
    return create_room(alice, preset="public_chat", room_version="11")


@pytest.fixture
def remote(peer: Peer, room_id: str) -> RemoteServer:
    return members_of(peer, room_id)[0]


def carol(peer: Peer) -> str:
    return f"@carol:{peer.name}"


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


# ── Backfill ────────────────────────────────────────────────────────────────────────────────────────


def test_backfill_gives_the_events_and_what_precedes_them_newest_first(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    sent = say(alice, room_id, *numbers(1, 8))
    answer = asked(peer, "backfill", room_id, v=sent[5], limit=4)
    assert answer.status == 200
    assert (answer.json["origin"], ids_of(answer.json["pdus"])) == ("example.org", sent[5:1:-1])
    assert bodies(answer.json["pdus"]) == ["6", "5", "4", "3"]
    assert all("unsigned" not in pdu for pdu in answer.json["pdus"])
    whole = asked(peer, "backfill", room_id, v=sent[-1], limit=100).json["pdus"]
    assert len(whole) == head_of(room_id).position
    assert (whole[0]["content"]["body"], whole[-1]["type"]) == ("8", "m.room.create")


def test_backfill_follows_every_branch_of_a_fork_and_gives_each_event_once(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    (base,) = say(alice, room_id, "base")
    left = remote.say(carol(peer), "left", prev=[base])
    remote.accepted(left)
    (right,) = say(alice, room_id, "right")
    apart = remote.say(carol(peer), "apart", prev=[base])
    remote.accepted(apart)
    (joint,) = say(alice, room_id, "joint")
    found = asked(peer, "backfill", room_id, v=joint, limit=5).json["pdus"]
    assert ids_of(found) == [joint, apart.event_id, right, left.event_id, base]
    found = asked(peer, "backfill", room_id, v=[left.event_id, apart.event_id], limit=3).json["pdus"]
    assert ids_of(found) == [apart.event_id, left.event_id, base]


def test_what_the_server_may_not_see_is_redacted_and_keeps_its_edges(
    asked: Asked, peer: Peer, alice: User, room_id: str
) -> None:
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    hidden = say(alice, room_id, "one", "two")
    members_of(peer, room_id)
    shown = say(alice, room_id, "three")
    found = asked(peer, "backfill", room_id, v=shown[0], limit=4).json["pdus"]
    assert bodies(found) == ["three", None, None]
    assert (ids_of(found)[0], ids_of(found)[2:]) == (shown[0], hidden[::-1])
    assert found[2]["prev_events"] == [hidden[0]]


def test_a_redacted_event_comes_as_it_is_now(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    sent = say(alice, room_id, "one", "regretted")
    assert redact(alice, room_id, sent[1]).status == 200
    found = asked(peer, "backfill", room_id, v=sent[1], limit=2, loosely=True).json["pdus"]
    assert (bodies(found), ids_of(found)) == ([None, "one"], sent[::-1])


def test_soft_failed_events_come_along_and_rejected_ones_do_not(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    dave = remote.user("dave")
    remote.accepted(remote.join(dave))
    tip = remote.tips()
    ban = post(alice, room_id, "ban", {"user_id": carol(peer)})
    assert ban.status == 200
    (head,) = remote.tips()
    late = remote.say(carol(peer), "late", prev=tip)
    rejected = remote.topic(dave, "mine")
    assert [o.verdict for o in remote.receive(late, rejected)] == [Verdict.SOFT_FAILED, Verdict.REJECTED]
    last = remote.say(dave, "last", prev=[head, late.event_id, rejected.event_id])
    remote.accepted(last)
    found = asked(peer, "backfill", room_id, v=last.event_id, limit=4).json["pdus"]
    assert ids_of(found)[:1] == [last.event_id]
    assert set(ids_of(found)) == {last.event_id, late.event_id, head, *tip}
    assert asked(peer, "backfill", room_id, v=rejected.event_id, limit=4).json["pdus"] == []


def test_a_redaction_that_waits_for_what_it_redacts_is_served(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    user, tip = carol(peer), remote.tips()
    message = remote.say(user, "regretted", prev=tip)
    early = remote.make("m.room.redaction", {"redacts": message.event_id}, user, prev=tip)
    remote.accepted(early)
    (last,) = say(alice, room_id, "last")
    found = asked(peer, "backfill", room_id, v=last, limit=3).json["pdus"]
    assert ids_of(found) == [last, early.event_id, *tip]
    assert found[1] == early.pdu
    assert asked(peer, "event", early.event_id).json["pdus"] == [early.pdu]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"v": UNKNOWN}, MISSING),
        ({"limit": 10}, MISSING),
        ({"v": UNKNOWN, "limit": ""}, MISSING),
        ({"v": UNKNOWN, "limit": 0}, INVALID),
        ({"v": UNKNOWN, "limit": -1}, INVALID),
        ({"v": UNKNOWN, "limit": "ten"}, INVALID),
        ({"v": "hello", "limit": 10}, INVALID),
        ({"v": [UNKNOWN, "$" + "x" * 3000], "limit": 10}, INVALID),
        ({"v": [UNKNOWN] * 101, "limit": 10}, (413, "M_TOO_LARGE")),
    ],
)
def test_backfill_refuses_what_it_cannot_understand(
    *, asked: Asked, peer: Peer, remote: RemoteServer, room_id: str, query: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert refusal(asked(peer, "backfill", room_id, **query)) == expected


def test_backfill_gives_a_hundred_events_at_most(asked: Asked, peer: Peer, remote: RemoteServer, room_id: str) -> None:
    chain = [remote.say(carol(peer), "0")]
    for number in range(1, 120):
        chain.append(remote.say(carol(peer), str(number), prev=[chain[-1].event_id]))
    remote.receive(*chain)
    ids = [event.event_id for event in chain]
    found = asked(peer, "backfill", room_id, v=ids[-1], limit=5000).json["pdus"]
    assert ids_of(found) == ids[:19:-1]


def test_events_of_another_room_and_unknown_ones_give_nothing(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    secret = create_room(alice, preset="private_chat")
    (elsewhere,) = say(alice, secret, "secret")
    assert asked(peer, "backfill", room_id, v=[elsewhere, UNKNOWN], limit=10).json["pdus"] == []
    (here,) = say(alice, room_id, "here")
    found = asked(peer, "backfill", room_id, v=[elsewhere, here], limit=1).json["pdus"]
    assert bodies(found) == ["here"]


def test_a_long_answer_ends_before_what_lambda_hands_on(
    *, asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [send(alice, room_id, "x" * 3000, f"long{number}").json["event_id"] for number in range(4)]
    monkeypatch.setattr(served_history, "MOST_BYTES", 8000)
    found = asked(peer, "backfill", room_id, v=sent[-1], limit=10).json["pdus"]
    assert ids_of(found) == sent[:1:-1]
    body = {"latest_events": [sent[-1]], "earliest_events": []}
    assert ids_of(asked(peer, "get_missing_events", room_id, body=body).json["events"]) == sent[1:3]


def test_a_walk_takes_few_rounds_however_far_it_goes(
    peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    sent = say(alice, room_id, *numbers(1, 60))
    for limit in (5, 60):
        with metered() as meter:
            assert len(backfill(room_id, peer.name, [sent[-1]], limit)["pdus"]) == limit
        assert meter.rounds <= 5
    with metered() as meter:
        missing_events(room_id, peer.name, latest=[sent[-1]], earliest=[sent[0]], min_depth=0, limit=58)
    assert meter.rounds <= 7


# ── Missing events ──────────────────────────────────────────────────────────────────────────────────


def test_missing_events_are_those_between_the_two_sides_oldest_first(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    sent = say(alice, room_id, *numbers(1, 9))
    body = {"latest_events": [sent[8]], "earliest_events": [sent[2]], "limit": 50, "min_depth": 0}
    answer = asked(peer, "get_missing_events", room_id, body=body)
    assert (answer.status, ids_of(answer.json["events"])) == (200, sent[3:8])
    few = asked(peer, "get_missing_events", room_id, body=body | {"limit": 2})
    assert ids_of(few.json["events"]) == sent[6:8]


def test_without_a_limit_there_are_ten_missing_events(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    sent = say(alice, room_id, *numbers(1, 14))
    body = {"latest_events": [sent[-1]], "earliest_events": []}
    assert ids_of(asked(peer, "get_missing_events", room_id, body=body).json["events"]) == sent[3:13]


def test_missing_events_end_at_the_lowest_depth_that_is_wanted(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    sent = say(alice, room_id, *numbers(1, 9))
    (fifth,) = asked(peer, "event", sent[4]).json["pdus"]
    body = {"latest_events": [sent[8]], "earliest_events": [], "min_depth": fifth["depth"], "limit": 50}
    assert ids_of(asked(peer, "get_missing_events", room_id, body=body).json["events"]) == sent[4:8]


def test_missing_events_are_looked_for_in_every_branch(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    (base,) = say(alice, room_id, "base")
    apart = remote.say(carol(peer), "apart", prev=[base])
    further = remote.say(carol(peer), "further", prev=[apart.event_id])
    remote.receive(apart, further)
    assert head_of(room_id).extremities == [further.event_id]
    aside = remote.say(carol(peer), "aside", prev=[base])
    remote.accepted(aside)
    (joint,) = say(alice, room_id, "joint")
    body = {"latest_events": [joint], "earliest_events": [base]}
    found = ids_of(asked(peer, "get_missing_events", room_id, body=body).json["events"])
    assert found == [apart.event_id, further.event_id, aside.event_id]
    body = {"latest_events": [joint], "earliest_events": [base, apart.event_id]}
    found = ids_of(asked(peer, "get_missing_events", room_id, body=body).json["events"])
    assert found == [further.event_id, aside.event_id]


def test_hidden_missing_events_are_redacted(asked: Asked, peer: Peer, alice: User, room_id: str) -> None:
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    hidden = say(alice, room_id, "one", "two")
    remote, user = members_of(peer, room_id)
    message = remote.say(user, "three")
    remote.accepted(message)
    body = {"latest_events": [message.event_id], "earliest_events": [hidden[0]]}
    found = asked(peer, "get_missing_events", room_id, body=body).json["events"]
    assert (bodies(found), ids_of(found)[0], found[1]["content"]["membership"]) == ([None], hidden[1], "join")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"latest_events": [UNKNOWN]}, MISSING),
        ({"earliest_events": []}, MISSING),
        ({"latest_events": UNKNOWN, "earliest_events": []}, BAD_JSON),
        ({"latest_events": [1], "earliest_events": []}, BAD_JSON),
        ({"latest_events": [UNKNOWN], "earliest_events": [{}]}, BAD_JSON),
        ({"latest_events": ["hello"], "earliest_events": []}, INVALID),
        ({"latest_events": [UNKNOWN], "earliest_events": [], "limit": -5}, BAD_JSON),
        ({"latest_events": [UNKNOWN], "earliest_events": [], "limit": 0}, BAD_JSON),
        ({"latest_events": [UNKNOWN], "earliest_events": [], "limit": "5"}, BAD_JSON),
        ({"latest_events": [UNKNOWN], "earliest_events": [], "min_depth": True}, BAD_JSON),
        ({"latest_events": ["$" + f"{n:043}" for n in range(5000)], "earliest_events": []}, (413, "M_TOO_LARGE")),
        ([], BAD_JSON),
    ],
)
def test_missing_events_refuse_what_they_cannot_understand(
    *, asked: Asked, peer: Peer, remote: RemoteServer, room_id: str, body: Any, expected: tuple[int, str]
) -> None:
    assert refusal(asked(peer, "get_missing_events", room_id, body=body)) == expected


def test_thousands_of_known_events_cost_nothing(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    sent = say(alice, room_id, "one", "two")
    known = ["$" + f"{n:043}" for n in range(5000)] + [sent[0], "no ID at all"]
    body = {"latest_events": [sent[1]], "earliest_events": known, "limit": 2**40, "min_depth": -1}
    assert asked(peer, "get_missing_events", room_id, body=body).json == {"events": []}


def test_latest_events_of_another_room_lead_nowhere(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    secret = create_room(alice, preset="private_chat")
    elsewhere = say(alice, secret, "secret", "more")
    body = {"latest_events": [elsewhere[1], UNKNOWN], "earliest_events": []}
    assert asked(peer, "get_missing_events", room_id, body=body).json == {"events": []}


# ── The event closest to a time ─────────────────────────────────────────────────────────────────────


def test_the_event_closest_to_a_time_is_found_in_both_directions(
    asked: Asked, peer: Peer, remote: RemoteServer, room_id: str
) -> None:
    remote.now = 1_900_000_000_000  # far from when the room was made
    events = [remote.say(carol(peer), "0")]
    for number in range(1, 5):
        remote.now += 1000
        events.append(remote.say(carol(peer), str(number), prev=[events[-1].event_id]))
    remote.receive(*events)
    between = events[2].origin_server_ts + 300
    forward = asked(peer, "timestamp_to_event", room_id, ts=between, dir="f")
    assert (forward.status, forward.json) == (
        200,
        {"event_id": events[3].event_id, "origin_server_ts": events[3].origin_server_ts},
    )
    assert asked(peer, "timestamp_to_event", room_id, ts=between, dir="b").json["event_id"] == events[2].event_id
    later = events[-1].origin_server_ts + 1
    assert refusal(asked(peer, "timestamp_to_event", room_id, ts=later, dir="f")) == NOT_FOUND


def test_only_what_the_server_may_see_is_closest_to_a_time(asked: Asked, peer: Peer, alice: User, room_id: str) -> None:
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    say(alice, room_id, "one", "two")
    _, user = members_of(peer, room_id)
    found = asked(peer, "timestamp_to_event", room_id, ts=0, dir="f").json["event_id"]
    (joined,) = asked(peer, "event", found).json["pdus"]
    assert (joined["type"], joined["state_key"]) == ("m.room.member", user)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"dir": "f"}, MISSING),
        ({"ts": 1}, MISSING),
        ({"ts": "now", "dir": "f"}, INVALID),
        ({"ts": 1, "dir": "up"}, INVALID),
    ],
)
def test_a_time_needs_a_number_and_a_direction(
    *, asked: Asked, peer: Peer, remote: RemoteServer, room_id: str, query: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert refusal(asked(peer, "timestamp_to_event", room_id, **query)) == expected


# ── History that was fetched later ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("visibility", [None, "joined"])
def test_what_was_backfilled_is_served_like_the_rest(
    asked: Asked, peer: Peer, alice: User, tmp_path: Path, visibility: str | None
) -> None:
    with HistoryPeer(tmp_path / "old") as old:
        room = old.tells(HistoryRoom(old.name, visibility=visibility))
        said = room.says(150)
        enter(room, alice)
        page_back(alice, room.room_id, limit=100)
        (last,) = say(alice, room.room_id, "last")
        ids = [*room.events]
        found = asked(old, "backfill", room.room_id, v=last, limit=100).json["pdus"]
        assert ids_of(found)[1:] == ids[: -len(found) : -1]
        assert bodies(found)[0] == "last"
        assert bodies(found)[1:] == said[: -len(bodies(found)) : -1]
        further = asked(old, "backfill", room.room_id, v=ids_of(found)[-1], limit=100).json["pdus"]
        assert ids_of(further) == ids[len(ids) - len(found) + 1 :: -1]
        assert bodies(further)[-1] == said[0]
        with metered() as meter:
            assert len(backfill(room.room_id, old.name, [last], 100)["pdus"]) == 100
        assert meter.rounds <= 8
        body = {"latest_events": [ids[120]], "earliest_events": [ids[110]], "limit": 50}
        assert ids_of(asked(old, "get_missing_events", room.room_id, body=body).json["events"]) == ids[111:120]
        assert asked(old, "event", ids[100]).json["pdus"] == [room.events[ids[100]].pdu]
        state = asked(old, "state_ids", room.room_id, event_id=ids[100]).json
        assert set(state["pdu_ids"]) == set(room.after[ids[99]].values())


def test_backfilled_history_from_before_a_servers_time_is_redacted(
    asked: Asked, peer: Peer, alice: User, tmp_path: Path
) -> None:
    with HistoryPeer(tmp_path / "old") as old:
        room = old.tells(HistoryRoom(old.name, visibility="joined"))
        room.says(3)
        enter(room, alice)
        page_back(alice, room.room_id)
        members_of(peer, room.room_id, "dave")
        (last,) = say(alice, room.room_id, "last")
        found = asked(peer, "backfill", room.room_id, v=last, limit=6, loosely=True).json["pdus"]
        assert bodies(found) == ["last", None, None, None]


# ── Who may ask ─────────────────────────────────────────────────────────────────────────────────────

BODY = {"latest_events": [UNKNOWN], "earliest_events": []}
QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("backfill", {"v": UNKNOWN, "limit": 10}),
    ("get_missing_events", {"body": BODY}),
    ("timestamp_to_event", {"ts": 1, "dir": "f"}),
]


@pytest.mark.parametrize(("question", "more"), QUESTIONS)
def test_only_servers_in_the_room_may_ask(
    *, asked: Asked, peer: Peer, stranger: Peer, alice: User, room_id: str, question: str, more: dict[str, Any]
) -> None:
    remote, user = members_of(peer, room_id)
    assert refusal(asked(stranger, question, room_id, **more)) == FORBIDDEN
    assert refusal(asked(peer, question, "!unknown:example.org", **more)) == NOT_FOUND
    assert refusal(asked(peer, question, "room", **more)) == INVALID
    answer = asked(peer, question, room_id, **more)
    assert answer.status == 200 or (question == "timestamp_to_event" and answer.status == 404)
    ban_server(alice, room_id, peer)
    assert refusal(asked(peer, question, room_id, **more)) == FORBIDDEN
    assert set_state(alice, room_id, "m.room.server_acl", {"allow": ["*"]}).status == 200
    remote.accepted(remote.member(user, "leave", user))
    assert refusal(asked(peer, question, room_id, **more)) == FORBIDDEN


def test_recorded_payloads_are_refused_because_their_server_is_nowhere() -> None:
    for name in ("backfill", "missing_events"):
        assert refusal(invoke(FUNCTION, payload(f"federation_query_{name}"))) == (401, "M_UNAUTHORIZED")
