"""What a message costs that goes to many servers: prints what was counted, and what it comes to, as JSON.

    outbound_costs.py SERVERS...

Units of DynamoDB, requests of SQS and invocations are counted in a room with so many servers, all of which are known
and answer. What cannot be counted here is assumed: how long a batch waits for the slowest of its ten servers, and what
a request costs of a processor (TLS handshake, signature, JSON), of which a small function has a part.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.measured import MeasuredServer  # noqa: E402 - the paths above come first

# List prices in us-east-1, without any free tier, as in docs/costs.md.
READ_UNIT, WRITE_UNIT = 0.125e-6, 0.625e-6
FIFO_REQUEST = 0.50e-6
INVOCATION, GB_SECOND = 0.20e-6, 0.0000133334
SENDER_MB, ROUTER_MB = 256, 512
# Assumed
WAIT_S = 1.0
CPU_S = 0.008
WHOLE_PROCESSOR_MB = 1769


class Answering:
    """In place of FederationClient: every server takes everything at once."""

    def request(self, method: str, destination: str, path: str, **_: Any) -> tuple[int, Any]:
        return 200, {"pdus": {}} if method == "PUT" else {"server": {"name": "Synapse"}}


def fill(room_id: str, servers: int) -> None:
    """Let so many servers be in a room."""
    from homeserver.storage.room_items import HEAD, Head, RemoteServer  # the server had to set the environment first

    head = Head.fetch(room_id, HEAD)
    assert head is not None
    with RemoteServer.batch_write() as batch:
        for number in range(servers):
            name = f"server/matrix.server{number}.example"
            batch.save(RemoteServer(room_id, name, members=3, joined_since=int(head.position)))
    head.update([Head.federated_since.set(int(head.position)), Head.remote_servers.set(servers)])


class Counted:
    """One message of a server in a room, followed to the last answer of the others."""

    def __init__(self, server: MeasuredServer, servers: int) -> None:
        self.server, self.servers = server, servers
        self.sends = self.batches = 0
        emulator, call = server.run.emulator, server.run.emulator.call

        def counted(service: str, method: str, path: str, headers: Any, body: bytes) -> Any:
            if service == "sqs" and headers.get("x-amz-target", "").endswith(".SendMessageBatch"):
                self.sends += 1
            return call(service, method, path, headers, body)

        emulator.call = counted  # type: ignore[method-assign]  # every request of a client comes through here

    def route(self, name: str) -> None:
        for mapping in self.server.run.streams:
            event = {"Records": mapping.drain()}
            if event["Records"]:
                router = "OutboundRouter" in mapping.source.function
                row = name if router else f"{name}: inbox"
                call = lambda event=event, mapping=mapping: self.server.run.functions.call(  # noqa: E731
                    mapping.source.function, event
                )
                self.server.measure(row, call)

    def send(self, name: str) -> None:
        (queue,) = (queue for queue in self.server.run.queues if "FederationSender" in queue.source.function)
        while self.server.measure(name, queue.deliver_batch):
            self.batches += 1

    def bill(self, router: str, sender: str) -> dict[str, Any]:
        """What it comes to, in dollars."""
        rows = self.server.rows
        reads, writes = (sum(sum(getattr(rows[name], unit)) for name in (router, sender)) for unit in ("rru", "wru"))
        seconds = WAIT_S + CPU_S * self.servers / self.batches * WHOLE_PROCESSOR_MB / SENDER_MB
        router_s = self.sends * 0.02 + 0.5
        bill = {
            "reads": reads * READ_UNIT,
            "writes": writes * WRITE_UNIT,
            # Each batch is received and deleted.
            "queue": (self.sends + 2 * self.batches) * FIFO_REQUEST,
            "invocations": (1 + self.batches) * INVOCATION,
            "duration": self.batches * seconds * SENDER_MB / 1024 * GB_SECOND,
            "router": router_s * ROUTER_MB / 1024 * GB_SECOND,
        }
        counts = {"rru": reads, "wru": writes, "sends": self.sends, "batches": self.batches}
        return {"servers": self.servers, **counts, "dollars": sum(bill.values()), "bill": bill}


def measure(folder: Path, servers: int) -> dict[str, Any]:
    server = MeasuredServer(folder)
    try:
        from homeserver.services import outgoing_transactions  # as above

        outgoing_transactions.FederationClient = Answering  # type: ignore[assignment,misc]  # stands in for it
        alice = server.person("alice")
        room_id = server.room(alice, preset="public_chat")
        fill(room_id, servers)
        for txn in ("first contact", "message"):
            counted = Counted(server, servers)
            server.send(alice, room_id, txn, "hello")
            counted.route(f"{txn}: router")
            counted.send(f"{txn}: sender")
        return counted.bill("message: router", "message: sender")
    finally:
        server.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps([measure(Path(folder) / argument, int(argument)) for argument in sys.argv[1:]]))


if __name__ == "__main__":
    main()
