"""The index of up to 128 texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.search_postings import MOST_TERMS_OF_A_TEXT, build_postings, find_texts

words = st.text("abcdef", min_size=1, max_size=3)
texts = st.dictionaries(st.integers(0, 127), st.sets(words, max_size=20), max_size=60)


@given(texts, st.sets(words, min_size=1, max_size=4))
def test_every_text_that_has_all_terms_is_found(texts: dict[int, set[str]], wanted: set[str]) -> None:
    found = find_texts(build_postings(texts), wanted)
    assert found == sorted(found)
    assert {number for number, having in texts.items() if wanted <= having} <= set(found)


def test_texts_without_a_term_are_not_found() -> None:
    postings = build_postings({3: {"tea", "time"}, 7: {"tea"}, 9: {"coffee"}})
    assert find_texts(postings, {"tea"}) == [3, 7]
    assert find_texts(postings, {"tea", "time"}) == [3]
    assert find_texts(postings, {"tea", "coffee"}) == []
    assert find_texts(postings, {"milk"}) == []
    assert find_texts(build_postings({}), {"tea"}) == []


def test_a_text_with_very_many_terms_is_always_a_candidate_and_costs_a_byte() -> None:
    much = {f"w{number}" for number in range(MOST_TERMS_OF_A_TEXT + 1)}
    postings = build_postings({1: {"tea"}, 2: much})
    assert len(postings) < 30
    assert find_texts(postings, {"tea"}) == [1, 2]
    assert find_texts(postings, {"milk"}) == [2]


def test_a_hundred_messages_of_ordinary_length_take_a_few_kilobytes() -> None:
    texts = {number: {f"word{(number * 7 + n * 13) % 700}" for n in range(12)} for number in range(100)}
    assert len(build_postings(texts)) < 4_000


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format"):
        find_texts(b"\2" + build_postings({1: {"tea"}})[1:], {"tea"})
