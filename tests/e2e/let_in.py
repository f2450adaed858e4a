"""Users of another server who come into rooms of this one, and invite its users: for what has to be seen of all."""

from typing import Any

from e2e.client import Client
from e2e.local_run import SERVER_NAME
from federation_peer import Peer
from functions.foreign_room import ForeignRoom
from functions.handshakes import (
    FEDERATION,
    Guest,
    address_invite,
    exchange_request,
    notice,
    path,
    pending,
)
from functions.harness import Answer


def guest_of(nobody: Client, peer: Peer) -> Guest:
    """The other side of the handshakes, over HTTP."""

    def call(_: str, method: str, uri: str, body: Any = None, *, headers: dict[str, str]) -> Answer:
        answer = nobody.ask_anything(method, uri, body, headers=headers)
        return Answer(answer.status, answer.json, dict(answer.headers))

    return Guest(call, peer, SERVER_NAME)


def ok(answer: Answer) -> Any:
    assert answer.status == 200, answer
    return answer.json


def let_in(alice: Client, bob: Client, nobody: Client, peer: Peer) -> None:
    """Every handshake, in each of its versions. `peer` signs invitations."""
    guest = guest_of(nobody, peer)
    carol, dave, erin = (guest.user(name) for name in ("carol", "dave", "erin"))
    lobby = alice.create_room(preset="public_chat", room_version="10", name="Lobby")
    ok(guest.enter("join", lobby, carol))
    ok(guest.enter("join", lobby, dave, version="v1"))
    ok(guest.enter("join", lobby, erin, query={"omit_members": "true"}))
    ok(guest.enter("leave", lobby, erin))
    ok(guest.enter("leave", lobby, dave, version="v1"))
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    alice.set_state(closed := alice.create_room(room_version="10"), "m.room.join_rules", restricted(allow))
    again = guest.event("join", closed, carol)
    ok(guest.send("join", again))
    ok(guest.send("join", again))
    redact_too_early(alice, lobby, guest, carol)
    alice.set_state(lobby, "m.room.join_rules", {"join_rule": "knock"})
    ok(guest.enter("knock", lobby, erin))
    invited = be_invited(bob.user_id, guest)
    assert invited <= bob.sync()["rooms"]["invite"].keys()
    by_address(alice, bob, guest, nobody)
    come_late(alice, bob, guest)


def redact_too_early(alice: Client, room_id: str, guest: Guest, carol: str) -> None:
    """A join is redacted before it comes: the redaction waits for it, unseen."""
    join = guest.event("join", room_id, guest.user("hasty"))
    template = guest.make("leave", room_id, carol).json  # which has the edges of whatever she says
    said = {"type": "m.room.message", "state_key": None, "content": {"msgtype": "m.text", "body": "too early"}}
    redaction = {"type": "m.room.redaction", "state_key": None, "content": {}, "redacts": join.event_id}
    pdus = [dict(guest.sign(template, **change).pdu) for change in (redaction, said)]
    body = {"origin": guest.name, "origin_server_ts": 1, "pdus": pdus, "edus": []}
    ok(guest.ask("PUT", path("v1", "send", "early"), body))
    alice.sync_until(lambda: "too early" in alice.bodies(room_id))
    ok(guest.send("join", join))
    (redacted,) = [event for event in alice.messages(room_id, "f") if event["event_id"] == join.event_id]
    assert redacted["unsigned"]["redacted_because"]["sender"] == carol


def restricted(allow: list[dict[str, str]]) -> dict[str, Any]:
    return {"join_rule": "restricted", "allow": allow}


def be_invited(user_id: str, guest: Guest) -> set[str]:
    """To rooms that only the other server is in, in both versions; one invitation comes twice. The rooms."""
    room, old = (ForeignRoom(guest.name, guest.peer.key, version=version) for version in ("11", "1"))
    invitation = room.invite(user_id)
    for _ in range(2):
        ok(guest.invite(invitation, room.stripped()))
    first = old.invite(user_id)
    body = {**first.pdu, "unsigned": {"invite_room_state": old.stripped()}}
    ok(guest.ask("PUT", path("v1", "invite", old.id, first.event_id), body))
    return {room.id, old.id}


def by_address(alice: Client, bob: Client, guest: Guest, nobody: Client) -> None:
    """An address is bound by a user of each of the servers, and invited to rooms of each."""
    room_id = alice.create_room(room_version="11")
    alice.set_state(room_id, "m.room.third_party_invite", address_invite(), "token")
    where = path("v1", "exchange_third_party_invite", room_id)
    ok(guest.ask("PUT", where, exchange_request(room_id, alice.user_id, guest.user("frank"))))
    elsewhere = f"!far:{guest.name}"
    invites = [pending(room_id, alice.user_id, bob.user_id), pending(elsewhere, guest.user("carol"), bob.user_id)]
    nobody.ok("PUT", f"{FEDERATION}/v1/3pid/onbind", notice(bob.user_id, *invites))


def come_late(alice: Client, bob: Client, guest: Guest) -> None:
    """A join from before a moderator's time: what they did then does not outlast their power where it is merged."""
    levels = {"users": {alice.user_id: 100, bob.user_id: 50}}
    room_id = alice.create_room(preset="public_chat", room_version="10", power_level_content_override=levels)
    assert bob.act(room_id, "join").status == 200
    late = guest.event("join", room_id, guest.user("late"))
    bob.set_state(room_id, "m.room.topic", {"topic": "bob was here"})
    bob.invite(room_id, f"@nobody:{SERVER_NAME}")
    alice.set_state(room_id, "m.room.power_levels", {**levels, "users": {alice.user_id: 100}, "invite": 50})
    ok(guest.send("join", late))
    state = alice.state(room_id)
    assert ("m.room.topic", "") not in state
    assert ("m.room.member", f"@nobody:{SERVER_NAME}") not in state
    assert state["m.room.member", guest.user("late")]["content"]["membership"] == "join"
