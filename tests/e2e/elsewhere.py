"""Users of this server in rooms of another one, and users of the other one invited: for what has to be seen of all."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from e2e.client import Answer, Client, at_once, segments
from e2e.local_run import SERVER_NAME
from e2e.told_by_servers import history_of
from federation_peer import KEYS
from functions.resident_peer import ResidentPeer
from homeserver.matrix import unpadded_base64


def resident(folder: Path, nobody: Client) -> ResidentPeer:
    """A server that lets users of this one into its rooms."""

    def keys() -> dict[str, bytes]:
        published = nobody.twin().ok("GET", KEYS)["verify_keys"]
        return {key_id: unpadded_base64.decode(key["key"]) for key_id, key in published.items()}

    return ResidentPeer(folder, home=SERVER_NAME, home_keys=keys)


def go_elsewhere(alice: Client, bob: Client, carol: Client, nobody: Client, folder: Path) -> None:
    """Join, knock, leave and be too late; invite in each of the ways. Carol is left knocking."""
    with resident(folder / "resident", nobody) as peer, resident(folder / "another", nobody) as another:
        invite(alice, peer, another)
        open_room = peer.room(join_rule="public", name="Open")
        alias = f"#open:{peer.name}"
        peer.aliases[alias] = (open_room.id, [peer.name])
        assert nobody.ok("GET", segments("directory", "room", alias))["room_id"] == open_room.id
        assert alice.ok("POST", segments("join", alias), {}) == {"room_id": open_room.id}
        alice.send(open_room.id, "hello")
        assert history_of(alice, open_room.id, peer.name).json == []  # it tells of none
        bob.ok("POST", segments("join", open_room.id), {}, query={"via": peer.name})
        for user in (alice, bob):
            assert user.act(open_room.id, "leave").status == 200
        # Nobody of this server is there any more.
        assert alice.ok("POST", segments("join", open_room.id), {}) == {"room_id": open_room.id}
        closed = peer.room(join_rule="knock", version="12")
        via = {"via": peer.name}
        for user in (alice, bob):
            assert user.ok("POST", segments("knock", closed.id), {}, query=via) == {"room_id": closed.id}
        assert alice.act(closed.id, "leave").status == 200
        be_late(alice, bob, peer, closed.id)
        carol.ok("POST", segments("knock", closed.id), {}, query=via)


def invite(alice: Client, peer: ResidentPeer, another: ResidentPeer) -> None:
    """Each of the functions asks a server for keys that it does not know."""
    room_id = alice.create_room(invite=[f"@first:{peer.name}"])
    alice.invite(room_id, f"@second:{peer.name}")
    alice.set_state(room_id, "m.room.member", {"membership": "invite"}, f"@third:{another.name}")
    members = alice.state(room_id)
    for name, server in (("first", peer), ("second", peer), ("third", another)):
        assert members["m.room.member", f"@{name}:{server.name}"]["content"]["membership"] == "invite"


def be_late(alice: Client, bob: Client, peer: ResidentPeer, room_id: str) -> None:
    """Both wait in vain: for a server that thinks for longer than a request lasts, and for the one before."""
    peer.slow |= {"make_knock": 10.0, "send_knock": 18.0}
    leave = segments("rooms", room_id, "state", "m.room.member", bob.user_id)

    def leave_later() -> Answer:
        wait_until(lambda: peer.count("make_knock") == 3)
        return bob.ask_anything("PUT", leave, {"membership": "leave"})

    knock = partial(alice.ask_anything, "POST", segments("knock", room_id), {}, query={"via": peer.name})
    assert [answer.status for answer in at_once(knock, leave_later)] == [504, 504]
    peer.slow.clear()
    wait_until(lambda: bob.ask_anything("PUT", leave, {"membership": "leave"}).status == 403)


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def knock_once_more(popular: Client, nobody: Client, folder: Path) -> None:
    """A knock of somebody whose inbox is full: the worker has to make room."""
    with resident(folder / "resident", nobody) as peer:
        room = peer.room(join_rule="knock", version="12")
        query = {"via": peer.name}
        assert popular.ok("POST", segments("knock", room.id), {}, query=query) == {"room_id": room.id}
