"""Room versions 1 to 12 as data: each is the one before plus what changed.

Source: Matrix v1.19, "Room Versions". Code asks `rules.restricted_joins`, never `version >= 8`.
"""

from dataclasses import dataclass, field, replace
from enum import Enum


class EventIdFormat(Enum):
    """How an event gets its ID."""

    OPAQUE = "opaque"  # "$opaque:domain", a field of the event
    STANDARD_BASE64 = "base64"  # "$" + unpadded standard base64 of the reference hash
    URLSAFE_BASE64 = "urlsafe_base64"  # "$" + unpadded URL-safe base64 of the reference hash


class StateResolution(Enum):
    """Which state resolution algorithm merges forks."""

    V1 = "1"
    V2 = "2"
    V2_1 = "2.1"


class PowerLevelValues(Enum):
    """Which JSON values a power level may have."""

    LENIENT = "lenient"  # integers, strings of integers, floats (truncated)
    INTEGER_OR_STRING = "integer_or_string"
    INTEGER = "integer"


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """What survives redaction: top-level keys, and content keys by event type (`None`: the whole content)."""

    top_level: frozenset[str]
    content: dict[str, frozenset[str] | None] = field(default_factory=dict)
    # m.room.member keeps third_party_invite.signed (and nothing else of third_party_invite)
    member_third_party_signed: bool = False


_TOP_LEVEL_V1 = frozenset(
    {
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "prev_state",
        "auth_events",
        "origin",
        "origin_server_ts",
        "membership",
    }
)
_POWER_LEVELS_V1 = frozenset(
    {"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"}
)
_REDACTION_V1 = RedactionRules(
    _TOP_LEVEL_V1,
    {
        "m.room.member": frozenset({"membership"}),
        "m.room.create": frozenset({"creator"}),
        "m.room.join_rules": frozenset({"join_rule"}),
        "m.room.power_levels": _POWER_LEVELS_V1,
        "m.room.aliases": frozenset({"aliases"}),
        "m.room.history_visibility": frozenset({"history_visibility"}),
    },
)
_REDACTION_V6 = replace(
    _REDACTION_V1, content={k: v for k, v in _REDACTION_V1.content.items() if k != "m.room.aliases"}
)
_REDACTION_V8 = replace(
    _REDACTION_V6, content={**_REDACTION_V6.content, "m.room.join_rules": frozenset({"join_rule", "allow"})}
)
_REDACTION_V9 = replace(
    _REDACTION_V8,
    content={**_REDACTION_V8.content, "m.room.member": frozenset({"membership", "join_authorised_via_users_server"})},
)
_REDACTION_V11 = replace(
    _REDACTION_V9,
    top_level=_TOP_LEVEL_V1 - {"origin", "membership", "prev_state"},
    content={
        **_REDACTION_V9.content,
        "m.room.create": None,
        "m.room.power_levels": _POWER_LEVELS_V1 | {"invite"},
        "m.room.redaction": frozenset({"redacts"}),
    },
    member_third_party_signed=True,
)


@dataclass(frozen=True, slots=True)
class RoomVersionRules:
    """Everything that differs between room versions."""

    version: str
    event_id_format: EventIdFormat = EventIdFormat.OPAQUE
    state_resolution: StateResolution = StateResolution.V1
    redaction: RedactionRules = _REDACTION_V1
    # v1-2: prev_events and auth_events are [id, {"sha256": hash}] pairs
    hashed_edges: bool = True
    # v1-2: redactions need the redact level to be accepted (rule 11); from v3 they are checked when applied
    redaction_is_auth_rule: bool = True
    # v1-2: the server in the event ID must sign as well
    event_id_server_signs: bool = True
    # v5+: a signing key must have been valid at origin_server_ts
    enforce_key_validity: bool = False
    # v6+: canonical JSON only: no floats, integers within +-(2^53 - 1); depth at most 2^53 - 1
    strict_canonical_json: bool = False
    # v1-5: m.room.aliases has an authorisation rule of its own
    aliases_auth_rule: bool = True
    # v6+: the power level rule covers `notifications`
    checks_notification_levels: bool = False
    # v7+: join rules under which one may knock
    knockable_join_rules: frozenset[str] = frozenset()
    # v8+: join rules under which a join may be authorised through another user
    restricted_join_rules: frozenset[str] = frozenset()
    # join rules under which an invitation is needed (and is enough)
    invite_join_rules: frozenset[str] = frozenset({"invite"})
    power_level_values: PowerLevelValues = PowerLevelValues.LENIENT
    # v11+: the creator is the sender of m.room.create, not content.creator
    creator_is_sender: bool = False
    # v11+: `redacts` is in the content of m.room.redaction
    redacts_in_content: bool = False
    # v12: the room ID is the hash of the create event, which has no room_id and is in nobody's auth_events
    room_id_is_create_hash: bool = False
    # v12: sender and additional_creators of m.room.create have infinite power
    creators_have_infinite_power: bool = False

    @property
    def knocking(self) -> bool:
        """Whether the version knows membership `knock`."""
        return bool(self.knockable_join_rules)

    @property
    def restricted_joins(self) -> bool:
        """Whether the version knows `join_authorised_via_users_server`."""
        return bool(self.restricted_join_rules)


V1 = RoomVersionRules("1")
V2 = replace(V1, version="2", state_resolution=StateResolution.V2)
V3 = replace(
    V2,
    version="3",
    event_id_format=EventIdFormat.STANDARD_BASE64,
    hashed_edges=False,
    redaction_is_auth_rule=False,
    event_id_server_signs=False,
)
V4 = replace(V3, version="4", event_id_format=EventIdFormat.URLSAFE_BASE64)
V5 = replace(V4, version="5", enforce_key_validity=True)
V6 = replace(
    V5,
    version="6",
    strict_canonical_json=True,
    aliases_auth_rule=False,
    checks_notification_levels=True,
    power_level_values=PowerLevelValues.INTEGER_OR_STRING,
    redaction=_REDACTION_V6,
)
V7 = replace(
    V6,
    version="7",
    knockable_join_rules=frozenset({"knock"}),
    invite_join_rules=frozenset({"invite", "knock"}),
)
V8 = replace(V7, version="8", restricted_join_rules=frozenset({"restricted"}), redaction=_REDACTION_V8)
V9 = replace(V8, version="9", redaction=_REDACTION_V9)
V10 = replace(
    V9,
    version="10",
    power_level_values=PowerLevelValues.INTEGER,
    knockable_join_rules=frozenset({"knock", "knock_restricted"}),
    restricted_join_rules=frozenset({"restricted", "knock_restricted"}),
)
V11 = replace(V10, version="11", redaction=_REDACTION_V11, creator_is_sender=True, redacts_in_content=True)
V12 = replace(
    V11,
    version="12",
    room_id_is_create_hash=True,
    creators_have_infinite_power=True,
    state_resolution=StateResolution.V2_1,
)

ROOM_VERSIONS: dict[str, RoomVersionRules] = {
    rules.version: rules for rules in (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12)
}
DEFAULT_ROOM_VERSION = "12"
