"""The part of a room's state that the authorisation rules ask for."""

from collections.abc import Iterable, Mapping

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.power_levels import PowerLevels, creators


class AuthState:
    """A read-only view of room state by `(type, state_key)`.

    Only the events of `auth_event_keys` and the create event (which room version 12 does not select) are ever asked
    for: a mapping with just these is enough. What is not in it is not in the room, so leave out rejected events.
    """

    __slots__ = ("_create", "_creators", "_events", "_power_levels")

    def __init__(self, events: Mapping[tuple[str, str], Event]) -> None:
        self._events = events
        self._create: Event | None = None
        self._creators: frozenset[str] | None = None
        self._power_levels: PowerLevels | None = None

    @classmethod
    def of(cls, events: Iterable[Event]) -> "AuthState":
        """The view over these state events; of two with one key the last counts."""
        return cls({event.key: event for event in events})

    def get(self, event_type: str, state_key: str = "") -> Event | None:
        """The state event of this type and state key, if there is one."""
        return self._events.get((event_type, state_key))

    @property
    def create(self) -> Event:
        """The create event. Raises AuthRuleViolation R3.4 when there is none: nothing may happen before it."""
        if self._create is None:
            self._create = self.get("m.room.create")
            if self._create is None:
                raise AuthRuleViolation("R3.4", "the room has no create event")
        return self._create

    @property
    def creators(self) -> frozenset[str]:
        """User IDs of the room's creators; in room version 12 they have infinite power."""
        if self._creators is None:
            self._creators = creators(self.create, self.create.rules)
        return self._creators

    @property
    def power_levels_event(self) -> Event | None:
        return self.get("m.room.power_levels")

    @property
    def power_levels(self) -> PowerLevels:
        """The levels in force, also in a room without `m.room.power_levels`."""
        if self._power_levels is None:
            event = self.power_levels_event
            self._power_levels = PowerLevels(event.content if event else None, self.creators, self.create.rules)
        return self._power_levels

    @property
    def join_rule(self) -> str:
        """The join rule: `invite` where none is set, and the empty string for a value that can be no join rule."""
        event = self.get("m.room.join_rules")
        rule = event.content.get("join_rule", "invite") if event else "invite"
        return rule if isinstance(rule, str) else ""

    def membership(self, user_id: str) -> str:
        """A user's membership; `leave` for someone who was never in the room."""
        event = self.get("m.room.member", user_id)
        membership = event.content.get("membership") if event else "leave"
        return membership if isinstance(membership, str) else "leave"

    def is_joined(self, user_id: str) -> bool:
        return self.membership(user_id) == "join"
