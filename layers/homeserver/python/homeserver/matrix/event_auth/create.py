"""Rule R1: the first event of a room.

Source: rule 1 of the room versions' authorisation rules.
"""

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.matrix.room_versions import ROOM_VERSIONS


def check_create(event: Event) -> None:
    """Whether an `m.room.create` event may start a room; no state is asked. Raises AuthRuleViolation."""
    content, rules = event.content, event.rules
    # R1.1: nothing comes before it.
    if event.prev_event_ids:
        raise AuthRuleViolation("R1.1", "a create event has no previous events")
    if rules.room_id_is_create_hash:
        # R1.3 (v12): the room ID follows from the event, so the event cannot contain it.
        if "room_id" in event.pdu:
            raise AuthRuleViolation("R1.3", "a create event has no room ID")
    # R1.2 (v1 to v11): a server makes rooms under its own name only.
    elif ":" not in event.room_id or domain_of(event.room_id) != domain_of(event.sender):
        raise AuthRuleViolation("R1.2", "the room ID is not of the sender's server")
    # R1.4: a room version that is named is one that is known.
    version = content.get("room_version", "1")
    if not isinstance(version, str) or version not in ROOM_VERSIONS:
        raise AuthRuleViolation("R1.4", "the room version is unknown")
    # R1.5 (v1 to v10): the creator is named in the content.
    if not rules.creator_is_sender and "creator" not in content:
        raise AuthRuleViolation("R1.5", "a create event names the creator")
    # R1.6 (v12): further creators, if any, are a list of users.
    if rules.creators_have_infinite_power and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(user_id) for user_id in additional):
            raise AuthRuleViolation("R1.6", "additional creators are a list of user IDs")
