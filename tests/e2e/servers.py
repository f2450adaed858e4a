"""A Synapse and an Eigenserver that know each other, for the tests in which users of both share rooms."""

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pytest

from e2e.client import Answer, Client, segments
from e2e.gate import Gate
from e2e.local_run import Server
from e2e.synapse_peer import IS_ABSENT, WHY_ABSENT, Synapse
from federation_peer import free_port

LOOPBACK = "127.0.0.0/8,::1/128"
PATIENCE = 30.0  # seconds until what one server does must be seen on the other
VERSIONS = ("6", "9", "10", "11", "12")
HOSTS = ("ours", "synapse")
needs_synapse = [pytest.mark.slow, pytest.mark.skipif(IS_ABSENT, reason=WHY_ABSENT)]
_numbers = itertools.count(1)


class HomeServer(Protocol):
    """What both kinds of server have."""

    def register(self, name: str) -> Client: ...


def eigenserver(folder: Path, gate: Gate | None = None, **environment: str) -> Server:
    """An Eigenserver that talks with servers on loopback, whoever vouches for them; behind a gate, named by it."""
    port = gate.target if gate else free_port()
    known = {
        "SERVER_NAME": f"localhost:{gate.port if gate else port}",
        "FEDERATION_PORT": str(port),
        "FEDERATION_ALLOW_RANGES": LOOPBACK,
        "FEDERATION_VERIFY": "off",
        "REGISTRATION": "open",
    }
    return Server(folder, **known | environment)


class Servers:
    """Both, for as long as the `with` block lasts."""

    def __init__(self, folder: Path) -> None:
        self.synapse = Synapse(folder / "synapse")
        self.ours = eigenserver(folder / "ours")

    def __enter__(self) -> Self:
        self.synapse.start()
        self.ours.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ours.__exit__(kind, error, at)
        if kind is not None:
            print(self.synapse.log[-20_000:])
        self.synapse.__exit__(kind, error, at)

    def people(self, host: str, host_name: str = "hanna", guest_name: str = "gero") -> tuple[Client, Client]:
        """A new user of the server `host` ("ours" or "synapse"), and one of the other."""
        by_name: Mapping[str, HomeServer] = {"ours": self.ours, "synapse": self.synapse}
        (other,) = set(by_name) - {host}
        number = next(_numbers)
        people = by_name[host].register(f"{host_name}{number}"), by_name[other].register(f"{guest_name}{number}")
        for person in people:
            person.meets_others = True
        return people


def server_of(user: Client) -> str:
    """The name of a user's server."""
    return user.user_id.split(":", 1)[1]


def join(user: Client, room: str, *via: str) -> Answer:
    """Join a room by ID or alias, by way of these servers."""
    query = {"server_name": list(via), "via": list(via)} if via else None
    return user.ask("POST", segments("join", room), {}, query=query)


def shared_room(host: Client, guest: Client, **body: Any) -> str:
    """A room of the host's, which the guest has joined over federation; both have synced to there."""
    room_id = host.create_room(**{"preset": "public_chat"} | body)
    answer = join(guest, room_id, server_of(host))
    assert (answer.status, answer.json) == (200, {"room_id": room_id}), answer
    eventually(lambda: membership(host, room_id, guest) == "join", "the join is seen by the host")
    host.sync()
    guest.sync()
    return room_id


def knock(host: Client, guest: Client, **body: Any) -> tuple[str, "RoomList"]:
    """A room of the host's at which the guest knocks; and the guest's rooms."""
    rooms = RoomList(guest)
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = host.create_room(preset="private_chat", initial_state=[rules], **body)
    via = {"server_name": [server_of(host)], "via": [server_of(host)]}
    answer = guest.ask("POST", segments("knock", room_id), {"reason": "let me in"}, query=via)
    assert (answer.status, answer.json) == (200, {"room_id": room_id}), answer
    eventually(lambda: membership(host, room_id, guest) == "knock", "the knock is heard")
    eventually(lambda: rooms.section(room_id) == "knock", "the knock is shown")
    return room_id, rooms


def eventually(holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something holds: it needs the other server."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.1)


def state_content(user: Client, room_id: str, event_type: str, key: str = "") -> Any:
    """The content of a state event as a user's server has it, or None."""
    answer = user.ask_anything("GET", segments("rooms", room_id, "state", event_type, key))
    return answer.json if answer.status == 200 else None


def membership(user: Client, room_id: str, of: Client) -> str | None:
    """A membership as a user's server has it."""
    content = state_content(user, room_id, "m.room.member", of.user_id)
    return content.get("membership") if content else None


def state_ids(user: Client, room_id: str) -> dict[tuple[str, str], str]:
    """The current state as a user's server has it."""
    return {key: event["event_id"] for key, event in user.state(room_id).items()}


def texts(user: Client, room_id: str) -> list[str]:
    """The messages of a room as a user reads them, oldest first."""
    events = user.messages(room_id, "b")[::-1]
    return [str(e["content"]["body"]) for e in events if e["type"] == "m.room.message" and "body" in e["content"]]


class RoomList:
    """In which section of /sync each of a user's rooms was last, as the sync chain told it."""

    def __init__(self, user: Client) -> None:
        self._user = user
        self._sections: dict[str, str] = {}
        self.invited: dict[str, dict[str, Any]] = {}  # by room, the contents of the stripped state by type
        self._follow(0)

    def section(self, room_id: str) -> str | None:
        """`join`, `invite`, `knock` or `leave`; None for a room that was never told of. Asks for news first."""
        self._follow(0.5)
        return self._sections.get(room_id)

    def _follow(self, timeout: float) -> None:
        for section, rooms in self._user.sync(timeout=timeout).get("rooms", {}).items():
            for room_id, room in rooms.items():
                self._sections[room_id] = section
                if section == "invite":
                    events = room["invite_state"]["events"]
                    self.invited[room_id] = {event["type"]: event["content"] for event in events}
