"""Whatever happens between the stages of a login: it is made once, for who passed them all, or not at all.

Histories are drawn at random: right and wrong answers of two clients that share a session, answers for another user,
crashes, repetitions, a machine that comes late, times out or is stopped, and time. Between a request's read and its
write anything else of the same list may happen, as with requests that run at the same time.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from functions import harness
from functions.harness import PASSWORD, User, call
from functions.login_machine import LoginMachine
from homeserver import observability
from homeserver.matrix.errors import Forbidden, MatrixError
from homeserver.services import draft_login, login_flows, login_sessions
from homeserver.services.login_stages.stage import Attempt, Completed, Origin, UserChanged, Waiting
from homeserver.storage import sessions
from homeserver.storage.accounts import list_devices
from homeserver.storage.sessions import Session

CODE, SECRET = "m.login.email.code", "m.login.password"
FLOW = [CODE, SECRET]
POINTS = (
    "login_sessions.stored",
    "login_sessions.stage_completed",
    "login_sessions.machine_told",
    "login_completion.issued",
)
ALICE, BOB = "@alice:example.org", "@bob:example.org"
LONG_MS = login_sessions.SESSION_SECONDS * 1000 + 1000
_numbers = itertools.count(1)


class Crash(Exception):
    """The process is gone."""


class Code:
    """In place of the mailed code: the first body names the user, a further one has the code, which is the user's."""

    stage_type = CODE

    def start(self, attempt: Attempt) -> Waiting:
        user_id = attempt.submitted.get("user", ALICE)
        return Waiting({"user": user_id}, user_id=user_id)

    def submit(self, attempt: Attempt) -> Completed:
        if attempt.submitted.get("code") != f"code of {attempt.pending['user']}":
            raise Forbidden("That is not it.")
        return Completed(user_id=attempt.pending["user"], proves=True)


@dataclass(frozen=True)
class Submit:
    """One body of a client. `crash`: the fault point at which its function dies; `meanwhile`: before its n-th write."""

    stage: str
    answer: str
    client: int
    crash: str | None = None
    meanwhile: tuple[tuple[int, Any], ...] = ()

    def body(self, session_id: str) -> dict[str, Any]:
        secrets = {
            (CODE, "right"): {"code": f"code of {ALICE}"},
            (CODE, "wrong"): {"code": "?"},
            (CODE, "other"): {"code": f"code of {BOB}"},
            (SECRET, "right"): {"password": PASSWORD},
            (SECRET, "wrong"): {"password": "?"},
            (SECRET, "other"): {"password": PASSWORD, "user": BOB},
        }
        return {"type": self.stage, "session": session_id, "client": self.client, **secrets[self.stage, self.answer]}


answers = st.sampled_from(["right", "right", "right", "wrong", "other"])
controls = st.sampled_from(["late", "catch up", "time out", "stop", "lease over", "much later"])
plain = st.builds(Submit, st.sampled_from(FLOW), answers, st.integers(0, 1))
submissions = st.builds(
    Submit,
    st.sampled_from(FLOW),
    answers,
    st.integers(0, 1),
    st.one_of(st.none(), st.sampled_from(POINTS)),
    st.lists(st.tuples(st.integers(1, 2), st.one_of(plain, plain, controls)), max_size=2).map(tuple),
)
histories = st.lists(st.one_of(submissions, submissions, submissions, controls), max_size=12)


@dataclass
class World:
    """One session and everything that is known about it."""

    machine: LoginMachine
    session_id: str
    offset_ms: int = 0
    right: set[str] = field(default_factory=set)
    tokens: list[str] = field(default_factory=list)
    dead: bool = False
    completed: list[str] = field(default_factory=list)
    depth: int = 0
    writes: int = 0
    submission: Submit | None = None

    def run(self, step: Any) -> None:
        if isinstance(step, Submit):
            self.submit(step)
        else:
            self.control(step)
        self.look()

    def control(self, step: str) -> None:
        match step:
            case "late":
                self.machine.late = True
            case "catch up":
                self.machine.catch_up()
            case "time out":
                if any(waits[0] == self.session_id for waits in self.machine._tokens.values()):
                    self.machine.time_out(self.session_id)
            case "stop":
                self.machine.abort(self.session_id)
                self.machine._waits.clear()
            case "lease over":
                self.offset_ms += login_sessions.LEASE_MS + 1
            case "much later":
                self.offset_ms += LONG_MS

    def submit(self, step: Submit) -> int:
        """The status of the answer; 0 if there was none."""
        was_dead, stopped = self.dead, self.is_stopped()
        if step.answer == "right":
            self.right.add(step.stage)
        outer = (self.submission, self.writes)
        self.submission, self.writes = step, 0
        self.depth += 1
        observability.fault_hook = self.crash
        try:
            answer = draft_login.log_in(step.body(self.session_id), Origin("192.0.2.1"))
        except Crash:
            status = 0
        except MatrixError as refused:
            status = refused.status
        else:
            status = 200
            if "access_token" in answer:
                assert answer["user_id"] == ALICE
                # None skipped, and none answered for another user.
                assert self.right == set(FLOW)
                assert not stopped
                self.tokens.append(answer["access_token"])
                self.dead = True
        finally:
            self.depth -= 1
            self.submission, self.writes = outer
            observability.fault_hook = self.crash if self.depth else None
        assert status in {0, 200, 400, 401, 403, 429}
        assert status == 401 or not was_dead
        return status

    def crash(self, point: str) -> None:
        if self.submission is not None and self.submission.crash == point:
            raise Crash

    def before_write(self) -> None:
        """Let happen what happens meanwhile."""
        self.writes += 1
        step, count = self.submission, self.writes
        if step is None or self.depth > 1:
            return
        for when, other in step.meanwhile:
            if when == count:
                self.run(other)

    def is_stopped(self) -> bool:
        """Whether the execution was ended while it waited for the stage that is next."""
        item = Session.fetch(self.session_id)
        if item is None or self.machine.executions.get(self.session_id) != "ABORTED":
            return False
        return item.status == "active" and item.task_stage == str(int(item.done))

    def look(self) -> None:
        """What the item may look like, whoever wrote it last."""
        item = Session.fetch(self.session_id)
        if item is None:
            self.dead = True
            return
        completed = list(item.completed)
        assert completed == FLOW[: len(completed)]
        assert int(item.done) == len(completed)
        assert completed[: len(self.completed)] == self.completed
        assert set(completed) <= self.right
        self.completed = completed
        assert item.user in {None, ALICE}
        assert item.proved in {None, ALICE}
        live = item.status in {"active", "complete", "issued"} and item.expires * 1000 > self.now_ms()
        assert not (self.dead and live), "it came back to life"
        self.dead = not live

    def now_ms(self) -> int:
        return 1_700_000_000_000 + self.offset_ms

    def is_live(self, token: str) -> bool:
        whoami = call("client_account", "GET", "/_matrix/client/v3/account/whoami", token=token)
        return whoami.status == 200


@pytest.fixture
def people(server: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[User, User]]:
    server(MAIL_FROM="chat@example.org", LOGIN_FLOWS=f'[["{CODE}", "{SECRET}"]]')
    found = login_flows.stage
    monkeypatch.setattr(login_flows, "stage", lambda kind: Code() if kind == CODE else found(kind))
    yield harness.register("alice"), harness.register("bob")
    observability.fault_hook = None


@pytest.fixture
def new_world(people: tuple[User, User], machine: LoginMachine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], World]:
    """Makes a world with a session that waits for the code, whose writes and whose clock are in the test's hands."""
    change, issue = sessions.change, sessions.issue
    worlds: list[World] = []

    def changing(*arguments: Any) -> bool:
        worlds[-1].before_write()
        return change(*arguments)

    def issuing(*arguments: Any) -> None:
        worlds[-1].before_write()
        issue(*arguments)

    class Clock:
        time = staticmethod(lambda: worlds[-1].now_ms() / 1000)

    monkeypatch.setattr(sessions, "change", changing)
    monkeypatch.setattr(sessions, "issue", issuing)
    monkeypatch.setattr(sessions, "time", Clock)
    monkeypatch.setattr(sessions, "new_session_id", lambda: worlds[-1].session_id)
    monkeypatch.setattr(login_sessions, "time", Clock)
    monkeypatch.setattr(login_sessions, "now_ms", lambda: int(Clock.time() * 1000))

    def make() -> World:
        world = World(machine, f"session-{next(_numbers)}")
        worlds.append(world)
        machine.late = False
        answer = draft_login.log_in({"type": CODE, "user": ALICE, "client": 0}, Origin("192.0.2.1"))
        assert answer == {"type": CODE, "session": world.session_id}
        return world

    return make


def right(stage: str, client: int = 0, **more: Any) -> Submit:
    return Submit(stage, "right", client, **more)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories)
@example([right(CODE), right(SECRET, meanwhile=((1, right(SECRET, 1)),))])
@example([right(CODE), right(SECRET, crash="login_sessions.stage_completed"), "lease over", right(SECRET)])
@example([right(CODE), right(SECRET, crash="login_completion.issued"), "lease over", right(SECRET), right(SECRET)])
@example([Submit(CODE, "wrong", 0, meanwhile=((1, "time out"),)), right(CODE)])
@example([right(CODE), right(SECRET, meanwhile=((1, "time out"),))])
@example(["stop", right(CODE), right(SECRET)])
@example(["late", right(CODE), "catch up", right(SECRET), right(SECRET)])
def test_a_session_makes_one_login_for_who_passed_all_stages_or_none(
    new_world: Callable[[], World], history: list[Any]
) -> None:
    world = new_world()
    before = {device.device_id for device in list_devices(ALICE)}
    for step in history:
        world.run(step)
    # Who was not expired, stopped or refused five times can finish, with the bodies that were tried before.
    world.machine.catch_up()
    could_finish = not world.dead and world.machine.executions[world.session_id] != "ABORTED"
    for client, stage in itertools.product((0, 1), FLOW):
        world.control("lease over")
        world.run(right(stage, client))
    assert world.tokens or not could_finish
    assert len(world.tokens) == len(set(world.tokens))
    made = {device.device_id for device in list_devices(ALICE)} - before
    assert len(made) <= 1
    assert sum(map(world.is_live, world.tokens)) == (1 if world.tokens else 0)
    hashes = [token for device in list_devices(ALICE) if device.device_id in made for token in device.token_hashes]
    assert len(hashes) <= 1
    # Whatever comes now: there is no such session.
    for stage, client in itertools.product(FLOW, (0, 1)):
        if world.dead:
            assert world.submit(right(stage, client)) == 401


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1), st.integers(0, 1), st.sampled_from([None, *POINTS]), st.integers(1, 2))
def test_two_right_answers_at_the_same_time_give_one_login(
    new_world: Callable[[], World], first: int, second: int, crash: str | None, when: int
) -> None:
    world = new_world()
    world.run(right(CODE))
    world.run(right(SECRET, first, crash=crash, meanwhile=((when, right(SECRET, second)),)))
    for client in (first, second):
        world.control("lease over")
        world.run(right(SECRET, client))
    assert len(world.tokens) == 1
    assert world.is_live(world.tokens[0])


@pytest.mark.parametrize("stage", FLOW)
def test_the_fifth_wrong_answer_ends_a_session_for_all_its_clients(new_world: Callable[[], World], stage: str) -> None:
    world = new_world()
    if stage == SECRET:
        world.run(right(CODE))
    statuses = [world.submit(Submit(stage, "wrong", number % 2)) for number in range(5)]
    assert statuses == [403, 403, 403, 403, 429]
    assert world.submit(right(stage)) == 401
    assert world.machine.executions[world.session_id] == "FAILED"


def test_an_answer_for_another_user_is_refused_and_changes_nothing(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.run(right(CODE))
    before = Session.fetch(world.session_id)
    assert before is not None
    with pytest.raises(UserChanged):
        draft_login.log_in(Submit(SECRET, "other", 0).body(world.session_id), Origin("192.0.2.1"))
    after = Session.fetch(world.session_id)
    assert after is not None
    assert (after.user, after.completed, after.rev) == (before.user, before.completed, before.rev)
    assert world.submit(right(SECRET)) == 200
