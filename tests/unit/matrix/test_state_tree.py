import random
from base64 import urlsafe_b64encode
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.matrix import state_tree
from homeserver.matrix.state_tree import EMPTY_ROOT, LEAF_LIMIT, build, diff, get_many, get_many_of, items, update


class MemoryNodes(dict[bytes, bytes]):
    """Nodes in memory that count what is read, and in how many rounds."""

    def __init__(self, *updates):
        super().__init__()
        self.reads = self.rounds = 0
        for tree in updates:
            self.update(tree.new_nodes)

    def get_many(self, ids):
        ids = list(ids)
        assert len(ids) == len(set(ids)) > 0
        self.rounds += 1
        self.reads += len(ids)
        return {node_id: self[node_id] for node_id in ids}


def event_id(seed):
    return "$" + urlsafe_b64encode(sha256(str(seed).encode()).digest()).decode().rstrip("=")


def members(count, generation=0):
    return {("m.room.member", f"@user{n}:example.org"): event_id((n, generation)) for n in range(count)}


def reachable(nodes, root):
    """The IDs of the nodes of a tree, read by the test's own walk over the format."""
    if root == EMPTY_ROOT:
        return set()
    data = nodes[root]
    found = {root}
    if data[0] == 0x11:
        at = 3
        for _ in range(int.from_bytes(data[1:3], "big").bit_count()):
            found |= reachable(nodes, data[at : at + 20])
            at += 20
            for _ in range(2):
                while data[at] & 0x80:
                    at += 1
                at += 1
    return found


# Long state keys make leaves split and merge with few entries; one kind alone exceeds a leaf.
state_keys = st.one_of(
    st.text(max_size=4),
    st.integers(0, 25).map(lambda n: f"@user{n}:" + "x" * 400),
    st.integers(0, 3).map(lambda n: f"{n}" + "y" * 1800),
    st.integers(0, 1).map(lambda n: f"{n}" + "z" * 5000),
)
keys = st.tuples(st.sampled_from(["m.room.member", "m.room.name", "org.example.own", ""]), state_keys)
event_ids = st.one_of(
    st.integers(0, 9).map(event_id),
    st.text(max_size=50),
    st.just("$143273582443PhrSn:example.org"),
    st.just("$" + "A" * 43),
)
changes = st.dictionaries(keys, st.none() | event_ids, max_size=25)


@settings(max_examples=300, deadline=None)
@given(st.lists(changes, max_size=6), st.data())
def test_the_tree_behaves_like_a_dict_for_any_sequence_of_changes(history, data):
    nodes, root, state = MemoryNodes(), EMPTY_ROOT, {}
    versions = [(root, state)]
    for step in history:
        tree = update(nodes, root, step)
        # What is new is what the new tree has and the old one has not: nothing missing, nothing twice.
        old = reachable(nodes, root)
        nodes.update(tree.new_nodes)
        assert set(tree.new_nodes) == reachable(nodes, tree.root) - old
        state = {k: v for k, v in {**state, **step}.items() if v is not None}
        root = tree.root
        versions.append((root, state))
        assert items(nodes, root) == state
        assert get_many(nodes, root, step) == {k: v for k, v in step.items() if v is not None}
        # History leaves no trace.
        fresh = build(state)
        assert fresh.root == root
        assert items(MemoryNodes(fresh), root) == state
    (a, before), (b, after) = data.draw(st.sampled_from(versions)), data.draw(st.sampled_from(versions))
    assert diff(nodes, a, b) == {
        k: (before.get(k), after.get(k)) for k in before.keys() | after.keys() if before.get(k) != after.get(k)
    }


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400), st.randoms(use_true_random=False))
def test_growing_and_shrinking_leads_to_the_same_roots_as_building(first, second, rng):
    start, goal = members(first), members(second, generation=1)
    nodes = MemoryNodes(build(start))
    root = build(start).root
    steps = [*goal.items(), *((k, None) for k in start if k not in goal)]
    rng.shuffle(steps)
    while steps:
        part = dict(steps.pop() for _ in range(min(len(steps), rng.randint(1, 60))))
        tree = update(nodes, root, part)
        nodes.update(tree.new_nodes)
        root = tree.root
    assert root == build(goal).root
    assert diff(nodes, build(start).root, root) == {k: (start.get(k), goal.get(k)) for k in start.keys() | goal.keys()}


def test_the_roots_of_known_states_never_change():
    # Stored trees are found by these IDs: a change here is a new format, not a new expectation.
    assert EMPTY_ROOT.hex() == sha256(b"\x10").hexdigest()[:40]
    tree = build({("m.room.name", ""): "$" + "A" * 43, ("org.example", "key"): "$1:example.org"})
    assert list(tree.new_nodes) == [tree.root]
    name = b"\x07\x00" + b"\0" + bytes(32)
    own = b"\0\x0borg.example\x03key" + b"\x0f$1:example.org"
    assert tree.new_nodes[tree.root] in {b"\x10" + name + own, b"\x10" + own + name}
    assert tree.root == sha256(tree.new_nodes[tree.root]).digest()[:20]
    assert build(members(1000)).root.hex() == "9ae833b1c81f9a6e83803c9e9f93119949a0b2b3"


def test_the_empty_tree_needs_no_store():
    nodes = MemoryNodes()
    assert build({}) == update(nodes, EMPTY_ROOT, {("m.room.name", ""): None})
    assert build({}).root == EMPTY_ROOT
    assert build({}).new_nodes == {}
    assert items(nodes, EMPTY_ROOT) == get_many(nodes, EMPTY_ROOT, [("m.room.name", "")]) == {}
    assert diff(nodes, EMPTY_ROOT, EMPTY_ROOT) == {}
    assert nodes.rounds == 0


def test_removing_everything_leads_back_to_the_empty_root():
    tree = build(members(500))
    assert update(MemoryNodes(tree), tree.root, dict.fromkeys(members(500))) == build({})


def test_a_change_that_changes_nothing_makes_no_nodes():
    tree = build(members(500))
    change = {("m.room.member", "@user7:example.org"): event_id((7, 0)), ("m.room.member", "@nobody:x"): None}
    assert update(MemoryNodes(tree), tree.root, change) == state_tree.TreeUpdate(tree.root, {})


def test_type_and_state_key_are_not_mixed_up():
    state = {("a", "bc"): "$1", ("ab", "c"): "$2", ("", "abc"): "$3", ("abc", ""): "$4", ("m.room.name", ""): "$5"}
    tree = build(state)
    assert items(MemoryNodes(tree), tree.root) == state
    assert get_many(MemoryNodes(tree), tree.root, [*state, ("a", ""), ("", "")]) == state


@pytest.mark.parametrize(
    "value",
    [
        "$" + "A" * 43,
        "$" + "A" * 42 + "B",  # bits in the last character that no hash has
        "$Rqnc+F/dvnEYJTyHq0iKxU2bZ1CI92+kuZq3a5lr5Zg",  # room version 3: not URL-safe
        "$143273582443PhrSn:example.org",
        "",
        "$ünïcode",
    ],
)
def test_event_ids_of_every_room_version_come_back_as_they_were(value):
    tree = build({("m.room.name", ""): value})
    assert items(MemoryNodes(tree), tree.root) == {("m.room.name", ""): value}


def test_leaves_hold_up_to_3960_bytes_of_entries():
    # Each entry: type code, length, 28 bytes of state key, 33 bytes of event ID = 63 bytes; 62 fit, 63 do not.
    state = {("m.room.member", f"@user{n:07}:example.org!!!!"): event_id(n) for n in range(63)}
    assert {len(key[1]) for key in state} == {28}
    tree = build(state)
    assert len(tree.new_nodes) > 1
    one_less = update(MemoryNodes(tree), tree.root, {next(iter(state)): None})
    assert len(one_less.new_nodes) == 1
    assert len(one_less.new_nodes[one_less.root]) == 1 + 62 * 63 <= 1 + LEAF_LIMIT


def test_no_node_of_ordinary_entries_exceeds_the_limit():
    assert max(map(len, build(members(5000)).new_nodes.values())) <= 1 + LEAF_LIMIT


def test_an_entry_larger_than_a_leaf_stands_alone_in_one():
    big = ("org.example", "k" * 10_000)
    tree = build({big: "$big"})
    assert len(tree.new_nodes) == 1
    both = update(MemoryNodes(tree), tree.root, {("m.room.name", ""): "$name"})
    nodes = MemoryNodes(tree, both)
    assert items(nodes, both.root) == {big: "$big", ("m.room.name", ""): "$name"}
    # The entry's own leaf was the root before: the new tree takes it over.
    assert tree.root in reachable(nodes, both.root)
    assert update(nodes, both.root, {("m.room.name", ""): None}) == state_tree.TreeUpdate(tree.root, {})


def test_paths_that_collide_to_the_end_still_work(monkeypatch):
    monkeypatch.setattr(state_tree, "key_hash", lambda _encoded: bytes(32))
    state = members(100)
    tree = build(state)
    nodes = MemoryNodes(tree)
    assert len(tree.new_nodes) == 65
    assert items(nodes, tree.root) == state
    changed = update(nodes, tree.root, {("m.room.member", "@user3:example.org"): "$new"})
    nodes.update(changed.new_nodes)
    assert diff(nodes, tree.root, changed.root) == {("m.room.member", "@user3:example.org"): (event_id((3, 0)), "$new")}
    small = update(nodes, changed.root, dict.fromkeys(list(state)[5:]))
    assert len(small.new_nodes) == 1


def test_each_level_is_read_in_one_round():
    tree = build(members(5000))
    nodes = MemoryNodes(tree)
    wanted = random.Random(1).sample(list(members(5000)), 100)
    assert get_many(nodes, tree.root, wanted) == {k: members(5000)[k] for k in wanted}
    assert nodes.rounds == 3
    nodes = MemoryNodes(tree)
    items(nodes, tree.root)
    assert (nodes.rounds, nodes.reads) == (3, len(tree.new_nodes))
    nodes = MemoryNodes(tree)
    update(nodes, tree.root, dict.fromkeys(wanted, "$new"))
    assert nodes.rounds == 3


def test_one_change_of_a_large_state_reads_and_writes_one_path():
    tree = build(members(5000))
    nodes = MemoryNodes(tree)
    changed = update(nodes, tree.root, {("m.room.member", "@user7:example.org"): "$new"})
    assert (nodes.reads, len(changed.new_nodes)) == (3, 3)


def test_the_diff_of_large_states_reads_only_what_differs():
    tree = build(members(5000))
    differing = random.Random(2).sample(list(members(5000)), 20)
    changed = update(MemoryNodes(tree), tree.root, {k: event_id(k) for k in differing})
    nodes = MemoryNodes(tree, changed)
    assert diff(nodes, tree.root, changed.root) == {k: (members(5000)[k], event_id(k)) for k in differing}
    # Two roots, two times at most 16 nodes under them and 20 leaves: of 273 nodes of each tree.
    assert nodes.reads <= 2 * (1 + 16 + 20)
    assert nodes.rounds == 3


def test_the_diff_across_a_split_reads_only_the_leaf_that_changed():
    state = {("m.room.member", f"@user{n:07}:example.org!!!!"): event_id(n) for n in range(63)}
    last, last_event = state.popitem()
    tree = build(state)
    assert len(tree.new_nodes) == 1
    grown = update(MemoryNodes(tree), tree.root, {last: last_event})
    assert len(grown.new_nodes) > 10
    for a, b, expected in [
        (tree.root, grown.root, (None, last_event)),
        (grown.root, tree.root, (last_event, None)),
    ]:
        nodes = MemoryNodes(tree, grown)
        assert diff(nodes, a, b) == {last: expected}
        assert (nodes.reads, nodes.rounds) == (3, 2)


def test_a_missing_node_is_a_key_error():
    tree = build(members(500))
    with pytest.raises(KeyError):
        items(MemoryNodes(), tree.root)


@pytest.mark.parametrize(
    "data", [b"", b"\x20", b"\x10\x07", b"\x10\x07\x00\x00abc", b"\x11\x00\x01abc", b"\x11\x00\x00\x00"]
)
def test_damaged_nodes_and_formats_of_the_future_are_refused(data):
    nodes = MemoryNodes()
    nodes[bytes(20)] = data
    with pytest.raises(ValueError, match=r"state node|varint"):
        items(nodes, bytes(20))


def test_type_codes_of_the_future_are_refused():
    nodes = MemoryNodes()
    nodes[bytes(20)] = b"\x10\xfe\x00" + bytes(33)
    with pytest.raises(ValueError, match="unknown type code 254"):
        items(nodes, bytes(20))


def test_several_trees_are_searched_together_a_round_a_level():
    nodes, trees, root, state = MemoryNodes(), {}, EMPTY_ROOT, {}
    for generation in range(6):
        step = (
            members(400, generation)
            if generation == 0
            else {("m.room.member", "@user7:example.org"): event_id(generation)}
        )
        tree = update(nodes, root, step)
        nodes.update(tree.new_nodes)
        root, state = tree.root, {**state, **step}
        trees[root] = state
    wanted = [("m.room.member", "@user7:example.org"), ("m.room.member", "@user8:example.org"), ("m.room.name", "")]
    nodes.rounds = 0
    found = get_many_of(nodes, [*trees, EMPTY_ROOT], wanted)
    assert nodes.rounds == 2
    assert found.pop(EMPTY_ROOT) == {}
    assert found == {root: {key: state[key] for key in wanted if key in state} for root, state in trees.items()}
