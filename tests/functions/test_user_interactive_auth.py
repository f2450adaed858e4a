"""The engine of User-Interactive Authentication with flows of several stages, on moto."""

import pytest

from homeserver.matrix.errors import BadJson, Forbidden, LimitExceeded
from homeserver.services import login_flows
from homeserver.services.login_stages.stage import Completed
from homeserver.services.user_interactive_auth import InteractionRequired, Operation, authorise
from homeserver.storage import sessions
from homeserver.storage.sessions import Session

USER = "@alice:example.org"


class Riddle:
    """A stage that wants an answer and remembers it."""

    stage_type = "org.example.riddle"

    def describe(self):
        return {"question": "What has roots as nobody sees?"}

    def start(self, attempt):
        if attempt.submitted.get("answer") == "slow down":
            raise LimitExceeded("Too many guesses.", retry_after_ms=1000)
        if attempt.submitted.get("answer") != "mountain":
            raise Forbidden("That is not it.")
        return Completed({"riddle": "mountain"})


FLOWS = [["org.example.riddle", "m.login.dummy"], ["m.login.dummy"]]
TWO_STAGES = [["org.example.riddle", "m.login.dummy"]]
RIGHT = {"type": "org.example.riddle", "answer": "mountain"}
DUMMY = {"type": "m.login.dummy"}


@pytest.fixture(autouse=True)
def riddle(monkeypatch):
    stage = login_flows.stage
    monkeypatch.setattr(login_flows, "stage", lambda kind: Riddle() if kind == Riddle.stage_type else stage(kind))


def ask(auth=None, *, flows=TWO_STAGES, name="POST /x", user=USER, atomic=False, **body):
    full = body if auth is None else {**body, "auth": auth}
    return authorise(Operation(name, user, full, atomic=atomic), flows)


def refused(auth=None, **more):
    with pytest.raises(InteractionRequired) as needed:
        ask(auth, **more)
    assert needed.value.status == 401
    return needed.value.body()


def test_the_first_answer_names_flows_params_and_a_stored_session():
    body = refused(flows=FLOWS)
    assert body["flows"] == [
        {"stages": ["org.example.riddle", "m.login.dummy"]},
        {"stages": ["m.login.dummy"]},
    ]
    assert body["params"] == {"org.example.riddle": {"question": "What has roots as nobody sees?"}}
    assert (body["completed"], "errcode" in body) == ([], False)
    stored = sessions.load(body["session"])
    assert (stored.operation, stored.user, stored.kind) == ("POST /x", USER, "interactive")
    assert 890 <= stored.expires - stored.created / 1000 <= 900


@pytest.mark.parametrize("order", [[RIGHT, DUMMY], [DUMMY, RIGHT]])
def test_stages_are_completed_one_by_one_and_the_last_one_lets_the_operation_pass(order):
    session = refused()["session"]
    first = refused(order[0] | {"session": session})
    assert (first["session"], first["completed"], "errcode" in first) == (session, [order[0]["type"]], False)
    done = ask(order[1] | {"session": session})
    assert done.facts == {"riddle": "mountain"}
    assert sessions.load(session).completed == [order[0]["type"], order[1]["type"]]
    done.finish()
    assert sessions.load(session) is None


def test_the_first_stage_of_several_can_be_submitted_without_a_session():
    first = refused(RIGHT)
    assert first["completed"] == ["org.example.riddle"]
    assert ask(DUMMY | {"session": first["session"]}).facts == {"riddle": "mountain"}


def test_a_failed_attempt_completes_nothing_and_can_be_repeated():
    session = refused()["session"]
    wrong = refused({"type": "org.example.riddle", "answer": "tree", "session": session})
    assert (wrong["errcode"], wrong["error"], wrong["completed"]) == ("M_FORBIDDEN", "That is not it.", [])
    assert refused(RIGHT | {"session": session})["completed"] == ["org.example.riddle"]


def test_a_failed_attempt_without_a_session_starts_one():
    wrong = refused({"type": "org.example.riddle"})
    assert wrong["errcode"] == "M_FORBIDDEN"
    assert sessions.load(wrong["session"]).operation == "POST /x"


def test_a_limit_is_answered_as_a_limit():
    with pytest.raises(LimitExceeded):
        ask({"type": "org.example.riddle", "answer": "slow down"})


def test_a_stage_that_was_completed_elsewhere_is_found_by_the_session_alone():
    session = refused()["session"]
    assert refused({"session": session})["completed"] == []
    stored = sessions.load(session)
    completed = ["org.example.riddle", "m.login.dummy"]
    assert sessions.change(stored, {"completed": completed, "status": "complete", "facts": {"mail": "sent"}})
    assert ask({"session": session}).facts == {"mail": "sent"}


def test_a_completed_stage_is_not_checked_again():
    session = refused(RIGHT)["session"]
    again = refused({"type": "org.example.riddle", "answer": "wrong", "session": session})
    assert (again["completed"], "errcode" in again) == (["org.example.riddle"], False)


def test_stages_completed_at_the_same_time_are_both_kept(monkeypatch):
    session = refused()["session"]
    change = sessions.change

    def other_first(mine, changes):
        monkeypatch.setattr(sessions, "change", change)
        refused(RIGHT | {"session": session})
        return change(mine, changes)

    monkeypatch.setattr(sessions, "change", other_first)
    assert ask(DUMMY | {"session": session}).facts == {"riddle": "mountain"}
    assert sessions.load(session).completed == ["org.example.riddle", "m.login.dummy"]


@pytest.mark.parametrize("change", [{"name": "POST /y"}, {"user": "@bob:example.org"}, {"user": None}])
def test_a_session_serves_only_its_operation_and_its_user(change):
    session = refused()["session"]
    body = refused(RIGHT | {"session": session}, **change)
    assert body["errcode"] == "M_UNKNOWN"
    assert body["session"] != session
    assert sessions.load(session).completed == []


def test_a_completed_session_is_claimed_by_one_request_which_may_be_repeated():
    session = refused(RIGHT)["session"]
    ask(DUMMY | {"session": session}, colour="red", password="one")
    ask({"session": session}, colour="red", password="one")
    other = refused({"session": session}, colour="blue")
    assert other["errcode"] == "M_UNKNOWN"
    assert other["session"] != session


def test_an_operation_of_one_transaction_needs_no_claim():
    session = refused(RIGHT, atomic=True)["session"]
    ask(DUMMY | {"session": session}, atomic=True, colour="red")
    ask({"session": session}, atomic=True, colour="blue")
    assert sessions.load(session).claim is None


def test_no_secret_of_a_request_goes_into_its_fingerprint_or_the_session():
    fingerprints = {Operation("POST /x", USER, {"new_password": word, "a": 1}).fingerprint for word in ("x", "y")}
    assert len(fingerprints) == 1
    assert fingerprints != {Operation("POST /x", USER, {"a": 2}).fingerprint}
    session = refused(RIGHT)["session"]
    ask(DUMMY | {"session": session}, password="hunter2", new_password="hunter3")
    assert "hunter" not in str(Session.fetch(session).serialize())


def test_auth_must_be_an_object():
    for auth in ("dummy", [], 1, {"type": 1}, {"session": {}}):
        with pytest.raises(BadJson):
            ask(auth)


def test_a_session_that_always_loses_its_races_is_busy(monkeypatch):
    session = refused()["session"]
    monkeypatch.setattr(sessions, "change", lambda *_: False)
    with pytest.raises(LimitExceeded):
        ask(RIGHT | {"session": session})


def test_the_fifth_wrong_answer_ends_the_session():
    session = refused()["session"]
    for _ in range(4):
        wrong = refused({"type": "org.example.riddle", "answer": "tree", "session": session})
        assert (wrong["errcode"], wrong["session"]) == ("M_FORBIDDEN", session)
    with pytest.raises(LimitExceeded):
        ask({"type": "org.example.riddle", "answer": "tree", "session": session})
    gone = refused(RIGHT | {"session": session})
    assert (gone["errcode"], gone["completed"], gone["session"] == session) == ("M_UNKNOWN", [], False)


def test_two_requests_that_claim_a_session_at_the_same_time_do_not_both_have_it(monkeypatch):
    session = refused(RIGHT)["session"]
    change = sessions.change

    def other_first(mine, changes):
        if "claim" in changes:
            monkeypatch.setattr(sessions, "change", change)
            ask({"session": session}, colour="blue")
        return change(mine, changes)

    monkeypatch.setattr(sessions, "change", other_first)
    lost = refused(DUMMY | {"session": session}, colour="red")
    assert (lost["errcode"], lost["session"] == session) == ("M_UNKNOWN", False)


def test_a_session_that_the_release_before_began_is_begun_again():
    session = refused()["session"]
    stored = Session.fetch(session)
    stored.update([Session.flows.remove(), Session.pending.remove(), Session.facts.remove()])
    again = refused(RIGHT | {"session": session})
    assert (again["errcode"], again["session"] == session) == ("M_UNKNOWN", False)
