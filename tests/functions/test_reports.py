"""Reports of rooms, events and users to the operator."""

import logging
from typing import Any

import pytest

from functions.harness import Answer, User, invoke, payload
from functions.rooms import create_room, path, post, redact, request, say, set_state
from homeserver.storage.connection import query_range
from homeserver.storage.reports import Report


def report(user: User | None, *where: str, **body: Any) -> Answer:
    token = user.token if user is not None else None
    return request("client_search", "POST", path(*where, "report"), body, token=token)


def report_event(user: User, room_id: str, event_id: str, **body: Any) -> Answer:
    return request("client_search", "POST", path("rooms", room_id, "report", event_id), body, token=user.token)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def stored() -> list[dict[str, Any]]:
    """All reports in their order, without when they came."""
    months = dict.fromkeys(item.month for item in Report.scan())
    items = [item for month in months for item in query_range(Report, month, consistent=True)]
    return [{k: v for k, v in item.attribute_values.items() if k not in {"month", "k", "f"}} for item in items]


def test_an_event_of_a_joined_room_is_stored_for_the_operator(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "rude")
    assert report_event(bob, room_id, event_id, reason="rude", score=-100).json == {}
    assert report_event(bob, room_id, event_id).json == {}
    about = {"reporter": bob.user_id, "kind": "event", "room": room_id, "event": event_id, "sender": alice.user_id}
    assert stored() == [{**about, "reason": "rude", "score": -100}, about]


def test_what_one_cannot_see_is_not_found_whatever_the_reason(alice: User, bob: User) -> None:
    room_id, other = create_room(alice, bob), create_room(alice)
    assert set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"}).status == 200
    (event_id,) = say(alice, room_id, "for members")
    (elsewhere,) = say(alice, other, "elsewhere")
    assert post(bob, room_id, "leave").status == 200
    unseen = say(alice, room_id, "while he was away")[0]
    answers = [
        report_event(bob, room_id, event_id, reason=""),  # he has left
        report_event(bob, other, elsewhere, reason=""),
        report_event(bob, "!nowhere:example.org", event_id, reason=""),
        report_event(alice, room_id, elsewhere, reason=""),
        report_event(alice, room_id, "$nothing", reason=""),
        report_event(alice, room_id, "nothing", reason=""),
        report_event(alice, "nowhere", event_id, reason=""),
    ]
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    post(bob, room_id, "join")
    answers.append(report_event(bob, room_id, unseen, reason=""))
    assert {(*refusal(answer), answer.json["error"]) for answer in answers} == {
        (404, "M_NOT_FOUND", "The event was not found, or you are not in its room.")
    }
    assert stored() == []


def test_a_redacted_event_can_be_reported(alice: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "gone")
    redact(alice, room_id, event_id)
    assert report_event(alice, room_id, event_id, reason="it was rude").json == {}


def test_any_room_can_be_reported_and_nobody_learns_whether_it_exists(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    for reported in (room_id, "!nowhere:example.org"):
        assert report(bob, "rooms", reported, reason="").json == {}
    kind = {"reporter": bob.user_id, "kind": "room", "reason": ""}
    assert stored() == [
        {**kind, "room": room_id, "known": True},
        {**kind, "room": "!nowhere:example.org", "known": False},
    ]


def test_any_user_can_be_reported_and_nobody_learns_whether_they_exist(alice: User, bob: User) -> None:
    for reported in (alice.user_id, "@nobody:example.org", "@far:elsewhere.org"):
        assert report(bob, "users", reported, reason="spam").json == {}
    assert [item["user"] for item in stored()] == [alice.user_id, "@nobody:example.org", "@far:elsewhere.org"]
    assert {item["kind"] for item in stored()} == {"user"}


@pytest.mark.parametrize("where", [("rooms", "!r:example.org"), ("users", "@u:example.org")])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "M_MISSING_PARAM")),
        ({"reason": 1}, (400, "M_BAD_JSON")),
        ({"reason": "x" * 10_001}, (413, "M_TOO_LARGE")),
    ],
)
def test_a_room_or_user_report_has_a_reason(
    alice: User, where: tuple[str, str], body: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert refusal(report(alice, *where, **body)) == expected
    assert stored() == []


@pytest.mark.parametrize("where", [("rooms", "r"), ("users", "u")])
def test_what_is_no_id_cannot_be_reported(alice: User, where: tuple[str, str]) -> None:
    assert refusal(report(alice, *where, reason="")) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"reason": 1}, (400, "M_BAD_JSON")),
        ({"reason": "x" * 10_001}, (413, "M_TOO_LARGE")),
        ({"score": "-1"}, (400, "M_BAD_JSON")),
        ({"score": True}, (400, "M_BAD_JSON")),
        ({"score": -1.5}, (400, "M_BAD_JSON")),
        ({"score": 1}, (400, "M_INVALID_PARAM")),
        ({"score": -101}, (400, "M_INVALID_PARAM")),
    ],
)
def test_an_event_report_with_values_that_cannot_be(
    alice: User, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "fine")
    assert refusal(report_event(alice, room_id, event_id, **body)) == expected
    assert stored() == []


def test_reports_need_a_token() -> None:
    assert refusal(report(None, "rooms", "!r:example.org", reason="")) == (401, "M_MISSING_TOKEN")
    assert refusal(report(None, "users", "@u:example.org", reason="")) == (401, "M_MISSING_TOKEN")
    assert refusal(report(None, "rooms", "!r:example.org", "report", reason="")) == (401, "M_MISSING_TOKEN")


def test_a_flood_of_reports_is_slowed_down(alice: User, bob: User, server: Any) -> None:
    server(RATE_LIMITS="on")
    answers = [report(alice, "users", bob.user_id, reason=str(number)) for number in range(31)]
    assert [answer.status for answer in answers] == [200] * 30 + [429]
    assert answers[-1].errcode == "M_LIMIT_EXCEEDED"
    assert len(stored()) == 30
    assert report(bob, "users", alice.user_id, reason="").status == 200


def test_the_log_says_that_there_is_a_report_and_not_what_it_says(
    alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "secret words")
    with caplog.at_level(logging.WARNING):
        assert report_event(alice, room_id, event_id, reason="private reason").status == 200
    lines = [record.getMessage() for record in caplog.records if "report" in record.getMessage()]
    (item,) = Report.scan()
    assert lines == [f"report of an event stored under {item.month}/{item.k}"]


def test_the_payload_of_a_report_reaches_the_endpoint() -> None:
    assert refusal(invoke("client_search", payload("client_search_report"))) == (401, "M_UNKNOWN_TOKEN")
