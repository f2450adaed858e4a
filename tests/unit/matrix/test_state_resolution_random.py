"""State resolution on random rooms: equal to the slow reading of the text, whatever the order, and stable."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.state_resolution.by_walking import Walker
from fixtures.state_resolution.graph import GraphInMemory, State, forks_of
from fixtures.state_resolution.random_rooms import LawfulRoom, LawlessRoom
from homeserver.matrix.state_resolution import resolve

VERSIONS = ["1", "2", "6", "10", "11", "12"]
ROOMS = {"lawful": LawfulRoom, "lawless": LawlessRoom}


def merged(graph: GraphInMemory, states: list[State]) -> dict[tuple[str, str], str]:
    """The whole resolved state: what all agree on, and what `resolve` says of the rest."""
    forks = forks_of(graph, states)
    resolved = resolve(graph.rules, forks, graph)
    assert resolved.keys() >= forks.conflicted.keys()
    # What is beyond the conflicted keys is no state's: it comes from the auth chains.
    for key in resolved.keys() - forks.conflicted.keys():
        assert resolved[key] in graph.auth_chain(forks.conflicted_ids)
        assert all(key not in state for state in states)
    agreed = {key: event_id for key, event_id in states[0].items() if key not in forks.conflicted}
    return agreed | {key: event_id for key, event_id in resolved.items() if event_id is not None}


@pytest.mark.parametrize("kind", ROOMS)
@pytest.mark.parametrize("version", VERSIONS)
def test_resolving_equals_walking_the_graph_as_the_text_says(version: str, kind: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(150):
        room = ROOMS[kind](version, str(seed))
        walker = Walker(room.graph)
        expected = walker.resolve(room.states)
        assert merged(room.graph, room.states) == expected, seed
        sets = walker.sets
        if sets:
            seen["difference"] += not sets["A"] <= sets["K"]
            seen["subgraph"] += not sets["G"] <= sets["K"] | sets["A"]
        seen["conflict"] += any(state != room.states[0] for state in room.states)
    # The rooms are worth the trouble: they have what the algorithm is about.
    assert seen["conflict"] > 100
    if version != "1":
        assert seen["difference"] > 50
    if version == "12":
        assert seen["subgraph"] > 5


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(VERSIONS),
    st.sampled_from(sorted(ROOMS)),
    st.integers(0, 10**9),
    st.randoms(use_true_random=False),
)
def test_properties_of_any_resolution(version: str, kind: str, seed: int, dice) -> None:
    room = ROOMS[kind](version, str(seed))
    states = list(room.states)
    result = merged(room.graph, states)
    assert result == Walker(room.graph).resolve(states)

    # The order of the states, and how often one is there, make no difference.
    shuffled = [*states, states[0]]
    dice.shuffle(shuffled)
    assert merged(room.graph, shuffled) == result
    # What all agree on survives.
    for key, event_id in states[0].items():
        if all(state.get(key) == event_id for state in states):
            assert result[key] == event_id
    assert all(room.graph.by_id[event_id].key == key for key, event_id in result.items())
    # Resolving the result with itself changes nothing.
    assert resolve(room.graph.rules, forks_of(room.graph, [result, result]), room.graph) == {}
    assert merged(room.graph, [result]) == result


@pytest.mark.parametrize("version", VERSIONS)
def test_equal_states_need_no_look_at_the_graph(version: str) -> None:
    room = LawfulRoom(version, "equal")
    assert merged(room.graph, [room.states[0], dict(room.states[0])]) == room.states[0]
    assert sum(room.graph.calls.values()) == 0
