"""State resolution: forks from state trees, what is missing, long chains, and what it reads."""

from collections import Counter

import pytest

from fixtures.state_resolution.by_walking import Walker
from fixtures.state_resolution.graph import GraphInMemory, forks_of, reached_by_walking
from fixtures.state_resolution.large_room import CountingNodes, LargeRoom
from fixtures.state_resolution.random_rooms import LawlessRoom
from homeserver.matrix import state_tree
from homeserver.matrix.chain_cover import ChainCover, joint_reach
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.state_resolution import Forks, MissingAuthEvents, conflicted_subgraph, fork_states, resolve
from homeserver.matrix.state_resolution.auth_graph import AuthGraph

CREATOR, ALICE, BOB = "@creator:one.example", "@alice:one.example", "@bob:two.example"
LEVELS, TOPIC, NAME = ("m.room.power_levels", ""), ("m.room.topic", ""), ("m.room.name", "")


def nodes_of(*states):
    nodes = CountingNodes()
    roots = []
    for state in states:
        tree = state_tree.build(state)
        nodes.update(tree.new_nodes)
        roots.append(tree.root)
    return nodes, roots


def nothing_is_reached(coordinates):
    return []


def room(version: str = "11", *, level_changes: int = 0) -> GraphInMemory:
    """Alice (100) has joined a public room, and changed the power levels some times; the last are `$levels`."""
    graph = GraphInMemory(version)
    graph.add("$create", "m.room.create", CREATOR, {})
    graph.add(
        "$creator",
        "m.room.member",
        CREATOR,
        {"membership": "join"},
        state_key=CREATOR,
        auth=["$create"],
        prev=["$create"],
    )
    graph.add("$public", "m.room.join_rules", CREATOR, {"join_rule": "public"}, auth=["$create", "$creator"])
    graph.add("$l0", "m.room.power_levels", CREATOR, {"users": {ALICE: 100}}, auth=["$create", "$creator"])
    graph.add(
        "$alice",
        "m.room.member",
        ALICE,
        {"membership": "join"},
        state_key=ALICE,
        auth=["$create", "$l0", "$public"],
    )
    for number in range(1, level_changes + 1):
        content = {"users": {ALICE: 100, BOB: number % 100}}
        graph.add(
            f"$l{number}",
            "m.room.power_levels",
            ALICE,
            content,
            auth=["$create", f"$l{number - 1}", "$alice"],
            ts=number,
        )
    return graph


def add_topic(graph: GraphInMemory, event_id: str, levels: str, *, ts: int = 0) -> None:
    graph.add(event_id, "m.room.topic", ALICE, {"topic": event_id}, auth=["$create", levels, "$alice"], ts=ts)


# ── Forks ────────────────────────────────────────────────────────────────────


def test_forks_are_the_keys_in_which_trees_differ_with_the_event_of_each() -> None:
    first = {TOPIC: "$t1", NAME: "$n", LEVELS: "$l"}
    second = {TOPIC: "$t2", NAME: "$n"}
    third = {NAME: "$n", LEVELS: "$l", ("a", "b"): "$ab"}
    nodes, roots = nodes_of(first, second, third)
    forks = fork_states(nodes, "!room", [*roots, roots[0]], nothing_is_reached)
    assert forks.room_id == "!room"
    assert forks.conflicted == {
        TOPIC: ("$t1", "$t2", None, "$t1"),
        LEVELS: ("$l", None, "$l", "$l"),
        ("a", "b"): (None, None, "$ab", None),
    }
    assert forks.conflicted_ids == {"$t1", "$t2", "$l", "$ab"}
    assert [sorted(state) for state in forks.states] == [["$l", "$t1"], ["$t2"], ["$ab", "$l"], ["$l", "$t1"]]


def test_unconflicted_entries_are_those_of_the_tree_without_conflicted_keys() -> None:
    nodes, roots = nodes_of({TOPIC: "$t1", NAME: "$n"}, {TOPIC: "$t2", NAME: "$n"})
    asked = []

    def reached(coordinates):
        asked.append(coordinates)
        return [("$c", 1)]

    for order in (roots, roots[::-1]):
        unconflicted = fork_states(nodes, "!room", order, reached).unconflicted
        assert unconflicted.get_many([TOPIC, NAME, LEVELS]) == {NAME: "$n"}
        assert unconflicted.reached([("$c", 1), ("$c", 2)]) == [("$c", 1)]
    assert asked == [[("$c", 1), ("$c", 2)]] * 2


def test_one_state_has_no_conflict_and_is_not_read() -> None:
    nodes, roots = nodes_of({TOPIC: "$t1"})
    forks = fork_states(nodes, "!room", roots * 3, nothing_is_reached)
    assert (dict(forks.conflicted), nodes.reads) == ({}, 0)
    with pytest.raises(ValueError, match="no state"):
        fork_states(nodes, "!room", [], nothing_is_reached)


@pytest.mark.parametrize("version", ["1", "2", "11", "12"])
def test_forks_of_trees_resolve_as_forks_of_whole_states(version: str) -> None:
    for seed in range(20):
        lawless = LawlessRoom(version, f"tree{seed}")
        nodes, roots = nodes_of(*lawless.states)
        by_entry = forks_of(lawless.graph, lawless.states)
        common = [event_id for key, event_id in lawless.states[0].items() if key not in by_entry.conflicted]
        forks = fork_states(nodes, lawless.graph.room_id, roots, reached_by_walking(lawless.graph, common))
        assert forks.conflicted == by_entry.conflicted
        rules = lawless.graph.rules
        assert resolve(rules, forks, lawless.graph) == resolve(rules, by_entry, lawless.graph)


# ── What is missing ──────────────────────────────────────────────────────────


def forks_with_topics(graph: GraphInMemory) -> Forks:
    common = ["$create", "$creator", "$public", "$alice", "$l0"]
    return forks_of(graph, [graph.state([*common, topic]) for topic in ("$t1", "$t2")])


@pytest.mark.parametrize(
    ("missing", "from_events", "from_covers"),
    [("$t2", True, False), ("$l0", True, False), ("$alice", True, True), ("$alice", False, True)],
)
def test_missing_events_are_named(missing: str, from_events: bool, from_covers: bool) -> None:
    graph = room()
    add_topic(graph, "$t1", "$l0")
    add_topic(graph, "$t2", "$l0")
    forks = forks_with_topics(graph)
    assert resolve(graph.rules, forks, graph) == {TOPIC: "$t2"}
    if from_events:
        del graph.by_id[missing]
    if from_covers:
        del graph.cover_by_id[missing]
    with pytest.raises(MissingAuthEvents, match=rf"lacks 1 events: \{missing}$") as error:
        resolve(graph.rules, forks, graph)
    assert isinstance(error.value, MatrixError)
    assert (error.value.event_ids, error.value.coordinates, error.value.status) == ((missing,), (), 500)


def test_coordinates_without_an_event_are_named() -> None:
    graph = room(level_changes=3)
    add_topic(graph, "$t1", "$l0")
    add_topic(graph, "$t2", "$l3")
    forks = forks_with_topics(graph)
    del graph._at["$l0", 2]
    with pytest.raises(MissingAuthEvents) as error:
        resolve(graph.rules, forks, graph)
    assert (error.value.event_ids, error.value.coordinates) == ((), (("$l0", 2),))
    assert error.value.message == "the auth graph lacks 1 events: $l0/2"


def test_the_create_event_of_version_12_is_found_by_the_room_id() -> None:
    graph = room("12")
    add_topic(graph, "$t1", "$l0")
    add_topic(graph, "$t2", "$l0")
    forks = forks_with_topics(graph)
    assert all("$create" not in event.auth_event_ids for event in graph.by_id.values())
    assert resolve(graph.rules, forks, graph) == {TOPIC: "$t2"}
    create = graph.by_id.pop("$create")
    with pytest.raises(MissingAuthEvents, match=r"\$create"):
        resolve(graph.rules, forks, graph)
    graph.add("$create", "m.room.create", CREATOR, dict(create.content), rejected=True)
    assert resolve(graph.rules, forks, graph) == {TOPIC: None}


# ── Chains ───────────────────────────────────────────────────────────────────


def test_joint_reach_is_the_union_of_the_auth_chains() -> None:
    covers = [ChainCover("$a", 0, {"$c": 4}), ChainCover("$b", 3, {"$c": 2, "$a": 0}), ChainCover("$d", 0)]
    assert joint_reach(covers) == {"$c": 4, "$a": 0, "$b": 2}


@pytest.mark.parametrize("lowest", [1, 2, 63, 64, 65, 500, 998, 999])
def test_the_subgraph_of_a_long_chain_is_exact_and_read_in_few_calls(lowest: int) -> None:
    graph = room("12", level_changes=1000)
    # A branch off the chain: Bob's join rests on one of the power levels, and later ones rest on his membership.
    graph.add("$bob", "m.room.member", BOB, {"membership": "join"}, state_key=BOB, auth=[f"$l{lowest}", "$public"])
    add_topic(graph, "$t", "$l1000")
    # Which conflicted event is below decides: `$l<lowest>` itself, or Bob's join, which nothing in the chain reaches.
    for conflicted, expected in (
        ({"$t", f"$l{lowest}"}, {f"$l{number}" for number in range(lowest, 1001)} | {"$t"}),
        ({"$t", "$bob"}, set()),
    ):
        graph.calls.clear()
        graph.asked.clear()
        auth = AuthGraph(graph)
        auth.load_events(conflicted)
        auth.load_covers(conflicted)
        assert conflicted_subgraph.conflicted_subgraph(auth, conflicted) == expected
        assert sum(graph.calls.values()) <= 10
        assert graph.asked["covers"] < 150


@pytest.mark.parametrize("at", [1, 40, 64, 65, 66, 500, 999, 1000])
def test_the_lower_end_of_the_subgraph_in_another_chain_is_found(at: int) -> None:
    # Power levels from number `at` on are by Bob's leave of a conflict: they reach it, those before do not.
    graph = room("12")
    graph.add("$bob", "m.room.member", BOB, {"membership": "join"}, state_key=BOB, auth=["$l0", "$public"])
    for number in range(1, 1001):
        auth = [f"$l{number - 1}", "$alice", *(["$bob"] if number == at else [])]
        graph.add(f"$l{number}", "m.room.power_levels", ALICE, {"users": {ALICE: 100}}, auth=auth)
    add_topic(graph, "$t", "$l1000")
    graph.asked.clear()
    auth_graph = AuthGraph(graph)
    auth_graph.load_events({"$t", "$bob"})
    auth_graph.load_covers({"$t", "$bob"})
    found = conflicted_subgraph.conflicted_subgraph(auth_graph, {"$t", "$bob"})
    assert found == {"$t", "$bob", *(f"$l{number}" for number in range(at, 1001))}
    assert graph.asked["covers"] < 150


def test_a_chain_that_reaches_no_conflicted_event_is_judged_by_its_last_event() -> None:
    graph = room("12", level_changes=1000)
    for event_id, auth in (("$bob", ["$l0", "$public"]), ("$bob2", ["$l1000", "$bob", "$public"])):
        graph.add(event_id, "m.room.member", BOB, {"membership": "join"}, state_key=BOB, auth=auth)
    graph.add("$t", "m.room.topic", BOB, {}, auth=["$l1000", "$bob2"])
    auth_graph = AuthGraph(graph)
    auth_graph.load_events({"$t", "$bob"})
    auth_graph.load_covers({"$t", "$bob"})
    assert conflicted_subgraph.conflicted_subgraph(auth_graph, {"$t", "$bob"}) == {"$t", "$bob2", "$bob"}
    assert graph.asked["covers"] < 10


@pytest.mark.parametrize("kind", ["small steps", "large steps"])
def test_the_subgraph_does_not_depend_on_how_a_chain_is_searched(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflicted_subgraph, "_AT_ONCE", 1 if kind == "small steps" else 10**6)
    for seed in range(100):
        lawless = LawlessRoom("12", f"search{seed}", events=40)
        walker = Walker(lawless.graph)
        walker.resolve(lawless.states)
        conflicted = walker.sets["K"]
        graph = AuthGraph(lawless.graph)
        graph.load_events(conflicted)
        graph.load_covers(conflicted)
        assert conflicted_subgraph.conflicted_subgraph(graph, conflicted) == walker.sets["G"]


@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_the_number_of_calls_does_not_grow_with_the_history(version: str) -> None:
    calls: dict[int, Counter[str]] = {}
    for length in (100, 2000):
        graph = room(version, level_changes=length)
        add_topic(graph, "$t1", f"$l{length - 3}")
        add_topic(graph, "$t2", f"$l{length}")
        common = ["$create", "$creator", "$public", "$alice"]
        states = [
            graph.state([*common, topic, levels])
            for topic, levels in (("$t1", f"$l{length - 3}"), ("$t2", f"$l{length}"))
        ]
        forks = forks_of(graph, states)
        assert resolve(graph.rules, forks, graph) == {TOPIC: "$t2", LEVELS: f"$l{length}"}
        calls[length] = Counter(graph.calls)
        # The conflict is about the last power levels: what is read does not grow with those before.
        assert sum(graph.asked.values()) < 260
    assert calls[100] == calls[2000]
    assert sum(calls[2000].values()) <= 14


# ── Size ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_large_states_that_differ_in_twenty_entries_read_what_differs(version: str) -> None:
    large = LargeRoom(version, members=50_000, level_changes=300)
    assert len(large.state) > 50_000
    assert len(large.conflicted) == 20
    cost = large.resolve()
    banned = {("m.room.member", f"@user{number}:two.example"): large.forks[0] for number in range(4)}
    expected = {key: fork[key] for fork in large.forks for key in fork if key[1].startswith(("@userf", "@users"))}
    expected |= {key: fork[key] for key, fork in banned.items()}
    expected |= {LEVELS: large.forks[0][LEVELS], TOPIC: large.topic, NAME: large.name}
    if version == "1":
        # No other state has it, so it is not in conflict.
        expected["m.room.guest_access", ""] = large.forks[1]["m.room.guest_access", ""]
    assert {key: event_id for key, event_id in cost.resolved.items() if event_id is not None} == expected
    assert cost.resolved.keys() == large.conflicted
    # Two paths for each difference, and one for each unconflicted entry that is asked for.
    assert len(large.nodes) > 1500
    assert cost.nodes < 300
    assert cost.port_calls <= 14
    assert cost.items_asked < 600
