"""Sending as the 2014 draft has it: messages with the checks of their day, feedback, and state that is a projection.

Source: the client-server specification of autumn 2014, "Sending events", "m.room.message.feedback".
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from homeserver.matrix.draft_projections import CONFIG, LEVEL_TYPES
from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError, NotFound
from homeserver.matrix.event_builder import EventDraft
from homeserver.services.access_tokens import Requester
from homeserver.services.draft_config import set_config
from homeserver.services.draft_levels import set_levels
from homeserver.services.draft_rooms import set_member
from homeserver.services.receipts import PUBLIC, send_feedback
from homeserver.services.request_transactions import RequestClaim, answered_once
from homeserver.services.room_state_events import set_room_state
from homeserver.services.send_event import send_message_event
from homeserver.storage.ephemeral import DELIVERED

FEEDBACK: Final = "m.room.message.feedback"
_KINDS: Final = {"read": PUBLIC, "delivered": DELIVERED}


def send(requester: Requester, room_id: str, event_type: str, content: Mapping[str, Any], txn_id: str | None) -> str:
    """Send an event that is no state; returns its ID. Feedback becomes a receipt, whose ID nobody else knows.

    `http` URLs and thumbnails of messages stay as they are. Raises BadJson for a message without a `msgtype`, and what
    `send_message_event` and `send_feedback` raise.
    """
    if event_type == FEEDBACK:
        return _give_feedback(requester, room_id, content, txn_id)
    if event_type == "m.room.message" and not isinstance(content.get("msgtype"), str):
        raise BadJson("msgtype must be a string.")
    # The draft's transaction IDs belong to the whole path, with the type: today's to the room.
    kind = f"draft_send/{event_type}"
    return send_message_event(requester, room_id, EventDraft(event_type, content), txn_id, kind=kind)


def _give_feedback(requester: Requester, room_id: str, content: Mapping[str, Any], txn_id: str | None) -> str:
    kind, target = content.get("type"), content.get("target_event_id")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise MatrixError("Bad feedback type")
    if not isinstance(target, str):
        raise BadJson("target_event_id must be a string.")
    answer = {"event_id": f"$fb_{secrets.token_urlsafe(24)}"}
    claim = None
    if txn_id is not None:
        claim = RequestClaim.of(requester, f"rooms/{room_id}/send/{FEEDBACK}", txn_id, answer)

    def act() -> Mapping[str, Any]:
        try:
            send_feedback(requester, room_id, _KINDS[kind], target, claim=claim)
        except InvalidParam as error:
            raise NotFound("There is no such event in this room.") from error
        return answer

    return str(answered_once(claim, act)["event_id"])


def set_state(requester: Requester, room_id: str, event_type: str, content: Mapping[str, Any], state_key: str) -> None:
    """Set a state event. Memberships, the config and levels of the room go where they are kept today.

    Raises what the service of the type raises.
    """
    if event_type == "m.room.member":
        set_member(requester, room_id, state_key, content)
    elif event_type == CONFIG and state_key == "":
        set_config(requester, room_id, content)
    elif event_type in LEVEL_TYPES and state_key == "":
        set_levels(requester, room_id, event_type, content)
    else:
        set_room_state(requester, room_id, EventDraft(event_type, content, state_key))
