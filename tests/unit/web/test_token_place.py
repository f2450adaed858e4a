"""Where an access token may stand."""

from collections.abc import Callable, Iterator

import pytest

from homeserver.matrix.errors import InvalidParam
from homeserver.settings import settings
from homeserver.web.token_place import chosen_token

DRAFT = "/_matrix/client/api/v1/events"
OLDER_DRAFT = "/matrix/client/api/v1/events"
MODERN = "/_matrix/client/v3/sync"
R0 = "/_matrix/client/r0/sync"


@pytest.fixture
def query_tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def choose(value: str) -> None:
        monkeypatch.setenv("QUERY_TOKENS", value)
        settings.cache_clear()

    yield choose
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.parametrize(
    ("allowed", "taken"),
    [("all", {DRAFT, OLDER_DRAFT, MODERN, R0}), ("legacy", {DRAFT, OLDER_DRAFT}), ("off", set())],
)
def test_the_setting_says_where_the_query_counts(
    query_tokens: Callable[[str], None], allowed: str, taken: set[str]
) -> None:
    query_tokens(allowed)
    paths = [DRAFT, OLDER_DRAFT, MODERN, R0]
    assert {path for path in paths if chosen_token(None, "secret", path) == "secret"} == taken
    assert {path for path in paths if chosen_token(None, "secret", path) is None} == set(paths) - taken
    assert {chosen_token("Bearer other", None, path) for path in paths} == {"other"}


def test_the_same_token_twice_is_one_token(query_tokens: Callable[[str], None]) -> None:
    query_tokens("all")
    assert chosen_token("Bearer secret", "secret", MODERN) == "secret"


def test_two_different_tokens_are_refused_where_both_count(query_tokens: Callable[[str], None]) -> None:
    query_tokens("legacy")
    with pytest.raises(InvalidParam) as refused:
        chosen_token("Bearer one", "another", DRAFT)
    assert (refused.value.status, refused.value.errcode) == (400, "M_INVALID_PARAM")
    assert "one" not in refused.value.message.split()
    assert chosen_token("Bearer one", "another", MODERN) == "one"


@pytest.mark.parametrize("header", ["Basic secret", "Bearer", "Bearer ", ""])
def test_a_header_of_another_kind_is_no_token(query_tokens: Callable[[str], None], header: str) -> None:
    query_tokens("all")
    assert chosen_token(header, "secret", MODERN) is None


def test_empty_words_are_no_token(query_tokens: Callable[[str], None]) -> None:
    query_tokens("all")
    assert chosen_token(None, "", MODERN) is None
    assert chosen_token("bearer secret", "", MODERN) == "secret"
