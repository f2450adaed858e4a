"""Schedules that functions make while a local run serves: they fire once, at their time, over restarts too."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from infrastructure.local_process import LocalProcess
from local.schedules import time_of

pytestmark = pytest.mark.e2e


def remind(server: LocalProcess, body: str, at: str) -> None:
    assert server.ask("POST", f"/notes/remind?at={at}", body, {"Content-Type": "text/plain"})[0] == 202


def later(seconds: float) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"


def test_an_expression_names_a_time_in_utc_and_nothing_else_is_guessed():
    assert time_of("at(1970-01-02T00:00:01)") == 86_401
    with pytest.raises(ValueError, match="rate"):
        time_of("rate(1 minute)")


def test_a_schedule_fires_once_at_its_time_and_one_that_was_taken_back_never(tmp_path):
    with LocalProcess(tmp_path, RECORD_PERMISSIONS="1") as server:
        at = time.time() + 2
        remind(server, "worked-soon", later(2))
        remind(server, "worked-far", later(3600))
        remind(server, "worked-back", later(2))
        remind(server, "worked-back", "never")
        server.until("/notes/worked-soon", {"worked": {"N": "1"}})
        assert time.time() > at - 1
        time.sleep(1)
        assert server.json("GET", "/notes/worked-soon") == {"worked": {"N": "1"}}
        assert server.json("GET", "/notes/worked-far") == server.json("GET", "/notes/worked-back") == {}
        # The same name is free again.
        remind(server, "worked-soon", later(0))
        server.until("/notes/worked-soon", {"worked": {"N": "2"}})
        server.stop()
    recorded = json.loads((tmp_path / "permissions.json").read_text())["eigenserver-ApiFunction"]
    assert [pair for pair in recorded if pair[0].startswith(("scheduler", "iam"))] == [
        ["iam:PassRole", "arn:aws:iam::000000000000:role/eigenserver-Data-RemindersRole"],
        ["scheduler:CreateSchedule", "schedule/eigenserver-Data-Reminders/*"],
        ["scheduler:DeleteSchedule", "schedule/eigenserver-Data-Reminders/*"],
    ]


def test_a_schedule_whose_time_came_while_nothing_ran_fires_at_the_next_start(tmp_path):
    with LocalProcess(tmp_path) as server:
        remind(server, "worked-missed", later(2))
        server.stop()
    time.sleep(2)
    with LocalProcess(tmp_path) as server:
        server.until("/notes/worked-missed", {"worked": {"N": "1"}})
