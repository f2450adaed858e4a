"""A room with users of Eigenserver and of a real Synapse: made on either side, in each room version."""

from collections.abc import Iterator

import pytest

from e2e.client import V3, Client, at_once, segments
from e2e.servers import (
    HOSTS,
    VERSIONS,
    RoomList,
    Servers,
    eventually,
    join,
    knock,
    membership,
    needs_synapse,
    server_of,
    shared_room,
    state_content,
    state_ids,
    texts,
)

pytestmark = needs_synapse


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", HOSTS)
def test_two_users_meet_by_an_alias_and_talk(servers: Servers, host: str, version: str) -> None:
    hanna, gero = servers.people(host)
    name = f"met-{host}-{version}"
    room_id = hanna.create_room(preset="public_chat", room_version=version, room_alias_name=name)
    alias = f"#{name}:{server_of(hanna)}"
    found = gero.ok("GET", segments("directory", "room", alias))
    assert (found["room_id"], server_of(hanna) in found["servers"]) == (room_id, True)

    assert join(gero, alias).json == {"room_id": room_id}
    eventually(lambda: membership(hanna, room_id, gero) == "join", "the guest is there for the host")
    hanna.sync()
    gero.sync()
    for number in range(3):
        hanna.send(room_id, f"host {number}")
        gero.sync_until(lambda n=number: f"host {n}" in gero.bodies(room_id))
        gero.send(room_id, f"guest {number}")
        hanna.sync_until(lambda n=number: f"guest {n}" in hanna.bodies(room_id))
    talk = [f"{who} {number}" for number in range(3) for who in ("host", "guest")]
    assert texts(hanna, room_id) == texts(gero, room_id) == talk

    hanna.set_state(room_id, "m.room.topic", {"topic": "two servers"})
    eventually(
        lambda: (state_content(gero, room_id, "m.room.topic") or {}).get("topic") == "two servers", "the topic arrives"
    )
    assert state_ids(hanna, room_id) == state_ids(gero, room_id)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", HOSTS)
def test_a_redaction_on_one_side_prunes_on_the_other(servers: Servers, host: str, version: str) -> None:
    hanna, gero = servers.people(host)
    room_id = shared_room(hanna, gero, room_version=version)
    by_guest, by_host = gero.send(room_id, "what the guest regrets"), hanna.send(room_id, "what the host regrets")
    eventually(lambda: len(texts(hanna, room_id)) == len(texts(gero, room_id)) == 2, "both messages are everywhere")
    gero.ok("PUT", segments("rooms", room_id, "redact", by_guest, "r1"), {"reason": "a slip"})
    hanna.ok("PUT", segments("rooms", room_id, "redact", by_host, "r2"), {})

    def content(user: Client, event_id: str) -> object:
        return user.ok("GET", segments("rooms", room_id, "event", event_id))["content"]

    eventually(lambda: content(hanna, by_guest) == {}, "the guest's message is pruned for the host")
    eventually(lambda: content(gero, by_host) == {}, "the host's message is pruned for the guest")
    eventually(lambda: texts(hanna, room_id) == texts(gero, room_id) == [], "nothing of it is read")


@pytest.mark.parametrize("host", HOSTS)
def test_typing_and_receipts_are_seen_on_the_other_side(servers: Servers, host: str) -> None:
    hanna, gero = servers.people(host)
    room_id = shared_room(hanna, gero)
    event_id = hanna.send(room_id, "read this")
    gero.sync_until(lambda: "read this" in gero.bodies(room_id))

    host_sees, guest_sees = Ephemeral(hanna, room_id), Ephemeral(gero, room_id)
    gero.ok("PUT", segments("rooms", room_id, "typing", gero.user_id), {"typing": True, "timeout": 20_000})
    eventually(lambda: gero.user_id in host_sees.typing(), "the guest is seen typing")
    gero.ok("PUT", segments("rooms", room_id, "typing", gero.user_id), {"typing": False})
    eventually(lambda: host_sees.typing() == [], "the guest stops typing")
    hanna.ok("PUT", segments("rooms", room_id, "typing", hanna.user_id), {"typing": True, "timeout": 20_000})
    eventually(lambda: hanna.user_id in guest_sees.typing(), "the host is seen typing")

    gero.ok("POST", segments("rooms", room_id, "receipt", "m.read", event_id), {})
    eventually(lambda: gero.user_id in host_sees.readers(event_id), "the guest's receipt is seen")
    answer = gero.send(room_id, "read")
    hanna.sync_until(lambda: "read" in hanna.bodies(room_id))
    hanna.ok("POST", segments("rooms", room_id, "receipt", "m.read", answer), {})
    eventually(lambda: hanna.user_id in guest_sees.readers(answer), "the host's receipt is seen")


class Ephemeral:
    """What a user's sync chain tells of a room's typing and receipts."""

    def __init__(self, user: Client, room_id: str) -> None:
        self._user, self._room_id = user, room_id
        self._typing: list[str] = []
        self._readers: dict[str, set[str]] = {}

    def typing(self) -> list[str]:
        self._follow()
        return self._typing

    def readers(self, event_id: str) -> set[str]:
        self._follow()
        return self._readers.get(event_id, set())

    def _follow(self) -> None:
        rooms = self._user.sync(timeout=0.2).get("rooms", {}).get("join", {})
        for event in rooms.get(self._room_id, {}).get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                self._typing = event["content"]["user_ids"]
            if event["type"] == "m.receipt":
                for event_id, by_kind in event["content"].items():
                    self._readers.setdefault(event_id, set()).update(by_kind.get("m.read", {}))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", HOSTS)
def test_an_invitation_is_accepted(servers: Servers, host: str, version: str) -> None:
    hanna, gero = servers.people(host)
    rooms = RoomList(gero)
    room_id = hanna.create_room(preset="private_chat", name="Behind the door", room_version=version)
    hanna.invite(room_id, gero.user_id)
    eventually(lambda: rooms.section(room_id) == "invite", "the invitation is told")
    assert rooms.invited[room_id]["m.room.name"] == {"name": "Behind the door"}
    assert join(gero, room_id).json == {"room_id": room_id}
    eventually(lambda: membership(hanna, room_id, gero) == "join", "the guest is in")
    eventually(lambda: rooms.section(room_id) == "join", "the guest's client knows")
    gero.send(room_id, "thank you")
    eventually(lambda: texts(hanna, room_id) == ["thank you"], "the guest is heard")


@pytest.mark.parametrize("host", HOSTS)
def test_an_invitation_is_rejected_and_another_withdrawn(servers: Servers, host: str) -> None:
    hanna, gero = servers.people(host)
    rooms = RoomList(gero)
    room_id = hanna.create_room(preset="private_chat")
    hanna.invite(room_id, gero.user_id)
    eventually(lambda: rooms.section(room_id) == "invite", "the invitation is told")
    assert gero.act(room_id, "leave").status == 200
    eventually(lambda: membership(hanna, room_id, gero) == "leave", "the host knows of the refusal")
    eventually(lambda: rooms.section(room_id) == "leave", "the invitation is gone")

    hanna.invite(room_id, gero.user_id)
    eventually(lambda: rooms.section(room_id) == "invite", "the second invitation is told")
    assert hanna.act(room_id, "kick", user_id=gero.user_id).status == 200
    eventually(lambda: rooms.section(room_id) == "leave", "it is withdrawn")
    assert join(gero, room_id, server_of(hanna)).status == 403


@pytest.mark.parametrize("version", ["9", "10", "12"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_knock_is_answered_with_an_invitation(servers: Servers, host: str, version: str) -> None:
    hanna, gero = servers.people(host)
    room_id, rooms = knock(hanna, gero, room_version=version)
    hanna.invite(room_id, gero.user_id)
    eventually(lambda: rooms.section(room_id) == "invite", "the knock is answered with an invitation")
    assert join(gero, room_id).status == 200
    eventually(lambda: membership(hanna, room_id, gero) == "join", "who knocked is in")


def test_a_knock_at_a_room_of_synapse_is_taken_back(servers: Servers) -> None:
    """The other way round nothing arrives: Synapse forgets its user's knock without telling the room's server."""
    hanna, gero = servers.people("synapse")
    room_id, rooms = knock(hanna, gero)
    assert gero.act(room_id, "leave").status == 200
    eventually(lambda: membership(hanna, room_id, gero) == "leave", "the host knows")
    eventually(lambda: rooms.section(room_id) == "leave", "it is gone for the guest")


@pytest.mark.parametrize("version", ["9", "10", "11", "12"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_member_of_a_space_joins_its_restricted_room(servers: Servers, host: str, version: str) -> None:
    hanna, gero = servers.people(host)
    space = shared_room(hanna, gero, creation_content={"type": "m.space"}, room_version=version)
    allow = [{"type": "m.room_membership", "room_id": space}]
    rules = {
        "type": "m.room.join_rules",
        "state_key": "",
        "content": {"join_rule": "restricted", "allow": allow},
    }
    room_id = hanna.create_room(preset="private_chat", initial_state=[rules], room_version=version)
    _, stranger = servers.people(host)
    refused = join(stranger, room_id, server_of(hanna))
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert join(gero, room_id, server_of(hanna)).json == {"room_id": room_id}
    eventually(lambda: membership(hanna, room_id, gero) == "join", "the member of the space is in")
    content = state_content(hanna, room_id, "m.room.member", gero.user_id)
    assert content["join_authorised_via_users_server"] == hanna.user_id
    hanna.send(room_id, "welcome")
    eventually(lambda: texts(gero, room_id) == ["welcome"], "the member hears")


@pytest.mark.parametrize("version", ["6", "10", "12"])
@pytest.mark.parametrize("host", HOSTS)
def test_who_is_kicked_may_come_back_and_who_is_banned_may_not(servers: Servers, host: str, version: str) -> None:
    hanna, gero = servers.people(host)
    room_id = shared_room(hanna, gero, room_version=version)
    rooms = RoomList(gero)
    assert hanna.act(room_id, "kick", user_id=gero.user_id, reason="a break").status == 200
    eventually(lambda: rooms.section(room_id) == "leave", "the guest is out")
    hanna.send(room_id, "not for the guest")
    assert join(gero, room_id, server_of(hanna)).status == 200
    eventually(lambda: membership(hanna, room_id, gero) == "join", "the guest is back")
    eventually(lambda: rooms.section(room_id) == "join", "the guest's client knows")

    assert hanna.act(room_id, "ban", user_id=gero.user_id).status == 200
    eventually(lambda: rooms.section(room_id) == "leave", "the guest is banned")
    assert join(gero, room_id, server_of(hanna)).status == 403
    assert hanna.act(room_id, "unban", user_id=gero.user_id).status == 200
    eventually(lambda: join(gero, room_id, server_of(hanna)).status == 200, "the ban is lifted")


@pytest.mark.parametrize("version", ["6", "11", "12"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_hundred_events_from_before_the_join_are_read(servers: Servers, host: str, version: str) -> None:
    hanna, gero = servers.people(host)
    room_id = hanna.create_room(preset="public_chat", room_version=version)
    said = [f"before {number}" for number in range(100)]
    for body in said:
        hanna.send(room_id, body)
    assert join(gero, room_id, server_of(hanna)).status == 200
    assert texts(gero, room_id) == said
    first = gero.messages(room_id, "b")[-1]
    assert first["type"] == "m.room.create"


@pytest.mark.parametrize("host", HOSTS)
def test_published_rooms_and_profiles_are_found_on_the_other_side(servers: Servers, host: str) -> None:
    hanna, gero = servers.people(host)
    hanna.ok("PUT", segments("profile", hanna.user_id, "displayname"), {"displayname": "Hanna"})
    room_id = hanna.create_room(preset="public_chat", visibility="public", name=f"Open to all on {host}")
    query = {"server": server_of(hanna), "limit": 50}

    def found() -> dict[str, str | None]:
        rooms = gero.ok("GET", f"{V3}/publicRooms", query=query)["chunk"]
        return {room["room_id"]: room.get("name") for room in rooms}

    eventually(lambda: found().get(room_id) == f"Open to all on {host}", "the published room is found")
    searched = gero.ok(
        "POST",
        f"{V3}/publicRooms",
        {"filter": {"generic_search_term": f"to all on {host}"}},
        query={"server": server_of(hanna)},
    )
    assert room_id in {room["room_id"] for room in searched["chunk"]}
    assert gero.ok("GET", segments("profile", hanna.user_id))["displayname"] == "Hanna"


@pytest.mark.parametrize("version", ["6", "10", "12"])
@pytest.mark.parametrize("host", HOSTS)
def test_what_both_sides_send_at_once_converges(servers: Servers, host: str, version: str) -> None:
    hanna, gero = servers.people(host)
    levels = {"users_default": 50}
    room_id = shared_room(hanna, gero, room_version=version, power_level_content_override=levels)
    hanna_too, gero_too = hanna.twin(), gero.twin()

    def talk(user: Client, who: str) -> None:
        for number in range(15):
            user.send(room_id, f"{who} {number}")
            if number % 5 == 0:
                user.set_state(room_id, "m.room.topic", {"topic": f"{who} {number}"})

    at_once(lambda: talk(hanna_too, "host"), lambda: talk(gero_too, "guest"))
    hanna.send(room_id, "host is done")
    gero.send(room_id, "guest is done")
    everything = {f"{who} {n}" for who in ("host", "guest") for n in [*range(15), "is done"]}
    for user in (hanna, gero):
        eventually(lambda u=user: set(texts(u, room_id)) == everything, "every message is on both sides", 60)
        said = texts(user, room_id)
        assert len(said) == len(everything)
        for who in ("host", "guest"):
            assert [body for body in said if body.startswith(f"{who} ")][:-1] == [f"{who} {n}" for n in range(15)]
    # Whoever speaks last merges the forks; then both have one state.
    hanna.send(room_id, "merged")
    eventually(lambda: "merged" in texts(gero, room_id), "the last word is heard")
    eventually(lambda: state_ids(hanna, room_id) == state_ids(gero, room_id), "both have the same state")
