"""The documents of `m.login.terms`: which settings say what, and which cannot be used."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from homeserver.services.login_stages import terms
from homeserver.services.login_stages.stage import Attempt, Completed, Origin
from homeserver.services.login_stages.terms import STAGE, Document, documents, policies
from homeserver.settings import settings

PRIVACY = {
    "version": "1.2",
    "de": {"name": "Datenschutz", "url": "https://example.org/de"},
    "en": {"name": "Privacy", "url": "https://example.org/en"},
}
RULES = {"version": "3", "fr": {"name": "Règles", "url": "http://example.org/fr"}}


@pytest.fixture(autouse=True)
def _fresh_settings() -> Iterator[None]:
    yield
    settings.cache_clear()


def set_terms(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.setenv("TERMS", value if isinstance(value, str) else json.dumps(value))
    settings.cache_clear()


def test_clients_are_told_the_policies_as_they_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    set_terms(monkeypatch, {"privacy": PRIVACY, "rules": RULES})
    assert STAGE.describe() == {"policies": {"privacy": PRIVACY, "rules": RULES}}
    set_terms(monkeypatch, "")
    assert STAGE.describe() == {}


def test_each_document_is_there_in_the_language_asked_for_or_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    set_terms(monkeypatch, {"privacy": PRIVACY, "rules": RULES})
    rules = Document("Règles", "http://example.org/fr")
    assert documents() == [Document("Privacy", "https://example.org/en"), rules]
    assert documents("de") == [Document("Datenschutz", "https://example.org/de"), rules]
    assert documents("xx")[0] == Document("Datenschutz", "https://example.org/de")


def test_the_session_remembers_which_versions_were_agreed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    set_terms(monkeypatch, {"privacy": PRIVACY, "rules": RULES})
    attempt = Attempt("register", "s", {"type": "m.login.terms"}, None, Origin("192.0.2.1"))
    assert STAGE.start(attempt) == Completed({terms.AGREED: "privacy 1.2, rules 3"})
    assert STAGE.submit(attempt) == Completed({terms.AGREED: "privacy 1.2, rules 3"})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{", "TERMS is no JSON"),
        ("[]", "TERMS must be an object with at least one policy"),
        ({}, "TERMS must be an object with at least one policy"),
        ({"privacy": []}, "privacy needs a version"),
        ({"privacy": {"en": PRIVACY["en"]}}, "privacy needs a version"),
        ({"privacy": {"version": 1, "en": PRIVACY["en"]}}, "privacy needs a version"),
        ({"privacy": {"version": "1"}}, "at least one language"),
        ({"privacy": {"version": "1", "en": "x"}}, "privacy in en needs name and url"),
        ({"privacy": {"version": "1", "en": {"name": "x"}}}, "privacy in en needs name and url"),
        ({"privacy": {"version": "1", "en": {"name": "x", "url": "javascript:1"}}}, "must begin with https://"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, value: Any, problem: str) -> None:
    set_terms(monkeypatch, value)
    with pytest.raises(ValueError, match=problem):
        policies()
