"""Stream of the rooms table: what happened in a room goes to the senders, for each of the other servers in it."""

from typing import Any

from homeserver.services.outbound_route import route_room
from homeserver.web.room_stream import follow_rooms


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """DynamoDB stream event -> `batchItemFailures`."""
    return follow_rooms(event, "outbound_router", route_room, given_up="outbound")
