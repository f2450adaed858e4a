"""`m.room.config` of the 2014 draft: what the room is called, and whether it is listed, in one object.

It is shown from where these things are today, and written there: one commit takes all events that change, or none. The
directory, which is no event, follows it; where the room is to leave it that comes first, so that nobody is shown there
what was not meant for them. Who was cut off between the two repeats the request, and the rest is done.

Source: the draft of 2014, "State messages"; the client-server specification of autumn 2014, "Rooms".
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from homeserver.matrix.draft_projections import KEPT_CONFIG, ConfigChanges, RoomConfig, config_changes
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.room_facts import FACT_KEYS, plain_topic
from homeserver.observability import fault_point
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.aliases import add_alias
from homeserver.services.attempts import attempts
from homeserver.services.draft_aliases import alias_in_use, new_alias
from homeserver.services.public_rooms import check_may_publish, set_published
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id, keys_for
from homeserver.settings import settings
from homeserver.storage.connection import Key, in_parallel
from homeserver.storage.room_items import Alias
from homeserver.storage.room_previews import RoomPreview, preview_key
from homeserver.storage.rooms import RoomView, StateKey, load_room

ALIAS, NAME, TOPIC = "m.room.canonical_alias", "m.room.name", "m.room.topic"
CONFIG_STATE: Final[tuple[StateKey, ...]] = tuple((name, "") for name in (ALIAS, NAME, TOPIC, KEPT_CONFIG))


def config_of(view: RoomView, preview: RoomPreview | None) -> RoomConfig:
    """The config of a room whose view has `CONFIG_STATE`; `preview` is its item of `preview_key`."""

    def text(event_type: str, key: str) -> str | None:
        event = view.event(event_type)
        value = event.content.get(key) if event else None
        return value if isinstance(value, str) and value else None

    topic, kept = view.event(TOPIC), view.event(KEPT_CONFIG)
    return RoomConfig(
        is_public=preview is not None and bool(preview.published),
        canonical_alias=text(ALIAS, "alias"),
        name=text(NAME, "name"),
        topic=plain_topic(topic.content) if topic else None,
        others=kept.content if kept else {},
    )


def set_config(requester: Requester, room_id: str, body: Mapping[str, Any]) -> None:
    """Write `m.room.config`: each key that changes goes where it belongs today.

    Raises BadJson for wrong types, Forbidden if any of the changes needs more power than the requester has, or the
    room is unknown; M_FAILED_HUMAN_ID_CHECK for an alias that cannot be given, M_ROOM_IN_USE for another room's;
    LimitExceeded as `set_levels`.
    """
    check_room_id(room_id)
    sender = requester.user_id
    wanted = body.get("room_alias_name")
    alias = new_alias(wanted, "room_alias_name") if isinstance(wanted, str) and wanted else None
    alias_key: list[Key] = [(Alias, alias, None)] if alias else []
    keys = [key for event_type, _ in CONFIG_STATE for key in keys_for(EventDraft(event_type, {}, ""), sender)]
    for attempt in attempts("The room"):
        (view, found), _ = in_parallel(
            lambda: load_room(room_id, [*keys, *FACT_KEYS], extras=[preview_key(room_id), *alias_key]),
            (lambda: None) if attempt else (lambda: rate_limits.take_send(sender)),
        )
        if view is None or view.membership(sender) != "join":
            raise Forbidden(NOT_IN_ROOM)
        preview: RoomPreview | None = found.get(preview_key(room_id))
        changes = config_changes(body, config_of(view, preview), settings().server_name)
        if changes.is_empty:
            return
        if changes.is_public is not None:
            check_may_publish(view, sender)
        room = RoomDraft(view, view.rules)
        if changes.alias_name:
            _take_alias(room, f"#{changes.alias_name}:{settings().server_name}", found, sender)
        for draft in _drafts(changes, view):
            room.add(draft, sender)
        if changes.is_public is False:
            set_published(requester, room_id, published=False)
        if not room.is_empty:
            try:
                room.commit()
            except Raced:
                continue
        fault_point("config.committed")
        if changes.is_public:
            set_published(requester, room_id, published=True)
        return


def _take_alias(room: RoomDraft, alias: str, found: Mapping[Key, Any], sender: str) -> None:
    """Let the commit make the alias, unless it is the room's already. Raises M_ROOM_IN_USE."""
    entry: Alias | None = found.get((Alias, alias, None))
    if entry is None:
        room.extras.append(partial(add_alias, alias=alias, room_id=room.room_id or "", creator=sender))
    elif entry.room != room.room_id:
        raise alias_in_use(alias)


def _drafts(changes: ConfigChanges, view: RoomView) -> list[EventDraft]:
    """The events of what changes. What else stands in those that there are stays, but for a topic's other forms."""
    drafts = []
    if changes.alias_name is not None:
        before = view.event(ALIAS)
        content = {key: value for key, value in (before.content if before else {}).items() if key != "alias"}
        named = {"alias": f"#{changes.alias_name}:{settings().server_name}"} if changes.alias_name else {}
        drafts.append(EventDraft(ALIAS, {**content, **named}, ""))
    if changes.name is not None:
        drafts.append(EventDraft(NAME, {"name": changes.name}, ""))
    if changes.topic is not None:
        drafts.append(EventDraft(TOPIC, {"topic": changes.topic}, ""))
    if changes.others is not None:
        drafts.append(EventDraft(KEPT_CONFIG, changes.others, ""))
    return drafts
