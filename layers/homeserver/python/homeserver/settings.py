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
    user_directory: str  # shared | all: whom a search for users finds
    guest_accounts: bool  # whether POST /register?kind=guest makes accounts
    query_tokens: str  # all | legacy | off: where an access token may stand in the query string
    rate_limits: bool
    password_cost: str  # normal | low
    cost_meter: bool
    sync_poll_ms: int
    public_base_url: str  # what well-known advertises; empty: the address that was asked
    signing_key_parameter: str  # name of the SSM parameter that holds the signing key
    server_notices_localpart: str  # of the account that the server writes to users with; empty: none
    federation: bool  # whether this server talks with other homeservers
    # Networks (CIDR) that requests to other servers may reach although they are not public
    federation_allow_ranges: tuple[str, ...]
    federation_verify: str  # on | off | path of a CA file: whose certificates other homeservers may show
    trusted_key_servers: tuple[str, ...]  # server names: asked for the keys of servers that do not answer
    api_domain: str  # the domain on which the API answers; empty: the address that was asked
    # Which servers get transactions that name the one before: auto (those that understand it) | always | never
    federation_prev_ids: str
    legacy_seed_views: bool  # whether other servers may look at events in the format of the 2014 draft
    plain_http: str  # off | loopback: whether servers on this machine may be asked without TLS


_CHOICES = {
    "REGISTRATION": ("open", "token", "closed"),
    "USER_DIRECTORY": ("shared", "all"),
    "GUEST_ACCOUNTS": ("on", "off"),
    "FEDERATION": ("on", "off"),
    "FEDERATION_PREV_IDS": ("auto", "always", "never"),
    "LEGACY_SEED_VIEWS": ("on", "off"),
    "PLAIN_HTTP": ("off", "loopback"),
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


def _listed(name: str) -> tuple[str, ...]:
    return tuple(filter(None, (entry.strip() for entry in os.environ.get(name, "").split(","))))


def _networks(name: str) -> tuple[str, ...]:
    listed = _listed(name)
    if listed:
        import ipaddress  # noqa: PLC0415 - the waiting loop of /sync starts without it

        for entry in listed:
            try:
                ipaddress.ip_network(entry)
            except ValueError as error:
                raise ValueError(f"{name} has {entry!r}, which is no network such as 10.0.0.0/8: {error}") from None
    return listed


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
        user_directory=_choice("USER_DIRECTORY", "shared"),
        guest_accounts=_choice("GUEST_ACCOUNTS", "off") == "on",
        query_tokens=_choice("QUERY_TOKENS", "all"),
        rate_limits=_choice("RATE_LIMITS", "on") == "on",
        password_cost=_choice("PASSWORD_COST", "normal"),
        cost_meter=_choice("COST_METER", "off") == "on",
        sync_poll_ms=int(poll),
        public_base_url=env.get("PUBLIC_BASE_URL", "").rstrip("/"),
        signing_key_parameter=env.get("SIGNING_KEY_PARAMETER", ""),
        server_notices_localpart=env.get("SERVER_NOTICES_LOCALPART", ""),
        federation=_choice("FEDERATION", "on") == "on",
        federation_allow_ranges=_networks("FEDERATION_ALLOW_RANGES"),
        federation_verify=env.get("FEDERATION_VERIFY") or "on",
        trusted_key_servers=_listed("TRUSTED_KEY_SERVERS"),
        api_domain=env.get("API_DOMAIN", ""),
        federation_prev_ids=_choice("FEDERATION_PREV_IDS", "auto"),
        legacy_seed_views=_choice("LEGACY_SEED_VIEWS", "off") == "on",
        plain_http=_choice("PLAIN_HTTP", "off"),
    )


def table_name(noun: str) -> str:
    """The name of a table: the environment variable `<NOUN>_TABLE` that the template sets."""
    return os.environ.get(f"{noun}_TABLE") or f"eigenserver-{noun.lower()}"
