"""Users of other servers join rooms of this one."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK
from functions.handshakes import FUNCTION, Guest, path
from functions.harness import Answer, User, invoke, payload
from functions.remote_server import KEY, head_of, state_of
from functions.remote_server import RemoteServer as Maker
from functions.rooms import create_room, follow, post, put, set_state, sync
from homeserver import observability
from homeserver.adapters.signing_key import signing_key
from homeserver.matrix.hashes import check_content_hash, event_from_pdu
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import SigningKey, verify_event_signature
from homeserver.services import served_joins
from homeserver.storage.room_items import EventRecord, RemoteServer, TimelineEntry, bucket_of

pytestmark = pytest.mark.usefixtures("set_up")
OTHER_KEY = SigningKey.generate("r1", b"o" * 32)
VERSIONS = ["1", "6", "9", "10", "11", "12"]


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


def public_room(user: User, version: str = "11", **body: Any) -> str:
    return create_room(user, preset="public_chat", room_version=version, **body)


def restricted_room(user: User, allowed: str, version: str = "10", **more: Any) -> str:
    rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": allowed}]}
    return create_room(
        user,
        room_version=version,
        initial_state=[{"type": "m.room.join_rules", "state_key": "", "content": rules}],
        **more,
    )


def entry_of(room_id: str, event_id: str) -> TimelineEntry:
    record = EventRecord.fetch(event_id)
    assert record is not None
    position = int(record.position or 0)
    entry = TimelineEntry.fetch(bucket_of(room_id, position), position)
    assert entry is not None
    assert entry.event_id == event_id
    return entry


def ids_of(pdus: list[dict[str, Any]], version: str) -> set[str]:
    rules = ROOM_VERSIONS[version]
    for pdu in pdus:
        assert check_content_hash(pdu, rules)
        assert "unsigned" not in pdu
    return {event_from_pdu(pdu, rules).event_id for pdu in pdus}


# ── The template ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", VERSIONS)
def test_the_template_stands_where_the_room_ends_and_names_what_authorises_it(
    guest: Guest, alice: User, version: str
) -> None:
    room_id = public_room(alice, version)
    head = head_of(room_id)
    answer = guest.make("join", room_id, guest.user("carol"))
    assert answer.status == 200
    assert answer.json["room_version"] == version
    event = answer.json["event"]
    assert (event["type"], event["sender"], event["state_key"]) == ("m.room.member", *[guest.user("carol")] * 2)
    assert event["content"] == {"membership": "join"}
    assert event["room_id"] == room_id
    assert event["depth"] == int(head.depth) + 1
    edges = [edge if isinstance(edge, str) else edge[0] for edge in event["prev_events"]]
    assert edges == [edge if isinstance(edge, str) else edge[0] for edge in head.extremities]
    state = state_of(room_id)
    wanted = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")]
    auth = {edge if isinstance(edge, str) else edge[0] for edge in event["auth_events"]}
    assert auth == {state[key] for key in (wanted[1:] if version == "12" else wanted)}
    assert not {"hashes", "signatures", "event_id", "unsigned"} & set(event)
    assert int(head_of(room_id).version) == int(head.version)


def test_a_version_that_the_other_server_does_not_know_is_refused_with_its_name(guest: Guest, alice: User) -> None:
    room_id = public_room(alice, "11")
    answer = guest.make("join", room_id, guest.user("carol"), ["1", "10"])
    assert refusal(answer) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert answer.json["room_version"] == "11"
    # Who names none knows version 1.
    assert guest.make("join", room_id, guest.user("carol"), []).errcode == "M_INCOMPATIBLE_ROOM_VERSION"


def test_only_who_may_join_gets_a_template(guest: Guest, alice: User) -> None:
    private = create_room(alice, room_version="10")
    assert refusal(guest.make("join", private, guest.user("carol"))) == (403, "M_FORBIDDEN")
    room_id = public_room(alice, "10")
    assert post(alice, room_id, "ban", {"user_id": guest.user("carol")}).status == 200
    assert refusal(guest.make("join", room_id, guest.user("carol"))) == (403, "M_FORBIDDEN")
    assert guest.make("join", room_id, guest.user("dave")).status == 200


def test_a_server_asks_for_its_own_users_only(guest: Guest, alice: User) -> None:
    room_id = public_room(alice)
    assert refusal(guest.make("join", room_id, "@mallory:elsewhere.test")) == (403, "M_FORBIDDEN")
    assert refusal(guest.make("join", room_id, "carol")) == (400, "M_INVALID_PARAM")
    assert refusal(guest.make("join", "!nowhere:example.org", guest.user("carol"))) == (404, "M_NOT_FOUND")
    assert refusal(guest.make("join", "nowhere", guest.user("carol"))) == (400, "M_INVALID_PARAM")


def test_a_room_that_is_not_federated_lets_nobody_in(guest: Guest, alice: User) -> None:
    room_id = public_room(alice, "10", creation_content={"m.federate": False})
    for kind in ("join", "leave", "knock"):
        assert refusal(guest.make(kind, room_id, guest.user("carol"))) == (403, "M_FORBIDDEN")


def test_a_server_that_the_acl_bans_is_shut_out_of_both_halves(guest: Guest, alice: User) -> None:
    room_id = public_room(alice)
    join = guest.event("join", room_id, guest.user("carol"))
    acl = {"allow": ["*"], "deny": ["localhost"], "allow_ip_literals": True}
    assert set_state(alice, room_id, "m.room.server_acl", acl).status == 200
    assert refusal(guest.make("join", room_id, guest.user("carol"))) == (403, "M_FORBIDDEN")
    assert refusal(guest.send("join", join)) == (403, "M_FORBIDDEN")
    assert EventRecord.fetch(join.event_id) is None


def test_requests_that_nobody_signed_are_refused(call, peer: Peer, alice: User) -> None:
    room_id = public_room(alice)
    user = f"@carol:{peer.name}"
    for method, uri in (
        ("GET", path("v1", "make_join", room_id, user)),
        ("PUT", path("v2", "send_join", room_id, "$x")),
        ("PUT", path("v2", "send_leave", room_id, "$x")),
        ("PUT", path("v2", "invite", room_id, "$x")),
        ("GET", path("v1", "make_knock", room_id, user)),
        ("PUT", path("v1", "send_knock", room_id, "$x")),
        ("PUT", path("v1", "exchange_third_party_invite", room_id)),
    ):
        assert refusal(call(FUNCTION, method, uri, {} if method == "PUT" else None)) == (401, "M_UNAUTHORIZED"), uri


def test_the_recorded_payload_is_refused_because_its_server_is_nowhere() -> None:
    assert refusal(invoke(FUNCTION, payload("federation_rooms_make_join"))) == (401, "M_UNAUTHORIZED")


def test_without_federation_nobody_is_answered(call, peer: Peer, alice: User, server) -> None:
    room_id = public_room(alice)
    server(FEDERATION="off")
    answer = Guest(call, peer).make("join", room_id, f"@carol:{peer.name}")
    assert refusal(answer) == (404, "M_UNRECOGNIZED")


# ── The join ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", VERSIONS)
def test_a_join_is_answered_with_the_state_before_it_and_all_auth_chains(
    guest: Guest, alice: User, bob: User, version: str
) -> None:
    room_id = public_room(alice, version, name="Lobby")
    assert post(bob, room_id, "join").status == 200
    before = state_of(room_id)
    join = guest.event("join", room_id, guest.user("carol"))
    answer = guest.send("join", join)
    assert answer.status == 200, answer
    assert ids_of(answer.json["state"], version) == set(before.values())
    # By walking, what the answer took from the chain cover.
    pdus = [*answer.json["state"], *answer.json["auth_chain"]]
    events = {(event := event_from_pdu(pdu, ROOM_VERSIONS[version])).event_id: event for pdu in pdus}
    chain: set[str] = set()
    level = {auth for i in before.values() for auth in events[i].auth_event_ids} | set(join.auth_event_ids)
    while level:
        chain |= level
        level = {auth for event_id in level for auth in events[event_id].auth_event_ids} - chain
    assert ids_of(answer.json["auth_chain"], version) == chain
    assert "members_omitted" not in answer.json
    assert answer.json["event"] == dict(join.pdu)
    assert state_of(room_id) == {**before, join.key: join.event_id}
    assert [edge if isinstance(edge, str) else edge[0] for edge in head_of(room_id).extremities] == [join.event_id]


def test_a_join_is_to_be_sent_on_to_the_others_and_shows_to_the_members(guest: Guest, alice: User) -> None:
    room_id = public_room(alice)
    follow()
    since = sync(alice)["next_batch"]
    join = guest.event("join", room_id, guest.user("carol"))
    assert guest.send("join", join).status == 200
    assert entry_of(room_id, join.event_id).origin == "relay"
    row = RemoteServer.fetch(room_id, f"server/{guest.name}")
    assert row is not None
    assert (int(row.members), row.left_at) == (1, None)
    follow()
    (event,) = sync(alice, since)["rooms"]["join"][room_id]["timeline"]["events"]
    assert (event["event_id"], event["sender"]) == (join.event_id, guest.user("carol"))


def test_the_same_join_again_is_answered_the_same_whatever_happened_since(guest: Guest, alice: User) -> None:
    room_id = public_room(alice)
    join = guest.event("join", room_id, guest.user("carol"))
    first = guest.send("join", join)
    assert set_state(alice, room_id, "m.room.topic", {"topic": "later"}).status == 200
    assert guest.enter("join", room_id, guest.user("dave")).status == 200
    position = int(head_of(room_id).position)
    again = guest.send("join", join)
    assert again.status == 200
    assert ids_of(again.json["state"], "11") == ids_of(first.json["state"], "11")
    assert ids_of(again.json["auth_chain"], "11") == ids_of(first.json["auth_chain"], "11")
    assert again.json["event"] == first.json["event"]
    assert int(head_of(room_id).position) == position
    assert guest.enter("leave", room_id, guest.user("carol")).status == 200
    assert ids_of(guest.send("join", join).json["state"], "11") == ids_of(first.json["state"], "11")
    assert (state_of(room_id)["m.room.member", guest.user("carol")]) != join.event_id


def test_a_join_of_version_1_is_answered_in_a_pair(call, peer: Peer, alice: User) -> None:
    guest = Guest(call, peer)
    room_id = public_room(alice, "6")
    before = state_of(room_id)
    answer = guest.send("join", guest.event("join", room_id, guest.user("carol")), "v1")
    assert answer.status == 200
    status, body = answer.json
    assert status == 200
    assert ids_of(body["state"], "6") == set(before.values())


def test_a_join_between_other_events_stands_where_it_was_made(guest: Guest, alice: User) -> None:
    room_id = public_room(alice)
    join = guest.event("join", room_id, guest.user("carol"))
    assert set_state(alice, room_id, "m.room.topic", {"topic": "meanwhile"}).status == 200
    topic = state_of(room_id)["m.room.topic", ""]
    answer = guest.send("join", join)
    assert answer.status == 200
    # The topic came beside it: it is not of the state before the join.
    assert topic not in ids_of(answer.json["state"], "11")
    assert state_of(room_id)["m.room.member", guest.user("carol")] == join.event_id
    assert set(head_of(room_id).extremities) == {topic, join.event_id}


def test_without_members_the_answer_has_the_other_state_and_the_servers(guest: Guest, alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Lobby")
    assert post(bob, room_id, "join").status == 200
    assert guest.enter("join", room_id, guest.user("carol")).status == 200
    before = state_of(room_id)
    answer = guest.enter("join", room_id, guest.user("dave"), query={"omit_members": "true"})
    assert answer.status == 200
    body = answer.json
    assert ids_of(body["state"], "11") == {i for key, i in before.items() if key[0] != "m.room.member"}
    assert body["members_omitted"] is True
    assert body["servers_in_room"] == ["example.org", guest.name]
    chain = ids_of(body["auth_chain"], "11")
    assert not chain & ids_of(body["state"], "11")
    # Who sent the state is authorised by a membership, which is in the chain and not in the state.
    assert before["m.room.member", alice.user_id] in chain
    assert before["m.room.member", bob.user_id] not in chain


def test_the_first_server_to_join_is_not_among_those_that_were_there(guest: Guest, alice: User) -> None:
    room_id = public_room(alice, name="Lobby")
    answer = guest.enter("join", room_id, guest.user("carol"), query={"omit_members": "true"})
    assert answer.json["servers_in_room"] == ["example.org"]


def test_a_room_without_a_name_tells_whom_it_is_named_after(guest: Guest, alice: User, bob: User) -> None:
    room_id = public_room(alice)
    assert post(bob, room_id, "join").status == 200
    before = state_of(room_id)
    answer = guest.enter("join", room_id, guest.user("carol"), query={"omit_members": "true"})
    members = {i for key, i in before.items() if key[0] == "m.room.member"}
    assert members <= ids_of(answer.json["state"], "11")
    assert "members_omitted" not in answer.json  # there are no others


def test_a_redacted_state_event_goes_out_without_what_was_taken_from_it(call, peer: Peer, alice: User) -> None:
    guest = Guest(call, peer)
    room_id = public_room(alice, name="secret")
    name = state_of(room_id)["m.room.name", ""]
    assert put(alice, room_id, "redact", name, "r", body={}).status == 200
    answer = guest.enter("join", room_id, guest.user("carol"))
    (pdu,) = [pdu for pdu in answer.json["state"] if pdu["type"] == "m.room.name"]
    assert pdu["content"] == {}
    assert "unsigned" not in pdu
    assert "secret" not in json.dumps(answer.json)


def test_a_state_that_fits_no_answer_is_refused_before_the_user_is_in(
    guest: Guest, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = public_room(alice, name="Lobby")
    for number in range(5):
        content = {"text": "x" * 2000, "number": number}
        assert set_state(alice, room_id, "org.example.large", content, str(number)).status == 200
    for number in range(5):
        assert guest.enter("join", room_id, guest.user(f"member{number}")).status == 200
    join = guest.event("join", room_id, guest.user("carol"))
    monkeypatch.setattr(served_joins, "MOST_BYTES", 22_000)
    assert refusal(guest.send("join", join)) == (413, "M_TOO_LARGE")
    assert join.key not in state_of(room_id)
    answer = guest.send("join", join, query={"omit_members": "true"})
    assert answer.status == 200
    assert answer.json["members_omitted"] is True
    assert state_of(room_id)[join.key] == join.event_id
    # The same request without members still fits, and with them it still does not.
    assert guest.send("join", join, query={"omit_members": "true"}).status == 200
    assert refusal(guest.send("join", join)) == (413, "M_TOO_LARGE")


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────


def test_what_is_no_join_of_the_servers_own_user_about_themselves_is_refused(guest: Guest, alice: User) -> None:
    room_id = public_room(alice)
    made = guest.make("join", room_id, guest.user("carol")).json
    position = int(head_of(room_id).position)
    other = "@mallory:elsewhere.test"
    for change in (
        {"type": "m.room.message", "state_key": None},
        {"type": "m.room.topic"},
        {"content": {"membership": "invite"}},
        {"content": {"membership": "leave"}},
        {"content": {}},
        {"content": {"membership": "join", "m.relates_to": {"rel_type": "m.reference", "event_id": "$" + "a" * 43}}},
        {"state_key": guest.user("dave")},
        {"state_key": None},
        {"sender": other, "state_key": other},
        {"depth": "deep"},
        {"prev_events": ["$x"] * 21},
        {"origin_server_ts": None},
    ):
        event = guest.sign(made, **change) if change.keys() != {"depth"} else None
        if event is None:
            body = {**made["event"], **change, "hashes": {"sha256": "x"}, "signatures": {}}
            answer = guest.ask("PUT", path("v2", "send_join", room_id, "$" + "a" * 43), body)
        else:
            answer = guest.send("join", event)
        assert refusal(answer) == (400, "M_INVALID_PARAM"), change
    assert int(head_of(room_id).position) == position


def test_a_join_with_a_wrong_signature_hash_or_address_is_refused(guest: Guest, alice: User) -> None:
    room_id, other_room = public_room(alice), public_room(alice)
    made = guest.make("join", room_id, guest.user("carol")).json
    join = guest.sign(made)
    forged = guest.sign(made, key=OTHER_KEY)
    assert refusal(guest.send("join", forged)) == (400, "M_INVALID_PARAM")
    unsigned = {**join.pdu, "signatures": {}}
    where = path("v2", "send_join", room_id, join.event_id)
    assert refusal(guest.ask("PUT", where, unsigned)) == (400, "M_INVALID_PARAM")
    for wrong in ({**join.pdu, "origin_server_ts": 5}, {**join.pdu, "hashes": {"sha256": "a" * 43}}):
        assert refusal(guest.ask("PUT", where, wrong)) == (400, "M_INVALID_PARAM")
    # The content is not signed but hashed: one that was changed on the way is not taken for what was left of it.
    changed = {**join.pdu, "content": {"membership": "join", "displayname": "Mallory"}}
    assert refusal(guest.ask("PUT", where, changed)) == (400, "M_INVALID_PARAM")
    assert refusal(guest.send("join", join, event_id="$" + "a" * 43)) == (400, "M_INVALID_PARAM")
    assert refusal(guest.send("join", join, event_id="nothing")) == (400, "M_INVALID_PARAM")
    assert refusal(guest.send("join", join, room_id=other_room)) == (400, "M_INVALID_PARAM")
    assert refusal(guest.ask("PUT", where, [])) == (400, "M_BAD_JSON")
    assert refusal(guest.ask("PUT", where + "?omit_members=perhaps", dict(join.pdu))) == (400, "M_INVALID_PARAM")
    assert join.key not in state_of(room_id)
    assert guest.send("join", join).status == 200


def test_a_join_that_the_room_refuses_is_refused_again(guest: Guest, alice: User) -> None:
    room_id = public_room(alice)
    join = guest.event("join", room_id, guest.user("carol"))
    assert post(alice, room_id, "ban", {"user_id": guest.user("carol")}).status == 200
    position = int(head_of(room_id).position)
    for _ in range(2):
        assert refusal(guest.send("join", join)) == (403, "M_FORBIDDEN")
    assert int(head_of(room_id).position) == position
    assert state_of(room_id)["m.room.member", guest.user("carol")] != join.event_id


def test_a_join_with_forged_auth_events_is_refused(guest: Guest, alice: User) -> None:
    private = create_room(alice, room_version="10")
    room_id = public_room(alice, "10")
    made = guest.make("join", room_id, guest.user("carol")).json
    state = state_of(private)
    auth = [state["m.room.create", ""], state["m.room.power_levels", ""], state["m.room.join_rules", ""]]
    into_private = guest.sign(made, room_id=private, auth_events=auth, prev_events=list(head_of(private).extremities))
    assert refusal(guest.send("join", into_private)) == (403, "M_FORBIDDEN")
    other = public_room(alice, "10")
    foreign = guest.sign(made, auth_events=[state_of(other)["m.room.create", ""]])
    assert refusal(guest.send("join", foreign)) == (403, "M_FORBIDDEN")
    unknown = guest.sign(made, prev_events=["$" + "a" * 43])
    answer = guest.send("join", unknown)
    assert refusal(answer) == (403, "M_FORBIDDEN")
    assert "does not know" in answer.json["error"]
    assert ("m.room.member", guest.user("carol")) not in {**state_of(private), **state_of(room_id)}


def test_a_server_cannot_hand_in_the_event_of_another_server(guest: Guest, checked, alice: User, tmp_path) -> None:
    room_id = public_room(alice)
    join = guest.event("join", room_id, guest.user("carol"))
    with Peer(tmp_path / "other", key=OTHER_KEY) as other:
        assert refusal(Guest(checked, other).send("join", join)) == (400, "M_INVALID_PARAM")
    assert join.key not in state_of(room_id)


# ── Restricted rooms ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["8", "9", "10", "11", "12"])
def test_who_is_in_the_other_room_is_let_in_with_this_servers_signature(
    guest: Guest, alice: User, version: str
) -> None:
    lobby = public_room(alice)
    assert guest.enter("join", lobby, guest.user("carol")).status == 200
    room_id = restricted_room(alice, lobby, version)
    made = guest.make("join", room_id, guest.user("carol"))
    assert made.json["event"]["content"]["join_authorised_via_users_server"] == alice.user_id
    join = guest.sign(made.json)
    assert set(join.pdu["signatures"]) == {guest.name}
    answer = guest.send("join", join)
    assert answer.status == 200
    event = answer.json["event"]
    assert set(event["signatures"]) == {guest.name, "example.org"}
    rules = ROOM_VERSIONS[version]
    key = signing_key()
    verify_event_signature(event, rules, "example.org", {key.key_id: key.verify_key})
    assert {**event, "signatures": join.pdu["signatures"]} == dict(join.pdu)
    assert state_of(room_id)["m.room.member", guest.user("carol")] == join.event_id
    # What the others get has both signatures.
    record = EventRecord.fetch(join.event_id)
    assert record is not None
    assert guest.send("join", join).json["event"] == event


def test_who_is_not_in_the_other_room_is_not_let_in(guest: Guest, alice: User) -> None:
    lobby = public_room(alice)
    room_id = restricted_room(alice, lobby)
    assert refusal(guest.make("join", room_id, guest.user("carol"))) == (403, "M_FORBIDDEN")


def test_where_this_server_is_in_none_of_the_rooms_another_has_to_say(guest: Guest, alice: User) -> None:
    room_id = restricted_room(alice, "!other:elsewhere.test")
    answer = guest.make("join", room_id, guest.user("carol"))
    assert refusal(answer) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")


def test_where_nobody_here_can_invite_another_server_has_to_let_in(guest: Guest, alice: User) -> None:
    lobby = public_room(alice)
    assert guest.enter("join", lobby, guest.user("carol")).status == 200
    room_id = restricted_room(alice, lobby, power_level_content_override={"invite": 101})
    answer = guest.make("join", room_id, guest.user("carol"))
    assert refusal(answer) == (400, "M_UNABLE_TO_GRANT_JOIN")


def test_nothing_is_signed_for_who_meets_no_condition_any_more(guest: Guest, alice: User) -> None:
    lobby = public_room(alice)
    assert guest.enter("join", lobby, guest.user("carol")).status == 200
    room_id = restricted_room(alice, lobby)
    join = guest.event("join", room_id, guest.user("carol"))
    assert guest.enter("leave", lobby, guest.user("carol")).status == 200
    assert refusal(guest.send("join", join)) == (403, "M_FORBIDDEN")
    assert EventRecord.fetch(join.event_id) is None
    # Nor for somebody who only says that a user of this server lets them in.
    made = guest.make("join", public_room(alice, "10"), guest.user("dave")).json
    state = state_of(room_id)
    keys = [
        ("m.room.create", ""),
        ("m.room.power_levels", ""),
        ("m.room.join_rules", ""),
        ("m.room.member", alice.user_id),
    ]
    content = {"membership": "join", "join_authorised_via_users_server": alice.user_id}
    forged = guest.sign(
        made,
        room_id=room_id,
        content=content,
        auth_events=[state[key] for key in keys],
        prev_events=list(head_of(room_id).extremities),
    )
    assert refusal(guest.send("join", forged)) == (403, "M_FORBIDDEN")
    assert EventRecord.fetch(forged.event_id) is None


def test_who_is_invited_needs_nobodys_word(guest: Guest, alice: User) -> None:
    room_id = restricted_room(alice, "!other:elsewhere.test")
    maker = Maker(room_id, guest.name)
    rules = {"join_rule": "public"}
    assert set_state(alice, room_id, "m.room.join_rules", rules).status == 200
    assert guest.enter("join", room_id, guest.user("boss")).status == 200
    restricted = {"join_rule": "restricted", "allow": []}
    assert set_state(alice, room_id, "m.room.join_rules", restricted).status == 200
    maker.accepted(maker.member(guest.user("boss"), "invite", guest.user("carol")))
    made = guest.make("join", room_id, guest.user("carol"))
    assert made.json["event"]["content"] == {"membership": "join"}
    answer = guest.send("join", guest.sign(made.json))
    assert answer.status == 200
    assert set(answer.json["event"]["signatures"]) == {guest.name}


# ── Crashes ──────────────────────────────────────────────────────────────────────────────────────────


class Crash(BaseException):
    """The function ends here."""


@pytest.mark.parametrize("point", ["receive.before_commit", "commit.before", "commit.after"])
def test_a_join_that_was_cut_off_is_made_good_by_the_same_request(
    guest: Guest, call: Callable[..., Answer], alice: User, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    room_id = public_room(alice)
    before = state_of(room_id)
    join = guest.event("join", room_id, guest.user("carol"))

    def crash(name: str) -> None:
        if name == point:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(observability, "fault_hook", crash)
        assert Guest(call, guest.peer).send("join", join).status == 500
    assert (join.key in state_of(room_id)) is (point == "commit.after")
    answer = guest.send("join", join)
    assert answer.status == 200
    assert ids_of(answer.json["state"], "11") == set(before.values())
    assert state_of(room_id) == {**before, join.key: join.event_id}
