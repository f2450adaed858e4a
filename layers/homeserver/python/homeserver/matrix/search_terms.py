"""The words of a text and of a search, as searches compare them.

A text is cut into pieces: words, and runs of scripts that put no spaces between words (Han, kana, Thai, ...) or of
symbols such as emoji. Words are compared whole; a run is found wherever the one that is searched for is part of it. An
index knows words, and of runs every character and every pair of neighbours. All of it is folded: case, accents and
width do not count (see folding). Source: client-server API v1.19, "Server Side Search", which leaves it open.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from homeserver.matrix.folding import fold

MOST_PIECES: Final = 20  # of one search
_LONGEST_WORD = 64
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_NOTHING, _WORD, _RUN = 0, 1, 2
# Thai and Lao, Burmese, Khmer, kana with Bopomofo and CJK symbols, Han with its extensions and compatibility forms,
# halfwidth kana
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x312F),
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A word or a run: as it stands in the text, and folded."""

    written: str
    folded: str
    is_run: bool


@cache
def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category == "So":
        return _RUN
    if category[0] not in "LNM":
        return _NOTHING
    code = ord(character)
    return _RUN if any(low <= code <= high for low, high in _UNSPACED) else _WORD


def pieces(text: str) -> Iterator[Piece]:
    """The pieces of a text in their order."""
    if text.isascii():
        for word in _ASCII_WORD.findall(text.lower()):
            yield Piece(word, word[:_LONGEST_WORD], is_run=False)
        return
    text = unicodedata.normalize("NFC", text)
    start, kind = 0, _NOTHING
    for at, character in enumerate(text):
        now = _kind(character)
        if now == kind:
            continue
        # A combining mark belongs to what it stands on.
        if kind != _NOTHING and unicodedata.category(character)[0] == "M":
            continue
        if kind != _NOTHING:
            yield _piece(text[start:at], kind)
        start, kind = at, now
    if kind != _NOTHING:
        yield _piece(text[start:], kind)


def _piece(written: str, kind: int) -> Piece:
    folded = fold(written)
    return Piece(written, folded if kind == _RUN else folded[:_LONGEST_WORD], kind == _RUN)


def index_terms(text: str) -> set[str]:
    """What an index knows of a text."""
    terms: set[str] = set()
    for piece in pieces(text):
        if piece.is_run:
            terms.update(piece.folded)
            terms.update(_pairs(piece.folded))
        else:
            terms.add(piece.folded)
    return terms


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]


@dataclass(frozen=True, slots=True)
class Match:
    """How a text matches: a number that is higher for more and denser matches, and its words to be highlighted."""

    rank: float
    highlights: frozenset[str]


@dataclass(frozen=True, slots=True)
class SearchTerm:
    """What is searched for: every word and every run has to be in the text, in any order."""

    words: frozenset[str]
    runs: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> "SearchTerm":
        """The search that a text asks for; of very long ones the first pieces count."""
        found = []
        for piece in pieces(text):
            found.append(piece)
            if len(found) == MOST_PIECES:
                break
        return cls(
            frozenset(piece.folded for piece in found if not piece.is_run and piece.folded),
            frozenset(piece.folded for piece in found if piece.is_run and piece.folded),
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to be searched for: such a search finds nothing."""
        return not self.words and not self.runs

    @property
    def terms(self) -> frozenset[str]:
        """The terms of an index that every matching text has."""
        of_runs = {term for run in self.runs for term in (_pairs(run) or [run])}
        return self.words | of_runs

    def match(self, text: str) -> Match | None:
        """How the text matches, or None."""
        found = list(pieces(text))
        words = {piece.folded for piece in found if not piece.is_run}
        if not self.words <= words:
            return None
        runs = [piece for piece in found if piece.is_run]
        if not all(any(run in piece.folded for piece in runs) for run in self.runs):
            return None
        hits = [piece for piece in found if not piece.is_run and piece.folded in self.words]
        of_runs = sum(piece.folded.count(run) for piece in runs for run in self.runs)
        rank = (len(hits) + of_runs) / max(1, len(found)) ** 0.5
        return Match(round(rank, 6), frozenset(piece.written.lower() for piece in hits) | self.runs)
