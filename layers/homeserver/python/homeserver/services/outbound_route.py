"""The outbound router: what happened in a room becomes messages to the senders, one for each server.

A wake names a room. The router works from its cursor to the head, and moves the cursor last: so a repeated wake does
nothing, and one that was cut off is repeated whole. What goes out twice then is one transaction, or holds events that
the other server knows.

Receipts and typing users ride along with events. Alone, in a room with many servers, they go out together every now and
then, as each time costs a message for each server.

Source: server-server API v1.19, "Transactions"; docs/architecture.md, "Sending to other servers".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.adapters.queues import FifoMessage
from homeserver.matrix.identifiers import is_server_name
from homeserver.observability import fault_point
from homeserver.services.catch_up import MOST_POSITIONS
from homeserver.services.clock import now_ms
from homeserver.services.destinations import skip_dead
from homeserver.services.outbound_messages import RoomWork, enqueue, retry_message, room_message
from homeserver.services.outgoing_edus import public_receipts, typing_changes
from homeserver.services.outgoing_events import OutgoingEvent, read_outgoing
from homeserver.settings import settings
from homeserver.storage.destinations import dead_servers
from homeserver.storage.outbound import OutboundRoom, Span, move_cursor, read_outbound, read_spans

SERVERS_AT_ONCE = 20  # in a room with more, receipts and typing users alone go out at intervals
MS_PER_SERVER = 20  # for each server that the room has: once a minute with 3,000


@dataclass(frozen=True, slots=True)
class _News:
    """What of the ephemeral item is to be told: receipts, or None if there are none; who began or stopped to type."""

    receipts: int | None = None
    typing: Mapping[str, bool] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.receipts is not None or bool(self.typing)


def route_room(room_id: str) -> None:
    """Bring the senders up to a room's head. Repeating it does no harm."""
    if not settings().federation:
        return
    room = read_outbound(room_id)
    # Where rows lag behind, they do not say which servers are in the room. The commit that ends it wakes the router.
    if room is None or room.head.rows_root != room.head.root:
        return
    now, head = now_ms(), int(room.head.position)
    events = read_outgoing(room_id, max(room.position + 1, head - MOST_POSITIONS + 1), head)
    news = _news(room, now)
    told = dict(room.typing)
    number, told_at = room.ephemeral_number, room.ephemeral_at
    if events or news:
        spans = {server: span for server, span in read_spans(room_id).items() if _can_be_sent_to(server)}
        present = [server for server, span in spans.items() if span.left_at is None]
        if not events and now - told_at < _interval(len(present)):
            news = _News()
        works = _works(room, events, spans)
        if news:
            number, told_at = room.ephemeral.number, now
            told = {user: at for user, at in told.items() if user not in news.typing}
            told |= {user: now for user, typing in news.typing.items() if typing}
            for server in present:
                work = works.setdefault(server, RoomWork())
                work.receipts, work.typing = news.receipts, dict(news.typing)
        for work in works.values():
            work.at = head
        _hand_over(room_id, works, number)
    if head > room.position or number > room.ephemeral_number or told != room.typing:
        fault_point("outbound.before_cursor")
        move_cursor(room_id, head, number, told_at, told)
        fault_point("outbound.after_cursor")


def _can_be_sent_to(server: str) -> bool:
    return server != settings().server_name and is_server_name(server)


def _interval(servers: int) -> int:
    return servers * MS_PER_SERVER if servers > SERVERS_AT_ONCE else 0


def _news(room: OutboundRoom, now: int) -> _News:
    receipts = public_receipts(room.ephemeral, room.ephemeral_number)
    return _News(room.ephemeral_number if receipts else None, typing_changes(room.ephemeral, room.typing, now))


def _works(room: OutboundRoom, events: Sequence[OutgoingEvent], spans: Mapping[str, Span]) -> dict[str, RoomWork]:
    """The positions for each server: ranges in which there is no event of this server that it is not to get."""
    works: dict[str, RoomWork] = {}
    last: dict[str, int] = {}  # the last of the events before which the server was to get or to leave out
    for number, event in enumerate(events):
        servers: Iterable[str] = spans
        if event.removed is not None and event.removed not in spans and _can_be_sent_to(event.removed):
            servers = [*spans, event.removed]
        for server in servers:
            if server == event.origin:
                # It has the event; the sender leaves it out.
                if last.get(server) == number - 1:
                    last[server] = number
                continue
            if not event.goes_to(server, spans.get(server)):
                continue
            work = works.setdefault(server, RoomWork())
            if work.ranges and last.get(server) == number - 1:
                work.ranges[-1] = (work.ranges[-1][0], event.position)
            else:
                work.ranges.append((event.position, event.position))
            last[server] = number
    return works


def _hand_over(room_id: str, works: Mapping[str, RoomWork], number: int) -> None:
    """Rows for servers that do not answer, messages for all others."""
    dead = dead_servers()  # read after the room's head
    fault_point("outbound.dead_read")
    left_out = {server: work.first for server, work in works.items() if server in dead}
    revived = skip_dead(room_id, dead, left_out)
    fault_point("outbound.before_messages")
    messages: list[FifoMessage] = [
        room_message(server, room_id, work, number) for server, work in works.items() if server not in left_out
    ]
    messages += [retry_message(server, now_ms(), f"row of {room_id}") for server in revived]
    enqueue(messages)
    fault_point("outbound.after_messages")
