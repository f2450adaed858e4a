"""Chain cover: reachability in the auth graph, compared with walking it."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.chain_cover import ChainCover, cover_of


def event_id(number: int) -> str:
    return "$" + f"{number:042d}" + "A"


@dataclass
class Graph:
    """An auth graph whose events are numbered; `parents` are the auth events of each."""

    parents: list[list[int]] = field(default_factory=list)
    covers: list[ChainCover] = field(default_factory=list)
    taken: set[tuple[str, int]] = field(default_factory=set)

    def add(self, parents: list[int], continues: int | None) -> None:
        number = len(self.parents)
        previous = self.covers[continues] if continues is not None else None
        if previous is not None and (previous.chain, previous.number + 1) in self.taken:
            previous = None  # another event went on with that chain first
        cover = cover_of(event_id(number), [self.covers[p] for p in parents], continues=previous)
        self.taken.add((cover.chain, cover.number))
        self.parents.append(parents)
        self.covers.append(cover)

    def ancestors(self, number: int) -> set[int]:
        found: set[int] = set()
        pending = list(self.parents[number])
        while pending:
            parent = pending.pop()
            if parent not in found:
                found.add(parent)
                pending += self.parents[parent]
        return found


@given(st.lists(st.tuples(st.sets(st.integers(0, 30), max_size=4), st.integers(0, 4)), max_size=30))
def test_the_cover_says_of_every_pair_what_walking_the_graph_says(shape: list[tuple[set[int], int]]) -> None:
    graph = Graph()
    for wanted, choice in shape:
        parents = sorted(parent for parent in wanted if parent < len(graph.parents))
        continues = parents[choice] if choice < len(parents) else None
        graph.add(parents, continues)
    for number, cover in enumerate(graph.covers):
        ancestors = graph.ancestors(number)
        assert {other for other, c in enumerate(graph.covers) if cover.reaches(c)} == ancestors


@given(st.dictionaries(st.integers(1, 50), st.integers(0, 10**6), max_size=12), st.integers(0, 10**6))
def test_packing_keeps_everything(reach: dict[int, int], number: int) -> None:
    cover = ChainCover(event_id(0), number, {event_id(chain): reached for chain, reached in reach.items()})
    assert ChainCover.unpack(cover.pack()) == cover


def test_event_ids_that_are_no_hashes_are_kept_as_they_are() -> None:
    cover = ChainCover("$create:example.org", 3, {"$levels+/not-a-hash:example.org": 7})
    assert ChainCover.unpack(cover.pack()) == cover


def test_an_event_is_not_in_its_own_auth_chain() -> None:
    cover = cover_of(event_id(1), [])
    assert not cover.reaches(cover)


def test_the_chain_goes_on_from_the_event_that_is_continued() -> None:
    create = cover_of(event_id(1), [])
    levels = cover_of(event_id(2), [create])
    changed = cover_of(event_id(3), [create, levels], continues=levels)
    assert (changed.chain, changed.number, dict(changed.reach)) == (event_id(2), 1, {event_id(1): 0})


@pytest.mark.parametrize("data", [b"", b"\x20short", b"\x00\x05ab"])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        ChainCover.unpack(data)
