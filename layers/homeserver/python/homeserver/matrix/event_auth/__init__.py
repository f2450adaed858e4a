"""Event authorisation: may this event enter the room?

Source: "Authorization rules" of room versions 1 to 12, and server-server API v1.19, "Auth events selection". The rules
and their numbers are listed in `docs/auth-rules.md`.
"""

from homeserver.matrix.event_auth.redaction_rule import may_redact
from homeserver.matrix.event_auth.rules import check_event_auth
from homeserver.matrix.event_auth.selection import auth_event_keys, check_auth_events
from homeserver.matrix.event_auth.state import AuthState
from homeserver.matrix.event_auth.third_party_invite import ThirdPartyVerifier

__all__ = [
    "AuthState",
    "ThirdPartyVerifier",
    "auth_event_keys",
    "check_auth_events",
    "check_event_auth",
    "may_redact",
]
