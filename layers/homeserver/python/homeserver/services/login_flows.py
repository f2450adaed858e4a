"""Which stages there are, and which of them a login or a registration takes: the operator's configuration.

`LOGIN_FLOWS` and `REGISTRATION_FLOWS` are JSON lists of flows, each a list of stage types in their order:

    [["m.login.password"], ["m.login.email.code", "m.login.password"]]

Source: the 2014 draft, "Registration and login"; client-server API v1.19, "User-Interactive Authentication API".
"""

import json
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import cast

from homeserver.services.login_stages.stage import Stage
from homeserver.settings import settings

Flow = tuple[str, ...]

PASSWORD = "m.login.password"
DUMMY = "m.login.dummy"
REGISTRATION_TOKEN = "m.login.registration_token"
EMAIL_CODE = "m.login.email.code"
EMAIL_URL = "m.login.email.url"
EMAIL_IDENTITY = "m.login.email.identity"
OAUTH2 = "m.login.oauth2"
RECAPTCHA = "m.login.recaptcha"
TERMS = "m.login.terms"

# Stage type -> the module of login_stages that has it as `STAGE`: a function loads those it is asked for.
_MODULES = {
    PASSWORD: "password",
    DUMMY: "dummy",
    REGISTRATION_TOKEN: "registration_token",
    EMAIL_CODE: "email_code",
    EMAIL_URL: "email_url",
    EMAIL_IDENTITY: "email_identity",
    OAUTH2: "oauth2",
    RECAPTCHA: "recaptcha",
    TERMS: "terms",
}
MAIL_STAGES = frozenset({EMAIL_CODE, EMAIL_URL, EMAIL_IDENTITY})
# What proves in a login who somebody is. A flow has to end up with a user.
_LOGIN_STAGES = frozenset({PASSWORD, EMAIL_CODE, EMAIL_URL, OAUTH2, RECAPTCHA, TERMS})
_LOGIN_PROOFS = frozenset({PASSWORD, EMAIL_CODE, EMAIL_URL, OAUTH2})
_REGISTRATION_STAGES = frozenset(_MODULES) - {OAUTH2}


@cache
def stage(stage_type: str) -> Stage:
    """The stage of a type. Raises KeyError for an unknown one."""
    module = import_module(f"homeserver.services.login_stages.{_MODULES[stage_type]}")
    return cast("Stage", module.STAGE)


@cache
def login_flows() -> tuple[Flow, ...]:
    """The flows of a login, the preferred one first. Raises ValueError for a setting that cannot be used."""
    usual = ((PASSWORD,), (OAUTH2,)) if settings().oauth_providers.strip() else ((PASSWORD,),)
    flows = _parsed("LOGIN_FLOWS", settings().login_flows, _LOGIN_STAGES) or usual
    for flow in flows:
        if not _LOGIN_PROOFS & set(flow):
            raise ValueError(f"LOGIN_FLOWS has {list(flow)}, with which anybody could log in as anybody")
    return flows


@cache
def registration_flows() -> tuple[Flow, ...]:
    """The flows of a registration, as User-Interactive Authentication names them; none: nobody can register.

    The user name and the password of a new account are in the request that the flow is for, so `m.login.password` is
    no stage of these. Raises ValueError for a setting that cannot be used.
    """
    policy = settings().registration
    if policy == "closed":
        return ()
    configured = _parsed("REGISTRATION_FLOWS", settings().registration_flows, _REGISTRATION_STAGES)
    flows = configured or (((REGISTRATION_TOKEN,),) if policy == "token" else ((DUMMY,),))
    if policy == "token" and any(REGISTRATION_TOKEN not in flow for flow in flows):
        raise ValueError("REGISTRATION_FLOWS has a flow without m.login.registration_token although REGISTRATION=token")
    stages = [tuple(kind for kind in flow if kind != PASSWORD) or (DUMMY,) for flow in flows]
    return tuple(dict.fromkeys(stages))


def draft_registration_flows() -> tuple[Flow, ...]:
    """The same flows as the draft of 2014 names them: without the dummy, and with the password as a stage, last."""
    flows = [(*(kind for kind in flow if kind != DUMMY), PASSWORD) for flow in registration_flows()]
    return tuple(dict.fromkeys(flows))


def has_mail() -> bool:
    """Whether this server can send mail."""
    return bool(settings().mail_from)


def _parsed(name: str, text: str, allowed: frozenset[str]) -> tuple[Flow, ...]:
    if not text.strip():
        return ()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is no JSON: {error}") from None
    if not _is_flows(value):
        raise ValueError(f'{name} must be a list of lists of stage types such as [["{PASSWORD}"]], without repetitions')
    flows = tuple(tuple(flow) for flow in value)
    _check(name, flows, allowed)
    return tuple(dict.fromkeys(flows))


def _is_flows(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(flow, list)
            and bool(flow)
            and all(isinstance(kind, str) for kind in flow)
            and len(set(flow)) == len(flow)
            for flow in value
        )
    )


def _check(name: str, flows: Sequence[Flow], allowed: frozenset[str]) -> None:
    used = {kind for flow in flows for kind in flow}
    needs = [
        (used - allowed, "which is no stage of it"),
        (used & MAIL_STAGES if not settings().mail_from else (), "but MAIL_FROM is empty"),
        (used & {RECAPTCHA} if not settings().recaptcha_private_key else (), "but RECAPTCHA_PRIVATE_KEY is empty"),
        (used & {TERMS} if not settings().terms else (), "but TERMS is empty"),
        (used & {OAUTH2} if not settings().oauth_providers else (), "but OAUTH_PROVIDERS is empty"),
    ]
    for stages, problem in needs:
        if stages:
            raise ValueError(f"{name} has {', '.join(sorted(stages))}, {problem}")
