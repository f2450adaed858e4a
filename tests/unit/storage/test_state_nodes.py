"""Trees that are brought into memory: everything that is asked of them afterwards is there, a round a level."""

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix import state_tree
from homeserver.storage import state_nodes
from homeserver.storage.state_nodes import StateNodes, entry_count, is_known, read_trees, take_back

Key = tuple[str, str]


class Nodes:
    """Nodes in memory; it counts rounds, and what was read once can be closed to further reads."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}
        self.known: dict[bytes, bytes] = {}
        self.rounds = 0
        self.is_closed = False

    def store(self, state: Mapping[Key, str]) -> bytes:
        update = state_tree.build(state)
        self.stored |= update.new_nodes
        return update.root

    def get_many(self, ids: Iterable[bytes]) -> Mapping[bytes, bytes]:
        wanted = list(ids)
        missing = [node_id for node_id in wanted if node_id not in self.known]
        if missing and self.is_closed:
            raise AssertionError("a node was not read ahead")
        self.rounds += bool(missing)
        self.known |= {node_id: self.stored[node_id] for node_id in missing}
        return {node_id: self.known[node_id] for node_id in wanted}


def members(*numbers: int, event: str = "a") -> dict[Key, str]:
    return {("m.room.member", f"@user{number}:example.org"): f"${event}{number}" for number in numbers}


SETTINGS = {("m.room.name", ""): "$name", ("m.room.topic", ""): "$topic"}
DEEP = SETTINGS | members(*range(2000))


def test_what_is_whole_what_is_a_path_and_what_differs_is_read_together() -> None:
    nodes = Nodes()
    whole, other = nodes.store(DEEP), nodes.store(DEEP | members(*range(0, 2000, 7), event="b"))
    older = nodes.store(SETTINGS | members(*range(40)))
    read_trees(nodes, wholes=[older], paths=[whole], keys=[*SETTINGS], tops=[whole], pairs=[(whole, other)])
    assert nodes.rounds == 3
    nodes.is_closed = True
    assert state_tree.items(nodes, older) == SETTINGS | members(*range(40))
    assert state_tree.get_many(nodes, whole, SETTINGS) == SETTINGS
    assert len(state_tree.diff(nodes, whole, other)) == len(range(0, 2000, 7))
    assert [entry_count(nodes, root) for root in (whole, other, older)] == [2002, 2002, 42]
    with pytest.raises(AssertionError, match="not read ahead"):
        state_tree.items(nodes, whole)


def test_of_a_top_no_more_than_one_node_is_read_and_of_nothing_none() -> None:
    nodes = Nodes()
    root = nodes.store(DEEP)
    read_trees(nodes, tops=[root, state_tree.EMPTY_ROOT], wholes=[state_tree.EMPTY_ROOT])
    assert (nodes.rounds, len(nodes.known)) == (1, 1)
    read_trees(nodes, pairs=[(root, root), (root, state_tree.EMPTY_ROOT)])
    assert (nodes.rounds, len(nodes.known)) == (1, 1)
    assert entry_count(nodes, state_tree.EMPTY_ROOT) == 0


def test_a_node_that_does_not_exist_is_an_error() -> None:
    nodes = Nodes()
    root = nodes.store(DEEP)
    del nodes.stored[root]
    with pytest.raises(KeyError):
        read_trees(nodes, wholes=[root])


states = st.dictionaries(
    st.tuples(st.sampled_from(["m.room.member", "m.room.name", "org.example.type"]), st.text(max_size=3)),
    st.sampled_from(["$a", "$b", "$c"]),
    max_size=60,
)


@given(states, states, st.sampled_from([40, 200, state_tree.LEAF_LIMIT]))
def test_whatever_two_states_are_their_difference_is_read_ahead(
    a: dict[Key, str], b: dict[Key, str], leaf_limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_tree, "LEAF_LIMIT", leaf_limit)  # deep trees of few entries
        nodes = Nodes()
        before, after = nodes.store(a), nodes.store(b)
        read_trees(nodes, pairs=[(before, after)], wholes=[after], paths=[before], keys=b)
        nodes.is_closed = True
        assert state_tree.items(nodes, after) == b
        assert state_tree.get_many(nodes, before, b) == {key: a[key] for key in b.keys() & a.keys()}
        if state_tree.EMPTY_ROOT not in (before, after):
            expected = {key: (a.get(key), b.get(key)) for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
            assert state_tree.diff(nodes, before, after) == expected


@given(states, states, st.sampled_from([40, 200, state_tree.LEAF_LIMIT]))
def test_an_earlier_state_is_worked_out_of_a_later_one_and_a_wrong_guess_is_noticed(
    earlier: dict[Key, str], later: dict[Key, str], leaf_limit: int
) -> None:
    changes = {key: earlier.get(key) for key in earlier.keys() | later.keys() if earlier.get(key) != later.get(key)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_tree, "LEAF_LIMIT", leaf_limit)  # deep trees of few entries
        patch.setattr(state_nodes, "_cache", {})
        built, before = state_tree.build(later), state_tree.build(earlier).root
        assert not take_back("!room", built.root, {**changes, ("m.room.topic", ""): "$more"}, before)
        state_nodes._remember("!room", built.new_nodes)
        known = dict(state_nodes._cache)
        assert not take_back("!room", built.root, {**changes, ("m.room.topic", ""): "$more"}, before)
        assert state_nodes._cache == known
        assert take_back("!room", built.root, changes, before)
        assert is_known("!room", before)
        assert state_tree.items(StateNodes("!room"), before) == earlier
