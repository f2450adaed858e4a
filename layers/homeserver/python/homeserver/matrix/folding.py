"""Text as searches compare it: without case, accents and width.

Source: client-server API v1.19, "User Directory" (case-insensitive); Unicode's caseless matching of compatibility
equivalents (The Unicode Standard, section 3.13), and in addition nonspacing marks count for nothing.
"""

import unicodedata

# Between words: separators, punctuation, control characters. Symbols (emoji among them) are parts of words.
_BETWEEN_WORDS = frozenset("ZPC")


def fold(text: str) -> str:
    """The text in one form for all that are to be found by each other: `Élan` and `elan`, `ﬁn` and `FIN`."""
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


def words(text: str, *, most: int, longest: int) -> list[str]:
    """The first words of a text, folded, each once and cut to `longest` characters."""
    spaced = "".join(" " if unicodedata.category(c)[0] in _BETWEEN_WORDS else c for c in fold(text))
    return list(dict.fromkeys(word[:longest] for word in spaced.split()))[:most]
