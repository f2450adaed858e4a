"""What other servers get of a room's events: one by its ID, and what history visibility leaves of it."""

from typing import Any

import pytest

from federation_peer import Peer
from functions.asking import (
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
from functions.harness import User
from functions.remote_server import RemoteServer
from functions.rooms import redact
from homeserver.services import server_visibility
from homeserver.services.receive_events import Verdict
from homeserver.services.receive_outliers import receive_outliers
from homeserver.storage.room_items import EventRecord

__all__ = ["asked", "peer", "running_peers", "stranger"]

NOT_FOUND = (404, "M_NOT_FOUND")
FORBIDDEN = (403, "M_FORBIDDEN")
HIDDEN: list[str | None] = [None]


def pdu(answer: Any) -> dict[str, Any]:
    """The one PDU of an answer."""
    assert answer.status == 200, answer
    assert answer.json["origin"] == "example.org"
    (found,) = answer.json["pdus"]
    return dict(found)


@pytest.fixture
def room_id(alice: User) -> str:
    return create_room(alice, preset="public_chat", room_version="11")


def visible(alice: User, room_id: str, setting: str) -> None:
    answer = set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": setting})
    assert answer.status == 200


def test_a_server_in_the_room_gets_an_event_as_it_was_signed(
    asked: Asked, peer: Peer, alice: User, room_id: str
) -> None:
    members_of(peer, room_id)
    (event_id,) = say(alice, room_id, "hello")
    found = pdu(asked(peer, "event", event_id))
    assert (found["content"], found["sender"]) == ({"msgtype": "m.text", "body": "hello"}, alice.user_id)
    assert ids_of([found]) == [event_id]
    assert set(found["signatures"]) == {"example.org"}
    assert "unsigned" not in found


def test_an_event_of_the_server_itself_and_a_state_event_are_given(
    asked: Asked, peer: Peer, alice: User, room_id: str
) -> None:
    remote, carol = members_of(peer, room_id)
    message = remote.say(carol, "mine")
    remote.accepted(message)
    assert pdu(asked(peer, "event", message.event_id)) == message.pdu
    topic = set_state(alice, room_id, "m.room.topic", {"topic": "tea"}).json["event_id"]
    assert pdu(asked(peer, "event", topic))["content"]["topic"] == "tea"


def test_a_redacted_event_is_given_without_what_was_taken_and_without_what_took_it(
    asked: Asked, peer: Peer, alice: User, room_id: str
) -> None:
    members_of(peer, room_id)
    (event_id,) = say(alice, room_id, "regretted")
    topic = set_state(alice, room_id, "m.room.topic", {"topic": "regretted"}).json["event_id"]
    for number, each in enumerate((event_id, topic)):
        assert redact(alice, room_id, each, f"r{number}").status == 200
        found = pdu(asked(peer, "event", each, loosely=True))
        assert (found["content"], "unsigned" in found, ids_of([found])) == ({}, False, [each])


@pytest.mark.parametrize("bad", ["hello", "$" + "x" * 300, "!room:example.org"])
def test_what_is_no_event_id_is_a_bad_request(asked: Asked, peer: Peer, bad: str) -> None:
    assert refusal(asked(peer, "event", bad)) == (400, "M_INVALID_PARAM")


def test_unknown_and_rejected_events_and_those_for_nobody_are_not_found(
    asked: Asked, peer: Peer, stranger: Peer, alice: User, room_id: str
) -> None:
    remote, carol = members_of(peer, room_id)
    assert refusal(asked(peer, "event", "$" + "A" * 43)) == NOT_FOUND
    rejected = remote.topic(carol, "mine")
    assert [outcome.verdict for outcome in remote.receive(rejected)] == [Verdict.REJECTED]
    assert refusal(asked(peer, "event", rejected.event_id)) == NOT_FOUND
    (event_id,) = say(alice, room_id, "hello")
    assert refusal(asked(stranger, "event", event_id)) == NOT_FOUND
    other = create_room(alice, preset="private_chat")
    (secret,) = say(alice, other, "secret")
    assert refusal(asked(peer, "event", secret)) == NOT_FOUND


def test_a_soft_failed_event_is_given_to_who_asks_for_it(asked: Asked, peer: Peer, alice: User, room_id: str) -> None:
    remote, carol = members_of(peer, room_id)
    remote.accepted(remote.join(remote.user("dave")))
    tip = remote.tips()
    assert post(alice, room_id, "ban", {"user_id": carol}).status == 200
    late = remote.say(carol, "I was first", prev=tip)
    assert [outcome.verdict for outcome in remote.receive(late)] == [Verdict.SOFT_FAILED]
    assert pdu(asked(peer, "event", late.event_id)) == late.pdu


def test_a_server_that_the_acl_shuts_out_gets_nothing(asked: Asked, peer: Peer, alice: User, room_id: str) -> None:
    remote, carol = members_of(peer, room_id)
    visible(alice, room_id, "world_readable")
    (event_id,) = say(alice, room_id, "hello")
    mine = remote.say(carol, "mine")
    remote.accepted(mine)
    ban_server(alice, room_id, peer)
    assert refusal(asked(peer, "event", event_id)) == FORBIDDEN
    assert refusal(asked(peer, "event", mine.event_id)) == FORBIDDEN
    assert set_state(alice, room_id, "m.room.server_acl", {"allow": ["*"]}).status == 200
    assert bodies([pdu(asked(peer, "event", event_id))]) == ["hello"]


def test_what_the_world_may_read_any_server_gets(asked: Asked, stranger: Peer, alice: User, room_id: str) -> None:
    (before,) = say(alice, room_id, "before")
    visible(alice, room_id, "world_readable")
    (open_,) = say(alice, room_id, "open")
    visible(alice, room_id, "shared")
    (after,) = say(alice, room_id, "after")
    assert bodies([pdu(asked(stranger, "event", open_))]) == ["open"]
    assert refusal(asked(stranger, "event", before)) == NOT_FOUND
    assert refusal(asked(stranger, "event", after)) == NOT_FOUND


# ── History visibility ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("world_readable", [["before"], ["invited"], ["joined"], ["after"]]),
        ("shared", [["before"], ["invited"], ["joined"], ["after"]]),
        ("invited", [HIDDEN, ["invited"], ["joined"], ["after"]]),
        ("joined", [HIDDEN, HIDDEN, ["joined"], ["after"]]),
    ],
)
def test_a_member_server_gets_as_much_as_one_of_its_users_could_see(
    *, asked: Asked, peer: Peer, alice: User, room_id: str, setting: str, expected: list[list[str | None]]
) -> None:
    visible(alice, room_id, setting)
    carol = f"@carol:{peer.name}"
    sent = say(alice, room_id, "before")
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.member(alice.user_id, "invite", carol))
    sent += say(alice, room_id, "invited")
    remote.accepted(remote.join(carol))
    sent += say(alice, room_id, "joined", "after")
    assert [bodies([pdu(asked(peer, "event", event_id))]) for event_id in sent] == expected
    for event_id in sent:
        found = pdu(asked(peer, "event", event_id))
        assert ids_of([found]) == [event_id]
        assert found["prev_events"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("world_readable", ["before", "joined", "after"]),
        ("shared", ["before", "joined", None]),
        ("invited", [None, "joined", None]),
        ("joined", [None, "joined", None]),
    ],
)
def test_a_server_that_has_left_gets_what_its_users_could_see_until_then(
    *, asked: Asked, peer: Peer, alice: User, room_id: str, setting: str, expected: list[str | None]
) -> None:
    visible(alice, room_id, setting)
    sent = say(alice, room_id, "before")
    remote, carol = members_of(peer, room_id)
    sent += say(alice, room_id, "joined")
    leave = remote.member(carol, "leave", carol)
    remote.accepted(leave)
    sent += say(alice, room_id, "after")
    answers = [asked(peer, "event", event_id) for event_id in sent]
    assert [bodies([pdu(a)])[0] if a.status == 200 else None for a in answers] == expected
    assert {refusal(a) for a in answers if a.status != 200} <= {NOT_FOUND}
    assert pdu(asked(peer, "event", leave.event_id)) == leave.pdu


def test_who_is_there_now_does_not_see_what_was_said_between_two_stays(
    asked: Asked, peer: Peer, alice: User, room_id: str
) -> None:
    visible(alice, room_id, "joined")
    remote, carol = members_of(peer, room_id)
    sent = say(alice, room_id, "first stay")
    remote.accepted(remote.member(carol, "leave", carol))
    sent += say(alice, room_id, "away")
    remote.accepted(remote.join(carol))
    sent += say(alice, room_id, "second stay")
    found = [bodies([pdu(asked(peer, "event", event_id))]) for event_id in sent]
    assert found == [["first stay"], HIDDEN, ["second stay"]]


def test_another_user_of_the_server_opens_what_the_one_who_came_later_could_not_see(
    asked: Asked, peer: Peer, alice: User, room_id: str
) -> None:
    visible(alice, room_id, "joined")
    remote, carol = members_of(peer, room_id)
    (event_id,) = say(alice, room_id, "to carol")
    remote.accepted(remote.join(remote.user("dave")))
    remote.accepted(remote.member(carol, "leave", carol))
    assert bodies([pdu(asked(peer, "event", event_id))]) == ["to carol"]


def test_a_change_of_visibility_opens_with_either_of_its_settings(
    asked: Asked, peer: Peer, alice: User, room_id: str
) -> None:
    visible(alice, room_id, "joined")
    answer = set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "shared"})
    opened = answer.json["event_id"]
    (shared,) = say(alice, room_id, "shared")
    answer = set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    closed = answer.json["event_id"]
    (joined,) = say(alice, room_id, "joined")
    members_of(peer, room_id)
    assert pdu(asked(peer, "event", opened))["content"] == {"history_visibility": "shared"}
    assert pdu(asked(peer, "event", closed))["content"] == {"history_visibility": "joined"}
    assert bodies([pdu(asked(peer, "event", shared))]) == ["shared"]
    assert bodies([pdu(asked(peer, "event", joined))]) == HIDDEN


def test_an_event_of_a_fork_from_before_the_join_is_not_opened_by_coming_later(
    asked: Asked, peer: Peer, stranger: Peer, alice: User, room_id: str
) -> None:
    visible(alice, room_id, "joined")
    other, dave = members_of(stranger, room_id, "dave")
    tip = other.tips()
    members_of(peer, room_id)
    late = other.say(dave, "said before carol came", prev=tip)
    other.accepted(late)
    assert bodies([pdu(asked(peer, "event", late.event_id))]) == HIDDEN
    assert bodies([pdu(asked(stranger, "event", late.event_id))]) == ["said before carol came"]


def test_looking_for_a_member_at_an_event_ends_somewhere(
    asked: Asked, peer: Peer, alice: User, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    visible(alice, room_id, "joined")
    remote, carol = members_of(peer, room_id)
    (event_id,) = say(alice, room_id, "to carol")
    remote.accepted(remote.member(carol, "leave", carol))
    assert bodies([pdu(asked(peer, "event", event_id))]) == ["to carol"]
    monkeypatch.setattr(server_visibility, "_MOST_MEMBERS_READ", 0)
    assert refusal(asked(peer, "event", event_id)) == NOT_FOUND


def test_state_without_a_place_is_for_servers_in_the_room(
    asked: Asked, peer: Peer, stranger: Peer, alice: User, room_id: str
) -> None:
    remote, _ = members_of(peer, room_id)
    outlier = remote.topic(alice.user_id, "elsewhere")
    assert receive_outliers(room_id, [outlier])[outlier.event_id].verdict is Verdict.ACCEPTED
    record = EventRecord.fetch(outlier.event_id)
    assert record is not None
    assert record.flags == "o"
    assert pdu(asked(peer, "event", outlier.event_id)) == outlier.pdu
    assert refusal(asked(stranger, "event", outlier.event_id)) == NOT_FOUND
