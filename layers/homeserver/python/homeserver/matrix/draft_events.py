"""Events as clients of the draft of 2014 see them: the client format of today, and what the draft had at the top.

Nothing is taken away, so that what reads one reads the other. Only the levels of a room are shown in the draft's flat
form, as its clients read them. Encrypted events pass unchanged but for the keys beside their content.

| Key that is added | From |
|---|---|
| `user_id` | `sender` |
| `age`, `prev_content` | the same in `unsigned` |
| `redacts`, `redacted_because` | `redacts` in the content of room version 11 and later; the same in `unsigned` |
| `required_power_level` (state) | what it takes to set this state now: `events`, else `state_default` |
| `thumbnail_url`, `thumbnail_info` of a message's content | the same in its `info`, and the other way round |

Source: the client-server specification of autumn 2014, "Events", "m.room.message msgtypes".
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from homeserver.matrix.draft_projections import POWER_LEVELS, flat_power_levels

_THUMBNAILS: Final = ("thumbnail_url", "thumbnail_info")
# How one of the draft's own examples spells it: understood, and never written.
_MISSPELT: Final = {"thumbnail_info": "thumbanil_info"}


def draft_view(
    event: Mapping[str, Any],
    *,
    age: int | None = None,
    required_power_level: int | None = None,
    creators: Collection[str] = (),
) -> dict[str, Any]:
    """An event in the client format of today (`matrix.client_event`) as the draft has it; the given one is not changed.

    `age`: milliseconds since it was sent, None for what `unsigned` says. `required_power_level`: shown with state
    events only. `creators`: of a room of version 12, whose power has no number (`flat_power_levels`).
    """
    unsigned: Mapping[str, Any] = event.get("unsigned") or {}
    is_state = "state_key" in event
    view = {**event, "user_id": event["sender"], "content": _content(event, event["content"], creators)}
    age = unsigned.get("age") if age is None else age
    if age is not None:
        view["age"] = age
    if is_state and "prev_content" in unsigned:
        view["prev_content"] = _content(event, unsigned["prev_content"], creators)
        view["unsigned"] = {**unsigned, "prev_content": view["prev_content"]}
    if is_state and required_power_level is not None:
        view["required_power_level"] = required_power_level
    if event["type"] == "m.room.redaction" and isinstance(redacts := event["content"].get("redacts"), str):
        view["redacts"] = redacts
    if isinstance(because := unsigned.get("redacted_because"), Mapping):
        view["redacted_because"] = draft_view(because)
        view["unsigned"] = {**view["unsigned"], "redacted_because": view["redacted_because"]}
    return view


def _content(event: Mapping[str, Any], content: Any, creators: Collection[str]) -> Any:
    if not isinstance(content, Mapping):
        return content
    if event["type"] == POWER_LEVELS and event.get("state_key") == "":
        return flat_power_levels(content, creators)
    if event["type"] == "m.room.message":
        return message_content(content)
    return content


def message_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a message with its thumbnail at the top and in `info`, wherever the sender put it.

    Where both have it each keeps its own. Source: the draft's m.image, m.video, m.location; "m.image" of today.
    """
    info = content.get("info")
    inside: Mapping[str, Any] = info if isinstance(info, Mapping) else {}
    top = {key: value for key in _THUMBNAILS if (value := _first(key, content, inside)) is not None}
    below = {key: value for key in _THUMBNAILS if (value := _first(key, inside, content)) is not None}
    if not top and not below:
        return dict(content)
    shown = {key: value for key, value in content.items() if key not in _MISSPELT.values()} | top
    if info is None or isinstance(info, Mapping):
        shown["info"] = {key: value for key, value in inside.items() if key not in _MISSPELT.values()} | below
    return shown


def _first(key: str, *places: Mapping[str, Any]) -> Any:
    """The first value under a key, or under its misspelling, that is there; None for none."""
    for place in places:
        for name in (key, _MISSPELT.get(key, key)):
            if place.get(name) is not None:
                return place[name]
    return None
