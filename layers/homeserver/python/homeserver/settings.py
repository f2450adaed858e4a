"""What the operator set, read from the environment: the template's parameters in upper snake case."""

import os
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one deployment; `docs/deployment.md` explains each."""

    server_name: str
    registration: str  # open | token | closed
    registration_token: str
    registration_shared_secret: str
    query_tokens: str  # all | legacy | off: where an access token may stand in the query string
    rate_limits: bool
    password_cost: str  # normal | low
    cost_meter: bool
    sync_poll_ms: int
    public_base_url: str  # what well-known advertises; empty: the address that was asked
    signing_key_parameter: str  # name of the SSM parameter that holds the signing key


_CHOICES = {
    "REGISTRATION": ("open", "token", "closed"),
    "QUERY_TOKENS": ("all", "legacy", "off"),
    "RATE_LIMITS": ("on", "off"),
    "PASSWORD_COST": ("normal", "low"),
    "COST_METER": ("on", "off"),
}


def _choice(name: str, default: str) -> str:
    value = os.environ.get(name) or default
    if value not in _CHOICES[name]:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(_CHOICES[name])}")
    return value


@cache
def settings() -> Settings:
    """The settings of this process. Raises ValueError naming the variable that cannot be used."""
    env = os.environ
    poll = env.get("SYNC_POLL_MS") or "500"
    if not poll.isdigit() or not 1 <= int(poll) <= 10_000:
        raise ValueError(f"SYNC_POLL_MS is {poll!r}; it must be a number of milliseconds from 1 to 10000")
    return Settings(
        server_name=env.get("SERVER_NAME", ""),
        registration=_choice("REGISTRATION", "token"),
        registration_token=env.get("REGISTRATION_TOKEN", ""),
        registration_shared_secret=env.get("REGISTRATION_SHARED_SECRET", ""),
        query_tokens=_choice("QUERY_TOKENS", "all"),
        rate_limits=_choice("RATE_LIMITS", "on") == "on",
        password_cost=_choice("PASSWORD_COST", "normal"),
        cost_meter=_choice("COST_METER", "off") == "on",
        sync_poll_ms=int(poll),
        public_base_url=env.get("PUBLIC_BASE_URL", "").rstrip("/"),
        signing_key_parameter=env.get("SIGNING_KEY_PARAMETER", ""),
    )


def table_name(noun: str) -> str:
    """The name of a table: the environment variable `<NOUN>_TABLE` that the template sets."""
    return os.environ.get(f"{noun}_TABLE") or f"eigenserver-{noun.lower()}"
