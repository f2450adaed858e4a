"""Names of rooms that people would take for others are refused; those of all languages pass."""

import pytest

from homeserver.matrix.human_ids import localpart_problem, scripts_of


@pytest.mark.parametrize(
    "name",
    [
        "pub",
        "the-pub_2.0!",
        "café",
        "кафе",
        "καφέ",
        "קפה",
        "مقهى",
        "चाय",
        "東京tower",
        "カフェcafe",
        "ひらがなカタカナ漢字",
        "카페cafe",
        "漢字ㄅㄆ",
        "100%",
        "🍺",
    ],
)
def test_a_name_in_one_language_is_a_name(name: str) -> None:
    assert localpart_problem(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("a:b", "colon"),
        ("a#b", "number sign"),
        ("the pub", "spaces"),
        ("the\u00a0pub", "spaces"),
        ("pub\t", "cannot be seen"),
        ("pub\x00", "cannot be seen"),
        ("pu\u200bb", "cannot be seen"),
        ("\u202epub", "cannot be seen"),
        ("pub\ue000", "cannot be seen"),
        ("\uff50ub", "plain ones"),
        ("\U0001d429ub", "plain ones"),
        ("\ufb01sh", "plain ones"),
        ("cafe\u0301", "plain ones"),
        ("p\u0443b", "Cyrillic, Latin"),
        ("p\u03c5b", "Greek, Latin"),
        ("\u0430\u03bf", "Cyrillic, Greek"),
        ("ひらがな카페", "Hangul, Hiragana"),
    ],
)
def test_a_name_that_may_be_taken_for_another_is_refused(name: str, reason: str) -> None:
    problem = localpart_problem(name)
    assert problem is not None
    assert reason in problem


def test_digits_marks_and_symbols_belong_to_every_script() -> None:
    assert scripts_of("abc123-_\u0301") == {"LATIN"}
    assert scripts_of("123") == frozenset()
