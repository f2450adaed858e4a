"""The waiting half of `/events` with a room: look at the room's head, have the answer built when it moved.

As small as sync_wait: neither a web framework nor an AWS library. Whether the user may read the room is decided by
`sync_answer`, which is asked before anything is looked at.

Source: client-server API v1.19, "Room Previews", `GET /_matrix/client/v3/events`.
"""

from homeserver.adapters.slim_aws import dynamodb
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.sync_wait import (
    CLOCK,
    Clock,
    SyncAnswer,
    SyncRequest,
    build_answer,
    device_of,
    poll_seconds,
    waits_until,
)
from homeserver.services.waiting_places import place_to_wait
from homeserver.settings import table_name


def wait_in_room(request: SyncRequest, room_id: str, *, remaining: float, clock: Clock = CLOCK) -> SyncAnswer:
    """The answer of `/events` for one room: at once if there is something, else when there is or the time is over.

    `remaining` is how many seconds this invocation may still take. Raises MissingToken or UnknownToken (401),
    LimitExceeded when the user has too many waiting requests, MatrixError (500) when no answer can be built.
    """
    ends = clock.monotonic() + remaining
    device = device_of(request.access_token, clock)
    deadline = waits_until(request, ends, remaining)
    answer = build_answer(request, device, request.since, ends - clock.monotonic())
    if not answer.empty or request.timeout <= 0:
        return answer
    with place_to_wait(device.user_id, now=clock.wall()):
        while answer.empty and _moves(room_id, RoomToken.decode(answer.next_batch).live, deadline, clock):
            try:
                answer = build_answer(request, device, answer.next_batch, ends - clock.monotonic())
            except TimeoutError:
                break  # the news came late: the client's next request has all the time again
    return answer


def _moves(room_id: str, position: int, deadline: float, clock: Clock) -> bool:
    """Whether the room got beyond a position before the deadline."""
    key = {"room": {"S": room_id}, "k": {"S": "head"}}
    table = table_name("ROOMS")
    wanted = {table: {"Keys": [key], "ConsistentRead": False, "ProjectionExpression": "p"}}
    while (left := deadline - clock.monotonic()) > 0:
        clock.sleep(min(poll_seconds(), left))
        heads = dynamodb("BatchGetItem", {"RequestItems": wanted})["Responses"].get(table, [])
        if heads and int(heads[0]["p"]["N"]) > position:
            return True
    return False
