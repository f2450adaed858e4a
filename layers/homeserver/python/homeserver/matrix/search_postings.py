"""Which of up to 128 texts have a term: a small, immutable index that may find too much and never too little.

Terms are 24-bit hashes, so that an index says little of what the texts said. Layout, after a byte for the format:

    number of terms (2 bytes) │ number of texts that always count (1 byte) │ these │ the terms' hashes, ascending
    (3 bytes each) │ deflated: for each term how many texts (a byte), then the texts of each term (a byte each)
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Final

FORMAT: Final = b"\1"
MOST_TEXTS: Final = 128
# A text with more terms is not worth listing under each of them: it always counts as a candidate.
MOST_TERMS_OF_A_TEXT: Final = 400
_HEADER = len(FORMAT) + 3
_HASH = 3


def _hash(term: str) -> bytes:
    return (zlib.crc32(term.encode(errors="replace")) & 0xFFFFFF).to_bytes(_HASH, "big")


def build_postings(texts: Mapping[int, Iterable[str]]) -> bytes:
    """The index of texts, each a number below 128 with its terms."""
    always: list[int] = []
    found: dict[bytes, list[int]] = {}
    for number in sorted(texts):
        hashes = {_hash(term) for term in texts[number]}
        if len(hashes) > MOST_TERMS_OF_A_TEXT:
            always.append(number)
            continue
        for term in hashes:
            found.setdefault(term, []).append(number)
    terms = sorted(found)
    counts = bytes(len(found[term]) for term in terms)
    numbers = b"".join(bytes(found[term]) for term in terms)
    header = FORMAT + len(terms).to_bytes(2, "big") + bytes([len(always)]) + bytes(always)
    return header + b"".join(terms) + zlib.compress(counts + numbers, wbits=-15)


def find_texts(postings: bytes, terms: Iterable[str]) -> list[int]:
    """The texts that may have all of the terms, ascending. Raises ValueError for a format that is not known."""
    if postings[:1] != FORMAT:
        raise ValueError("unknown format of a search index")
    size, always = int.from_bytes(postings[1:3], "big"), postings[3]
    certain = set(postings[_HEADER : _HEADER + always])
    start = _HEADER + always
    places = []
    for term in terms:
        place = _find(postings, _hash(term), start, size)
        if place is None:
            return sorted(certain)
        places.append(place)
    rest = zlib.decompress(postings[start + size * _HASH :], wbits=-15)
    common: set[int] | None = None
    for place in places:
        begin = size + sum(rest[:place])
        having = set(rest[begin : begin + rest[place]])
        common = having if common is None else common & having
    return sorted(certain | (common or set()))


def _find(postings: bytes, wanted: bytes, start: int, size: int) -> int | None:
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        at = start + middle * _HASH
        found = postings[at : at + _HASH]
        if found == wanted:
            return middle
        low, high = (middle + 1, high) if found < wanted else (low, middle)
    return None
