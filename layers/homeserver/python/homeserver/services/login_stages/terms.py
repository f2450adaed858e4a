"""`m.login.terms`: agreeing to the operator's documents.

`TERMS` is JSON: each policy with its version, and a name and an address in one language or more:

    {"privacy": {"version": "1", "en": {"name": "Privacy", "url": "https://example.org/privacy"}}}

Source: client-server API v1.19, "Terms of service at registration".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from homeserver.services.login_stages.stage import Attempt, Completed
from homeserver.settings import settings

AGREED = "terms"  # fact: which versions were agreed to, "privacy 1, rules 3"
_VERSION = "version"


@dataclass(frozen=True, slots=True)
class Document:
    """A policy in one language."""

    name: str
    url: str


class Terms:
    """Whoever submits this stage has agreed to what it names."""

    stage_type: ClassVar[str] = "m.login.terms"

    def describe(self) -> Mapping[str, Any]:
        return {"policies": policies()} if policies() else {}

    def start(self, attempt: Attempt) -> Completed:
        agreed = (f"{name} {policy[_VERSION]}" for name, policy in policies().items())
        return Completed({AGREED: ", ".join(agreed)})

    submit = start


def policies() -> dict[str, Any]:
    """The `policies` that clients are told. Raises ValueError for a setting that cannot be used."""
    return _parsed(settings().terms)


def documents(language: str = "en") -> list[Document]:
    """What there is to read, in a language, or else in the first that there is."""
    found = []
    for policy in policies().values():
        texts = {key: text for key, text in policy.items() if key != _VERSION}
        text = texts.get(language) or next(iter(texts.values()))
        found.append(Document(text["name"], text["url"]))
    return found


@cache
def _parsed(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"TERMS is no JSON: {error}") from None
    if not isinstance(value, dict) or not value:
        raise ValueError("TERMS must be an object with at least one policy")
    for name, policy in value.items():
        _check(name, policy)
    return value


def _check(name: str, policy: Any) -> None:
    if not isinstance(policy, dict) or not isinstance(policy.get(_VERSION), str) or len(policy) < 2:
        raise ValueError(f"TERMS: {name} needs a version, a string, and at least one language")
    for language, text in policy.items():
        if language == _VERSION:
            continue
        if not isinstance(text, dict) or not all(isinstance(text.get(key), str) for key in ("name", "url")):
            raise ValueError(f"TERMS: {name} in {language} needs name and url, strings")
        if not text["url"].startswith(("https://", "http://")):
            raise ValueError(f"TERMS: the url of {name} in {language} must begin with https:// or http://")


STAGE = Terms()
