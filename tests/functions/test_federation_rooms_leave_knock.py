"""Users of other servers leave rooms of this one, reject its invitations, and knock."""

from collections.abc import Callable, Iterator

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK
from functions.handshakes import Guest, path
from functions.harness import Answer, User
from functions.remote_server import KEY, RemoteServer, head_of, state_of
from functions.rooms import create_room, follow, post, set_state, sync
from homeserver.matrix.client_event import STRIPPED_STATE_TYPES
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.hashes import event_from_pdu
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import SigningKey
from homeserver.storage.room_items import EventRecord
from homeserver.storage.room_items import RemoteServer as ServerRow

pytestmark = pytest.mark.usefixtures("set_up")
OTHER_KEY = SigningKey.generate("r1", b"o" * 32)


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path, key=KEY) as running:
        yield running


@pytest.fixture
def guest(checked: Callable[..., Answer], peer: Peer) -> Guest:
    return Guest(checked, peer)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def room_of(user: User, join_rule: str = "public", version: str = "11") -> str:
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": join_rule}}
    return create_room(user, room_version=version, name="Lobby", initial_state=[rules])


def membership(room_id: str, user: str) -> str | None:
    event_id = state_of(room_id).get(("m.room.member", user))
    record = EventRecord.fetch(event_id) if event_id else None
    if record is None:
        return None
    assert record.packed is not None
    return str(unpack(record.packed)["content"]["membership"])


# ── Leaving ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
def test_a_member_leaves(guest: Guest, alice: User, version: str) -> None:
    room_id, carol = room_of(alice, version=version), guest.user("carol")
    assert guest.enter("join", room_id, carol).status == 200
    follow()
    since = sync(alice)["next_batch"]
    answer = guest.make("leave", room_id, carol)
    assert (answer.status, answer.json["room_version"]) == (200, version)
    assert answer.json["event"]["content"] == {"membership": "leave"}
    leave = guest.sign(answer.json)
    for _ in range(2):  # repeating it changes nothing
        sent = guest.send("leave", leave)
        assert (sent.status, sent.json) == (200, {})
    assert membership(room_id, carol) == "leave"
    row = ServerRow.fetch(room_id, f"server/{guest.name}")
    assert row is not None
    assert (int(row.members), int(row.left_at or 0)) == (0, int(head_of(room_id).position))
    follow()
    (told,) = sync(alice, since)["rooms"]["join"][room_id]["timeline"]["events"]
    assert told["event_id"] == leave.event_id


def test_a_leave_of_version_1_is_answered_in_a_pair(call, peer: Peer, alice: User) -> None:
    guest, room_id = Guest(call, peer), room_of(alice)
    assert guest.enter("join", room_id, guest.user("carol")).status == 200
    answer = guest.enter("leave", room_id, guest.user("carol"), version="v1")
    assert (answer.status, answer.json) == (200, [200, {}])


def test_an_invitation_is_rejected_by_a_server_that_is_not_in_the_room(guest: Guest, alice: User, bob: User) -> None:
    room_id, carol = room_of(alice), guest.user("carol")
    maker = RemoteServer(room_id, guest.name)
    maker.accepted(maker.join(guest.user("boss")))
    maker.accepted(maker.member(guest.user("boss"), "invite", carol))
    assert guest.enter("leave", room_id, guest.user("boss")).status == 200
    assert membership(room_id, carol) == "invite"
    assert guest.enter("leave", room_id, carol).status == 200
    assert membership(room_id, carol) == "leave"


def test_who_is_not_in_the_room_cannot_leave_it(guest: Guest, alice: User) -> None:
    room_id = room_of(alice)
    assert refusal(guest.make("leave", room_id, guest.user("carol"))) == (403, "M_FORBIDDEN")
    assert refusal(guest.make("leave", room_id, alice.user_id)) == (403, "M_FORBIDDEN")
    assert refusal(guest.make("leave", "!nowhere:example.org", guest.user("carol"))) == (404, "M_NOT_FOUND")


def test_what_is_no_leave_of_the_servers_own_user_is_refused(guest: Guest, alice: User) -> None:
    room_id, carol, dave = room_of(alice), guest.user("carol"), guest.user("dave")
    for user in (carol, dave):
        assert guest.enter("join", room_id, user).status == 200
    made = guest.make("leave", room_id, carol).json
    position = int(head_of(room_id).position)
    for event in (
        guest.sign(made, content={"membership": "join"}),
        guest.sign(made, content={"membership": "ban"}),
        guest.sign(made, state_key=dave),
        guest.sign(made, key=OTHER_KEY),
    ):
        assert refusal(guest.send("leave", event)) == (400, "M_INVALID_PARAM")
    assert refusal(guest.send("leave", guest.sign(made), event_id="$" + "a" * 43)) == (400, "M_INVALID_PARAM")
    assert refusal(guest.send("join", guest.sign(made))) == (400, "M_INVALID_PARAM")
    assert int(head_of(room_id).position) == position
    # A leave that was made before a ban takes the ban back for nobody.
    leave = guest.sign(made)
    assert post(alice, room_id, "ban", {"user_id": carol}).status == 200
    assert refusal(guest.send("leave", leave)) == (403, "M_FORBIDDEN")
    assert membership(room_id, carol) == "ban"


def test_a_room_that_everybody_here_has_left_is_left_to_the_others(guest: Guest, alice: User) -> None:
    room_id, carol = room_of(alice), guest.user("carol")
    assert guest.enter("join", room_id, carol).status == 200
    assert post(alice, room_id, "leave").status == 200
    for kind in ("join", "leave", "knock"):
        assert refusal(guest.make(kind, room_id, carol)) == (404, "M_NOT_FOUND"), kind


# ── Knocking ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["7", "9", "10", "11", "12"])
def test_a_knock_is_taken_and_answered_with_what_the_room_is(guest: Guest, alice: User, version: str) -> None:
    room_id, carol = room_of(alice, "knock", version), guest.user("carol")
    follow()
    since = sync(alice)["next_batch"]
    made = guest.make("knock", room_id, carol)
    assert (made.status, made.json["room_version"]) == (200, version)
    knock = guest.sign(made.json, content={"membership": "knock", "reason": "please"})
    answer = guest.send("knock", knock)
    assert answer.status == 200
    state = state_of(room_id)
    rules = ROOM_VERSIONS[version]
    shown = {event_from_pdu(pdu, rules).event_id for pdu in answer.json["knock_room_state"]}
    assert shown == {state[key, ""] for key in STRIPPED_STATE_TYPES if (key, "") in state}
    assert {pdu["type"] for pdu in answer.json["knock_room_state"]} >= {"m.room.create", "m.room.name"}
    assert membership(room_id, carol) == "knock"
    assert guest.send("knock", knock).json == answer.json
    follow()
    told = sync(alice, since)["rooms"]["join"][room_id]["timeline"]["events"]
    assert [event["event_id"] for event in told] == [knock.event_id]
    # It is taken back, and answered.
    assert guest.enter("leave", room_id, carol).status == 200
    assert membership(room_id, carol) == "leave"


def test_a_room_is_not_to_be_knocked_at(guest: Guest, alice: User) -> None:
    public, old = room_of(alice), room_of(alice, version="6")
    for room_id in (public, old):
        assert refusal(guest.make("knock", room_id, guest.user("carol"))) == (403, "M_FORBIDDEN")
    room_id = room_of(alice, "knock")
    assert refusal(guest.make("knock", room_id, guest.user("carol"), ["6", "9"])) == (
        400,
        "M_INCOMPATIBLE_ROOM_VERSION",
    )
    assert refusal(guest.make("knock", room_id, guest.user("carol"), [])) == (400, "M_MISSING_PARAM")
    assert refusal(guest.make("knock", room_id, "@carol:elsewhere.test")) == (403, "M_FORBIDDEN")
    knock = guest.event("knock", room_id, guest.user("carol"))
    assert set_state(alice, room_id, "m.room.join_rules", {"join_rule": "invite"}).status == 200
    position = int(head_of(room_id).position)
    assert refusal(guest.send("knock", knock)) == (403, "M_FORBIDDEN")
    assert refusal(guest.send("knock", knock)) == (403, "M_FORBIDDEN")
    assert int(head_of(room_id).position) == position


def test_what_is_no_knock_of_the_servers_own_user_is_refused(guest: Guest, alice: User) -> None:
    room_id, carol = room_of(alice, "knock"), guest.user("carol")
    made = guest.make("knock", room_id, carol).json
    for event in (
        guest.sign(made, content={"membership": "join"}),
        guest.sign(made, state_key=guest.user("dave")),
        guest.sign(made, key=OTHER_KEY),
    ):
        assert refusal(guest.send("knock", event)) == (400, "M_INVALID_PARAM")
    unsigned = guest.sign(made)
    answer = guest.ask("PUT", path("v1", "send_knock", room_id, unsigned.event_id), {**unsigned.pdu, "signatures": {}})
    assert refusal(answer) == (400, "M_INVALID_PARAM")
    assert membership(room_id, carol) is None


def test_a_server_that_the_acl_bans_neither_knocks_nor_leaves(guest: Guest, alice: User) -> None:
    room_id, carol = room_of(alice, "knock"), guest.user("carol")
    knock = guest.event("knock", room_id, carol)
    acl = {"allow": ["*"], "deny": ["localhost"], "allow_ip_literals": True}
    assert set_state(alice, room_id, "m.room.server_acl", acl).status == 200
    for answer in (
        guest.make("knock", room_id, carol),
        guest.send("knock", knock),
        guest.make("leave", room_id, carol),
        guest.send("leave", knock),
    ):
        assert refusal(answer) == (403, "M_FORBIDDEN")
    assert membership(room_id, carol) is None
