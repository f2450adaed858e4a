"""What a transaction of another server costs from the request to the inboxes, in rooms of several sizes: rows as JSON.

    transaction_costs.py REMOTE_MEMBERS...

A room has two local members and so many of another server. A row is what `benchmarks.measured.Row` counts: of the
request alone, and of everything that it sets off (`..., afterwards`): the worker, the followers, the router.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.measured import MeasuredServer, Person  # noqa: E402 - the paths above come first
from benchmarks.receive_costs import MESSAGE, grow  # noqa: E402
from federation_peer import Peer  # noqa: E402

REPEATED = 3
SEND = "/_matrix/federation/v1/send/"
SETTINGS = {"FEDERATION_ALLOW_RANGES": "127.0.0.0/8,::1/128", "FEDERATION_VERIFY": "off"}


class Taker(Peer):
    """Takes what it is sent in return: one that does not is tried again at each sign of life, which costs a read."""

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if path.startswith(SEND):
            return 200, {"pdus": {}}
        return super().respond(method, path, query, body)


class Sender:
    """The other server, which sends one transaction after the other."""

    def __init__(self, server: MeasuredServer, peer: Peer) -> None:
        self._server, self._peer, self._number = server, peer, 0
        self.name = peer.name

    def send(self, pdus: list[Any], edus: list[Any], **more: Any) -> str:
        """Returns the transaction's ID."""
        self._number += 1
        body = {"origin": self._peer.name, "origin_server_ts": 1, "pdus": pdus, "edus": edus, **more}
        uri = f"{SEND}t{self._number}"
        headers = {"authorization": self._peer.header("PUT", uri, "example.org", body)}
        answer = self._server.call("federation_transactions", "PUT", uri, body, headers=headers)
        assert all(result == {} for result in answer.json["pdus"].values()), answer
        return f"t{self._number}"


def settle(server: MeasuredServer) -> None:
    """Let workers and followers do all that there is: what a worker commits is the followers' next."""
    for _ in range(3):
        server.follow()


def measure(server: MeasuredServer, sender: Sender, people: tuple[Person, Person], members: int) -> None:
    from benchmarks.caches import forget_everything
    from functions.remote_server import RemoteServer  # the server had to set the environment first

    alice, bob = people
    room_id = server.room(alice, preset="public_chat", room_version="11")
    server.join(bob, room_id)
    remote = RemoteServer(room_id, sender.name)
    carol, dave = remote.user("carol"), remote.user("dave")
    remote.accepted(remote.join(carol), remote.join(dave))
    grow(remote, members)
    settle(server)
    sender.send([], [])  # the key of the other server is asked for once a day

    def both(what: str, pdus: Callable[[], list[Any]], edus: Callable[[], list[Any]], **more: Any) -> None:
        pdus_now, edus_now = pdus(), edus()
        key = f"{what}, {members} remote members"
        server.measure(key, lambda: sender.send(pdus_now, edus_now, **more))
        server.measure(f"{key}, afterwards", lambda: settle(server))

    nothing: Callable[[], list[Any]] = list
    for warmth in ("cold", "warm"):
        for _ in range(REPEATED):
            message = dict(remote.say(carol, MESSAGE).pdu)
            if warmth == "cold":
                forget_everything()
                sender.send([], [])
            both(f"message, {warmth}", lambda message=message: [message], nothing)  # type: ignore[misc]
    both("ten messages", lambda: _line(remote, carol, 10), nothing)
    for is_typing in (True, False):
        content = {"room_id": room_id, "user_id": carol, "typing": is_typing}
        both("typing", nothing, lambda c=content: [{"edu_type": "m.typing", "content": c}])  # type: ignore[misc]
    for number in range(REPEATED):
        event_id = server.send(alice, room_id, f"{members}-{number}", "hello").json["event_id"]
        settle(server)
        read = {room_id: {"m.read": {carol: {"event_ids": [event_id], "data": {"ts": 1}}}}}
        both("receipt", nothing, lambda r=read: [{"edu_type": "m.receipt", "content": r}])  # type: ignore[misc]
    last = sender.send([], [], prev_ids=[])
    message = dict(remote.say(carol, MESSAGE).pdu)
    both("message with prev_ids", lambda: [message], nothing, prev_ids=[last])


def _line(remote: Any, user: str, count: int) -> list[Any]:
    events = [remote.say(user, MESSAGE)]
    for _ in range(count - 1):
        events.append(remote.say(user, MESSAGE, prev=[events[-1].event_id]))
    return [dict(event.pdu) for event in events]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = MeasuredServer(Path(folder) / "data", **SETTINGS)
        from functions.remote_server import KEY  # the server had to set the environment first

        try:
            with Taker(Path(folder) / "peer", key=KEY) as peer:
                people = server.person("alice"), server.person("bob")
                sender = Sender(server, peer)
                for argument in sys.argv[1:]:
                    measure(server, sender, people, int(argument))
        finally:
            server.close()
        print(json.dumps([asdict(row) for row in server.rows.values()]))


if __name__ == "__main__":
    main()
