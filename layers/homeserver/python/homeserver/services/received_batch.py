"""Several events that other servers made: their order, and what has to be read to judge them."""

from collections.abc import Iterable, Mapping

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_auth_events, check_event_auth
from homeserver.matrix.event_builder import EventDraft
from homeserver.services.received_redactions import waiting_item
from homeserver.services.relationships import keys_to_read
from homeserver.services.room_rows import is_local
from homeserver.storage.auth_events import KnownEvent
from homeserver.storage.connection import Key
from homeserver.storage.room_items import EventRecord, Head
from homeserver.storage.rooms import StateKey

CREATE = ("m.room.create", "")


def in_order(events: Iterable[Event]) -> list[Event]:
    """Each of the events once, behind those of them that it refers to; otherwise as they come."""
    known = {event.event_id: event for event in events}
    order: dict[str, Event] = {}
    opened: set[str] = set()
    for first in known:
        stack = [first]
        while stack:
            event_id = stack[-1]
            event = known[event_id]
            # In room versions 1 and 2, where IDs are no hashes, there could be a circle: it is cut where it is found.
            before = [i for i in (*event.prev_event_ids, *event.auth_event_ids) if i in known and i not in opened]
            if event_id in opened or not before:
                stack.pop()
                order.setdefault(event_id, event)
                opened.add(event_id)
            else:
                opened.add(event_id)
                stack += before
    return list(order.values())


def local_members(events: Iterable[Event]) -> list[str]:
    """The local users whose memberships the events may change."""
    users = [event.state_key for event in events if event.type == "m.room.member" and event.state_key is not None]
    return [user for user in users if is_local(user)]


def state_keys(events: Iterable[Event]) -> list[StateKey]:
    """The entries of the current state that may authorise the events, or that they may replace."""
    keys: dict[StateKey, None] = {CREATE: None}
    for event in events:
        selected = auth_event_keys(event.type, event.sender, event.state_key, event.content, event.rules)
        keys.update(dict.fromkeys(selected))
        if event.is_state:
            keys[event.key] = None
    return list(keys)


def records_wanted(events: Iterable[Event]) -> list[Key]:
    """The records of the events, of those before them and of those they redact or relate to; what waits for them."""
    ids: dict[str, None] = {}
    for event in events:
        ids.update(dict.fromkeys((event.event_id, waiting_item(event.event_id), *event.prev_event_ids)))
        if event.type == "m.room.redaction" and event.redacts is not None:
            ids.update(dict.fromkeys((event.redacts, waiting_item(event.redacts))))
    keys: list[Key] = [(EventRecord, event_id, None) for event_id in ids]
    for event in events:
        keys += keys_to_read(event.room_id, EventDraft(event.type, event.content), event.sender)
    return keys


def check_by_authority(event: Event, known: Mapping[str, KnownEvent], create: Event | None) -> None:
    """Check 4: the rules by the events that the event itself names, all of which are known. Raises AuthRuleViolation.

    create: the room's create event, which only room version 12 asks for.
    """
    authority = []
    for event_id in event.auth_event_ids:
        auth = known[event_id].event
        if auth is None:
            raise AuthRuleViolation("R3.2", "an event that is no state event authorises nothing")
        authority.append(auth)
    check_auth_events(event, authority, create=create)
    state = {auth.key: auth for auth in authority}
    if event.rules.room_id_is_create_hash and create is not None:
        state[CREATE] = create
    check_event_auth(event, AuthState(state))


def with_policy_signature(event: Event, head: Head, signed: dict[str, Event | None]) -> Event | None:
    """Check 7: the event with the signature of the policy server that the room names; None if that does not sign it.

    As it is where the room's policy server is none. `signed`: what came of asking, by event ID; nobody is asked twice.
    """
    if event.event_id not in signed:
        # Few rooms have one, and every function that receives would start later.
        from homeserver.services.policy_servers import policy_server, signed_on_receipt  # noqa: PLC0415

        server = policy_server(head)
        signed[event.event_id] = signed_on_receipt(event, server) if server is not None else event
    return signed[event.event_id]
