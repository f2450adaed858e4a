"""Stream of the rooms table: what happened in a room reaches the inboxes of its local members."""

from typing import Any

from homeserver.services.inboxes import follow_room
from homeserver.web.room_stream import follow_rooms


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """DynamoDB stream event -> `batchItemFailures`."""
    return follow_rooms(event, "inbox_follower", follow_room, given_up="room")
