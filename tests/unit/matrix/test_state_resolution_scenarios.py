"""State resolution in rooms that are known to be difficult: the outcome is the one that follows from the text."""

from itertools import permutations

import pytest

from fixtures.state_resolution.by_walking import Walker
from fixtures.state_resolution.graph import forks_of
from fixtures.state_resolution.scenarios import Scenario, scenarios
from homeserver.matrix.state_resolution import resolve

SCENARIOS = scenarios()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_outcome_is_the_recorded_one(scenario: Scenario) -> None:
    for states in permutations(scenario.states):
        forks = forks_of(scenario.graph, states)
        resolved = resolve(scenario.graph.rules, forks, scenario.graph)
        assert resolved == scenario.expected


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_slow_reading_of_the_text_agrees(scenario: Scenario) -> None:
    resolved = Walker(scenario.graph).resolve(scenario.states)
    assert {key: resolved.get(key) for key in scenario.expected} == scenario.expected


def test_each_algorithm_has_its_scenarios() -> None:
    count = {version: sum(scenario.version == version for scenario in SCENARIOS) for version in ("1", "2", "12")}
    assert count["1"] >= 10
    assert count["2"] == count["12"] >= 14


def test_some_outcomes_differ_between_version_2_and_2_1() -> None:
    outcomes = {(scenario.name, scenario.version): scenario.expected for scenario in SCENARIOS}
    names = {scenario.name for scenario in SCENARIOS if scenario.version == "12"}
    assert sum(outcomes[name, "11"] != outcomes[name, "12"] for name in names) == 3
