"""Messages of the queue of outbound work: which server has to be sent what. They are pointers, never events.

    {"server", "room", "ranges": [[from, to], ...], "at", "receipts", "typing"}    positions, and what else is new
    {"retry": server, ...}                                        try again a server that did not answer

`at`: up to which position of the room everything was looked at. `receipts`: those are new that changed after this
number. `typing`: {user ID: whether they type}.

All messages of a server are one message group: they are handled in order, and never by two senders at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

from homeserver.adapters.queues import FifoMessage, send_fifo
from homeserver.storage.connection import in_parallel

OUTBOUND_QUEUE = "FEDERATION_OUTBOUND_QUEUE"
_AT_ONCE = 10  # messages that SQS takes in one request


def digest(*parts: object) -> str:
    """A short name for a server, or for one thing that happened: 32 hexadecimal digits."""
    return sha256("\n".join(str(part) for part in parts).encode()).hexdigest()[:32]


@dataclass(slots=True)
class RoomWork:
    """What a server is to be sent of one room."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    at: int = 0
    receipts: int | None = None
    typing: dict[str, bool] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """The first position that is not sent as long as this is not done."""
        return min([low for low, _ in self.ranges], default=self.at + 1)

    def add(self, body: Mapping[str, Any]) -> None:
        """Take up one more message, which comes later. Raises KeyError, TypeError or ValueError for what is none."""
        for low, high in body.get("ranges", ()):
            if self.ranges and self.ranges[-1][1] + 1 >= low >= self.ranges[-1][0]:
                self.ranges[-1] = (self.ranges[-1][0], max(high, self.ranges[-1][1]))
            else:
                self.ranges.append((int(low), int(high)))
        self.at = max(self.at, int(body["at"]))
        if "receipts" in body:
            self.receipts = int(body["receipts"]) if self.receipts is None else min(self.receipts, body["receipts"])
        self.typing |= body.get("typing", {})

    def body(self, server: str, room_id: str) -> dict[str, Any]:
        """The message that says this."""
        body: dict[str, Any] = {"server": server, "room": room_id, "at": self.at}
        if self.ranges:
            body["ranges"] = [list(span) for span in self.ranges]
        if self.receipts is not None:
            body["receipts"] = self.receipts
        if self.typing:
            body["typing"] = self.typing
        return body


def room_message(server: str, room_id: str, work: RoomWork, ephemeral: int) -> FifoMessage:
    """`ephemeral`: up to which number the room's ephemeral item was looked at."""
    ends = [high for _, high in work.ranges]
    told = sorted(work.typing.items())
    name = digest(server, room_id, max(ends, default=0), work.receipts is not None and ephemeral, told)
    return FifoMessage(work.body(server, room_id), digest(server), name)


def retry_body(server: str, at: int) -> dict[str, Any]:
    """`at`: milliseconds, which tell one try from the others."""
    return {"retry": server, "at": at}


def retry_message(server: str, at: int, why: str) -> FifoMessage:
    """A message that makes a sender try the server again; two for the same reason and time count as one."""
    return FifoMessage(retry_body(server, at), digest(server), digest(server, "retry", why, at))


def enqueue(messages: Iterable[FifoMessage]) -> None:
    """Put messages into the queue, ten a request, several requests at a time; those of one server stay in order."""
    waves: list[list[FifoMessage]] = []
    seen: dict[str, int] = {}
    for message in messages:
        wave = seen.get(message.group, 0)
        seen[message.group] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(message)
    for together in waves:
        parts: list[Sequence[FifoMessage]] = [together[at : at + _AT_ONCE] for at in range(0, len(together), _AT_ONCE)]
        in_parallel(*[partial(send_fifo, OUTBOUND_QUEUE, part) for part in parts])
