"""Words of texts and of searches."""

import pytest

from homeserver.matrix.search_terms import MOST_PIECES, SearchTerm, index_terms, pieces


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("martians men", "Men, and then: MARTIANS!"),
        ("elan", "Élan vital"),
        ("ÉLAN", "elan"),
        ("STRASSE", "Straße"),
        ("fin", "the ﬁn"),
        ("42", "answer=42"),
        ("foo bar", "foo_bar"),
        ("привет", "Привет, мир"),
        ("हिन्दी", "यह हिन्दी है"),
        ("한국", "한국 사람"),
        ("茶", "緑茶を飲む"),
        ("緑茶", "緑茶を飲む"),
        ("茶を飲", "緑茶を飲む"),
        ("ภาษา", "ผมพูดภาษาไทย"),
        ("🍵", "time for🍵!"),
        ("x" * 100, "x" * 100),
    ],
)
def test_a_text_is_found_by_words_and_parts_of_runs(term: str, text: str) -> None:
    search = SearchTerm.parse(term)
    assert not search.is_empty
    assert search.match(text) is not None
    assert search.terms <= index_terms(text)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("martians men", "only martians"),
        ("mart", "martians"),
        ("martians", "mart"),
        ("茶緑", "緑茶"),
        ("緑飲", "緑茶を飲む"),
        ("tea", ""),
        ("tea", "... --- ..."),
    ],
)
def test_all_words_have_to_be_there_and_whole(term: str, text: str) -> None:
    assert SearchTerm.parse(term).match(text) is None


@pytest.mark.parametrize("term", ["", "   ", "?!", "---", "\u200b"])
def test_a_search_without_words_is_empty(term: str) -> None:
    assert SearchTerm.parse(term).is_empty


def test_the_index_has_every_pair_of_a_run_and_a_search_may_still_be_pickier() -> None:
    search = SearchTerm.parse("茶飲茶")
    text = "飲茶。茶飲"  # every pair is there, the run is not
    assert search.terms <= index_terms(text)
    assert search.match(text) is None


def test_more_and_denser_matches_rank_higher_and_highlights_are_as_written() -> None:
    search = SearchTerm.parse("tea")
    once, twice, diluted = (search.match(text) for text in ("Tea time", "tea, TEA", "tea and so much else in here"))
    assert once is not None
    assert twice is not None
    assert diluted is not None
    assert twice.rank > once.rank > diluted.rank > 0
    found = SearchTerm.parse("elan").match("Élan!")
    assert found is not None
    assert found.highlights == frozenset({"élan"})


def test_of_a_very_long_search_the_first_words_count() -> None:
    words = [f"w{number}" for number in range(MOST_PIECES + 5)]
    search = SearchTerm.parse(" ".join(words))
    assert search.words == frozenset(words[:MOST_PIECES])


def test_pieces_keep_their_order_and_marks_stay_with_their_letters() -> None:
    assert [(piece.written, piece.is_run) for piece in pieces("Cafe\u0301 緑茶2x🍵")] == [
        ("Café", False),
        ("緑茶", True),
        ("2x", False),
        ("🍵", True),
    ]
