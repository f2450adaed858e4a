"""What other servers are sent, and what becomes of it when one does not answer: for what has to be seen of all."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from e2e import asked_by_servers
from e2e.client import Client, segments
from e2e.conversation import Witness
from e2e.let_in import guest_of, ok
from e2e.local_run import SERVER_NAME, Server
from federation_peer import Peer
from functions.sending import Receiver

_SECONDS = 20.0


def until(true: Callable[[], object], what: str) -> None:
    """Wait for something."""
    deadline = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def be_sent(server: Server, peer: Receiver, other: Receiver) -> str:
    """Two servers are sent a message; then one does not answer, until it sends something itself. Their room."""
    alice = server.register("sender")
    with Witness(server.url) as nobody:
        return converse(alice, nobody, peer, other)


def converse(alice: Client, nobody: Client, peer: Receiver, other: Receiver) -> str:
    rooms = [alice.create_room(preset="public_chat", room_version="10") for _ in range(2)]
    for room_id in rooms:
        for receiver in (peer, other):
            guest = guest_of(nobody, receiver)
            ok(guest.enter("join", room_id, guest.user("carol")))
    event_id = alice.send(rooms[0], "hello")
    until(lambda: peer.bodies() == other.bodies() == ["hello"], "both are sent it")
    alice.ok("POST", segments("rooms", rooms[0], "receipt", "m.read", event_id), {})
    until(lambda: peer.edus("m.receipt"), "receipts are sent")
    peer.fails()
    alice.send(rooms[0], "is anybody there?")
    until(lambda: is_left_alone(alice, rooms[0], peer, other), "a server that does not answer is left alone")
    alice.send(rooms[1], "and here?")
    until(lambda: "and here?" in other.bodies(), "the other one is sent it")
    peer.fails(None)
    put(nobody, peer, "sign of life", {"prev_ids": []})
    wanted = {"hello", "is anybody there?", "and here?"}
    until(lambda: wanted <= set(peer.bodies()), "it catches up")
    alice.send(rooms[0], "numbered")
    until(lambda: peer.transactions()[-1].get("prev_ids") is not None, "transactions are numbered")
    for slash in ("", "/"):
        uri = f"/_matrix/federation/v1/pull{slash}?origin={quote(peer.name, safe='')}"
        headers = {"Authorization": peer.header("GET", uri, SERVER_NAME)}
        pulled = nobody.ask_anything("GET", uri, headers=headers)
        assert pulled.status == 200
        assert pulled.json["pdus"] != []
    return rooms[0]


_numbers = iter(range(1000))


def is_left_alone(alice: Client, room_id: str, peer: Receiver, other: Receiver) -> bool:
    """Whether a further message goes to the other one only."""
    text, tries = f"once more {next(_numbers)}", peer.tries
    alice.send(room_id, text)
    until(lambda: text in other.bodies(), "the other one is sent it")
    time.sleep(0.2)
    return peer.tries == tries


def put(nobody: Client, peer: Peer, txn_id: str, more: dict[str, Any]) -> None:
    """The peer sends an empty transaction."""
    uri = f"/_matrix/federation/v1/send/{quote(txn_id)}"
    body = {"origin": peer.name, "origin_server_ts": 1, "pdus": [], **more}
    headers = {"Authorization": peer.header("PUT", uri, SERVER_NAME, body)}
    assert nobody.ask("PUT", uri, body, headers=headers).status == 200


def live_with_a_server_that_does_not_answer(
    folder: Path, start: Callable[..., Server], record: Callable[[Path], Any]
) -> Iterator[Any]:
    """Two servers on one folder; what `record` says of each after it stopped.

    The second finds, by its sweep, what nobody routed, and what nobody would try again.
    """
    settings = {"REGISTRATION": "open", "RECORD_PERMISSIONS": "1", **asked_by_servers.SETTINGS}
    with Receiver(folder / "peer") as peer, Receiver(folder / "other") as other:
        with start(folder / "sending", **settings) as server:
            room_id = be_sent(server, peer, other)
            assert server.stop() == 0
            assert "Traceback" not in server.log, server.log
        yield record(folder / "sending")
        forget_what_was_sent(folder / "sending", room_id, dead=peer.name, catching_up=other.name)
        tries = other.tries
        with start(folder / "sending", **settings) as server:
            until(lambda: other.tries > tries, "what was not sent is sent")
            time.sleep(1)
            assert server.stop() == 0
            assert "Traceback" not in server.log, server.log
        yield record(folder / "sending")


def forget_what_was_sent(folder: Path, room_id: str, *, dead: str, catching_up: str) -> None:
    """No room was ever routed; one server is dead, has no rows, and was to be tried long ago; one was catching up."""

    def rooms(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [item for item in items if item["k"]["S"] != "cursor/outbound"]

    def destinations(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        key = {"k": {"S": "destination"}}
        kept = [item for item in items if item["server"]["S"] not in {"-dead", dead, catching_up}]
        kept.append({"server": {"S": dead}, **key, "fl": {"N": "1"}, "rt": {"N": "1"}})
        kept.append({"server": {"S": catching_up}, **key, "cu": {"N": "1"}})
        kept.append({"server": {"S": catching_up}, "k": {"S": f"behind/{room_id}"}, "p": {"N": "1"}})
        kept.append({"server": {"S": "-dead"}, "k": {"S": f"d/{dead}"}, "s": {"N": "1"}})
        return [*kept, {"server": {"S": "-dead"}, "k": {"S": "version"}, "v": {"N": "9"}}]

    files = json.loads((folder / "store" / "manifest.json").read_bytes())["tables"]
    for table, change in (("RoomsTable", rooms), ("DestinationsTable", destinations)):
        path = folder / "store" / next(file for name, file in files.items() if name.endswith(table))
        items = [item for line in path.read_bytes().splitlines() for item in orjson.loads(line)]
        path.write_bytes(orjson.dumps(change(items)) + b"\n")
