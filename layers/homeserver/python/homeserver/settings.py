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
    # JSON lists of lists of stage types; empty: what follows from the other settings (services/login_flows.py)
    login_flows: str
    registration_flows: str
    mail_from: str  # the sender of mails, as in a From header; empty: this server sends none
    smtp_url: str  # smtp[s]://[user:password@]host[:port] that mails go through; empty: SES
    mail_templates: str  # a folder with templates that take the place of the built-in ones; empty: none
    oauth_providers: str  # JSON, see services/oauth_providers.py
    oauth_client_secrets: str  # JSON object: provider ID -> client secret
    recaptcha_public_key: str
    recaptcha_private_key: str
    recaptcha_verify_url: str
    recaptcha_script_url: str
    terms: str  # JSON, the `policies` of m.login.terms; empty: none
    login_sessions_per_day: int  # executions of the login state machine that strangers can start in a day


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


def _count(name: str, default: int, least: int, most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or not least <= int(text) <= most:
        raise ValueError(f"{name} is {text!r}; it must be a whole number from {least} to {most}")
    return int(text)


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
        sync_poll_ms=_count("SYNC_POLL_MS", 500, 1, 10_000),
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
        login_flows=env.get("LOGIN_FLOWS", ""),
        registration_flows=env.get("REGISTRATION_FLOWS", ""),
        mail_from=env.get("MAIL_FROM", ""),
        smtp_url=env.get("SMTP_URL", ""),
        mail_templates=env.get("MAIL_TEMPLATES", ""),
        oauth_providers=env.get("OAUTH_PROVIDERS", ""),
        oauth_client_secrets=env.get("OAUTH_CLIENT_SECRETS", ""),
        recaptcha_public_key=env.get("RECAPTCHA_PUBLIC_KEY", ""),
        recaptcha_private_key=env.get("RECAPTCHA_PRIVATE_KEY", ""),
        recaptcha_verify_url=env.get("RECAPTCHA_VERIFY_URL") or "https://www.google.com/recaptcha/api/siteverify",
        recaptcha_script_url=env.get("RECAPTCHA_SCRIPT_URL") or "https://www.google.com/recaptcha/api.js",
        terms=env.get("TERMS", ""),
        login_sessions_per_day=_count("LOGIN_SESSIONS_PER_DAY", 5000, 1, 10_000_000),
    )


def table_name(noun: str) -> str:
    """The name of a table: the environment variable `<NOUN>_TABLE` that the template sets."""
    return os.environ.get(f"{noun}_TABLE") or f"eigenserver-{noun.lower()}"
