"""Rooms and spaces of a real Synapse seen from Eigenserver, and the other way round, by who is in none of them."""

from collections.abc import Iterator

import pytest

from e2e.client import Client, segments
from e2e.servers import HOSTS, Servers, needs_synapse, server_of

pytestmark = needs_synapse


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


def v1(*parts: str) -> str:
    return segments(*parts).replace("/v3/", "/v1/")


def space(user: Client, name: str, *children: str, version: str = "11") -> str:
    kind = {"type": "m.space"}
    room_id = user.create_room(preset="public_chat", name=name, creation_content=kind, room_version=version)
    for number, child in enumerate(children):
        content = {"via": [server_of(user)], "order": f"{number}", "suggested": not number}
        user.set_state(room_id, "m.space.child", content, child)
    return room_id


@pytest.mark.parametrize("host", HOSTS)
def test_a_stranger_on_the_other_side_reads_the_summary_of_a_room(servers: Servers, host: str) -> None:
    hanna, gero = servers.people(host)
    room_id = hanna.create_room(preset="public_chat", name="Open", topic="Leaves", room_version="11")
    closed = hanna.create_room(preset="private_chat", name="Closed")
    via = {"via": server_of(hanna)}
    told = gero.ok("GET", v1("room_summary", room_id), query=via)
    kept = ("room_id", "name", "topic", "join_rule", "num_joined_members", "world_readable", "room_version")
    assert [told.get(key) for key in kept] == [room_id, "Open", "Leaves", "public", 1, False, "11"]
    assert gero.ask("GET", v1("room_summary", closed), query=via).status == 404


@pytest.mark.parametrize("version", ["10", "12"])
def test_a_stranger_here_walks_through_a_space_of_synapse(servers: Servers, version: str) -> None:
    hanna, gero = servers.people("synapse")
    leaf, second = (hanna.create_room(preset="public_chat", name=name) for name in ("leaf", "second"))
    closed = hanna.create_room(preset="private_chat", name="closed")
    inner = space(hanna, "inner", leaf)
    top = space(hanna, "top", inner, closed, second, version=version)
    via = {"via": server_of(hanna)} if version == "12" else {}  # an ID of version 12 names no server
    found = gero.ok("GET", v1("rooms", top, "hierarchy"), query=via)
    assert [room["name"] for room in found["rooms"]] == ["top", "inner", "leaf", "second"]
    assert [len(room["children_state"]) for room in found["rooms"]] == [3, 1, 0, 0]
    suggested = gero.ok("GET", v1("rooms", top, "hierarchy"), query={"suggested_only": "true", **via})
    assert [room["name"] for room in suggested["rooms"]] == ["top", "inner", "leaf"]
    first = gero.ok("GET", v1("rooms", top, "hierarchy"), query={"limit": 2, **via})
    rest = gero.ok("GET", v1("rooms", top, "hierarchy"), query={"from": first["next_batch"]})
    assert [room["name"] for room in first["rooms"] + rest["rooms"]] == ["top", "inner", "leaf", "second"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_space_reaches_over_both_servers(servers: Servers, host: str) -> None:
    hanna, gero = servers.people(host)
    far = space(gero, "far", gero.create_room(preset="public_chat", name="leaf"))
    top = space(hanna, "top", hanna.create_room(preset="public_chat", name="near"))
    hanna.set_state(top, "m.space.child", {"via": [server_of(gero)], "order": "9"}, far)
    found = hanna.ok("GET", v1("rooms", top, "hierarchy"))
    assert [room["name"] for room in found["rooms"]] == ["top", "near", "far", "leaf"]
