"""Texts as searches compare them."""

import pytest

from homeserver.matrix.folding import fold, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Élan", "elan"),
        ("E\u0301lan", "ÉLAN"),
        ("STRASSE", "straße"),
        ("\ufb01n", "FIN"),
        ("\uff21lice", "alice"),
        ("İstanbul", "istanbul"),
        ("Ώρα", "ωρα"),
    ],
)
def test_texts_that_differ_in_case_accents_or_width_are_the_same(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_texts_that_differ_in_letters_are_not_the_same() -> None:
    assert fold("Alice") != fold("Alise")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Alice Smith", ["alice", "smith"]),
        ("mary.jane_o'neil-2", ["mary", "jane", "o", "neil", "2"]),
        ("  \t\n", []),
        ("@!?", []),
        ("Alice ALICE álice", ["alice"]),
        ("田中 太郎", ["田中", "太郎"]),
        ("🦊 fox", ["🦊", "fox"]),
        ("a/b", ["a", "b"]),
    ],
)
def test_words_stand_between_spaces_and_punctuation(text: str, expected: list[str]) -> None:
    assert words(text, most=10, longest=32) == expected


def test_words_are_bounded_in_number_and_length() -> None:
    assert words("one two three four", most=2, longest=2) == ["on", "tw"]
