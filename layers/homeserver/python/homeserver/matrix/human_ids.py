"""Whether a name that people read, and may take for another, can be given: the localpart of a room alias.

Two names that look alike are a way to lead people into the wrong room. The standard library knows no scripts, but a
character's name begins with its script: `CYRILLIC SMALL LETTER A`. So a name is refused that

- is not its own compatibility form (NFKC): ligatures, bold and wide letters are written plainly;
- has characters that cannot be seen: controls, spaces, format characters (joiners and direction marks too), what is
  not assigned;
- mixes scripts, but for those that are written together: Latin with Japanese, Chinese or Korean. That is the "highly
  restrictive" level of Unicode's report on security (UTS 39, 5.2). Digits, punctuation, symbols and marks go with all.

A whole word in another script that looks Latin passes: only a table of every pair of characters would tell, and such a
word may be just what it says in its own language.
"""

import unicodedata
from typing import Final

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"})
_HAN: Final = frozenset({"CJK", "IDEOGRAPHIC"})
_TOGETHER: Final = (
    frozenset({"LATIN", *_HAN, "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    frozenset({"LATIN", *_HAN, "BOPOMOFO"}),
    frozenset({"LATIN", *_HAN, "HANGUL"}),
)


def localpart_problem(localpart: str) -> str | None:
    """What is wrong with the localpart of a new alias, as a sentence; None if nothing is."""
    if not localpart:
        return "The name is empty."
    if not {":", "#"}.isdisjoint(localpart):
        return "The name has a colon or a number sign."
    if any(unicodedata.category(character) in _UNSEEN for character in localpart):
        return "The name has spaces or characters that cannot be seen."
    if unicodedata.normalize("NFKC", localpart) != localpart:
        return "The name has characters that are another way to write plain ones."
    scripts = scripts_of(localpart)
    if len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER):
        return f"The name mixes scripts that look alike: {', '.join(sorted(script.title() for script in scripts))}."
    return None


def scripts_of(text: str) -> frozenset[str]:
    """The scripts of a text's letters, by the first words of their names; a letter without a name is a script."""
    letters = (character for character in text if unicodedata.category(character).startswith("L"))
    return frozenset(unicodedata.name(letter, "UNKNOWN").partition(" ")[0] for letter in letters)
