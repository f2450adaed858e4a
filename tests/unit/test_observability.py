"""The cost meter: what it counts, and how it reports."""

import json

import pytest

from homeserver.observability import cost_metered, count_call, metered, one_round


def test_calls_one_after_the_other_are_rounds_and_calls_at_once_are_one() -> None:
    with metered() as meter:
        count_call(rru=1.0)
        with one_round():
            count_call(rru=0.5)
            count_call(wru=2.0)
        with one_round():
            pass
    assert (meter.rounds, meter.calls, meter.rru, meter.wru) == (2, 3, 1.5, 2.0)


def test_the_header_names_every_figure() -> None:
    with metered() as meter:
        count_call(rru=1.5, wru=11.0)
    assert meter.server_timing().startswith("rounds;desc=1, calls;desc=1, rru;desc=1.5, wru;desc=11, cpu;dur=")


def test_nothing_is_counted_where_the_meter_is_off() -> None:
    with cost_metered("client_events", enabled=False) as meter:
        count_call(rru=1.0)
    assert meter is None


def test_on_lambda_the_figures_become_metrics_of_the_function(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "eigenserver-client-events")
    with cost_metered("client_events", enabled=True):
        count_call(rru=3.0, wru=11.0)
    line = json.loads(capsys.readouterr().out)
    assert (line["Function"], line["ReadUnits"], line["WriteUnits"], line["Rounds"]) == ("client_events", 3.0, 11.0, 1)
    directive = line["_aws"]["CloudWatchMetrics"][0]
    assert directive["Dimensions"] == [["Function"]]
    assert {metric["Name"] for metric in directive["Metrics"]} == {"ReadUnits", "WriteUnits", "Cpu"}


def test_elsewhere_no_metrics_are_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME", raising=False)
    with cost_metered("client_events", enabled=True):
        count_call(rru=3.0)
    assert capsys.readouterr().out == ""
