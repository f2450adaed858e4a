"""Guest accounts: how they come about, what they may ask, which rooms they enter, and how they leave closed ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functions.harness import Answer, User, call, register
from functions.rooms import (
    create_room,
    events_of,
    follow,
    get,
    make,
    membership,
    messages,
    path,
    post,
    put,
    request,
    say,
    send,
    set_state,
    state,
)
from functions.syncing import Device, sync
from homeserver import observability
from homeserver.matrix.event_builder import EventDraft
from homeserver.services import guests as guest_service
from homeserver.services import membership as services
from homeserver.services.access_tokens import Requester
from homeserver.services.room_state_events import set_room_state
from homeserver.storage.accounts import load_account
from homeserver.storage.room_guests import guests_of
from homeserver.storage.rooms import load_room
from homeserver.web.guest_endpoints import is_open_to_guests

FORBIDDEN = (403, "M_GUEST_ACCESS_FORBIDDEN")
CLOSED = {"guest_access": "forbidden"}


@pytest.fixture(autouse=True)
def with_guests(server: Callable[..., None], set_up: None) -> None:
    server(GUEST_ACCOUNTS="on")


@pytest.fixture
def guest(with_guests: None) -> User:
    return new_guest()


def ask(body: Any = None) -> Answer:
    return call("client_login", "POST", path("register"), {} if body is None else body, query={"kind": "guest"})


def new_guest() -> User:
    answer = ask()
    assert answer.status == 200, answer
    return User(answer.json["user_id"], answer.json["device_id"], answer.json["access_token"])


def by(user: User, *, is_guest: bool = False) -> Requester:
    return Requester(user.user_id, user.device_id, "", is_guest)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def open_room(user: User, *members: User, **body: Any) -> str:
    """A public room that lets guests in, with these members; guests among them come in by themselves."""
    access = {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}
    room_id = create_room(user, preset="public_chat", initial_state=[access], **body)
    for member in members:
        assert post(member, room_id, "join").status == 200
    return room_id


# ── Accounts ────────────────────────────────────────────────────────────────────────────────────────


def test_a_guest_account_takes_one_request_and_nothing_of_it_but_the_name_of_the_device() -> None:
    body = {
        "username": "chosen",
        "password": "x",
        "device_id": "MINE",
        "inhibit_login": True,
        "refresh_token": True,
        "auth": 1,
        "initial_device_display_name": "Phone",
    }
    answer = request("client_login", "POST", path("register"), body, query={"kind": "guest"})
    assert answer.status == 200
    assert set(answer.json) == {"user_id", "device_id", "access_token"}
    assert answer.json["user_id"] != "@chosen:example.org"
    assert answer.json["device_id"] != "MINE"
    token = answer.json["access_token"]
    (device,) = request("client_account", "GET", path("devices"), token=token).json["devices"]
    assert (device["device_id"], device["display_name"]) == (answer.json["device_id"], "Phone")
    account = load_account(answer.json["user_id"])
    assert account is not None
    assert (account.guest, account.password, account.admin) == (True, None, None)


def test_whoami_says_who_is_a_guest(guest: User, alice: User) -> None:
    told = {"user_id": guest.user_id, "device_id": guest.device_id, "is_guest": True}
    assert request("client_account", "GET", path("account", "whoami"), token=guest.token).json == told
    assert request("client_account", "GET", path("account", "whoami"), token=alice.token).json["is_guest"] is False


def test_each_guest_is_another_one() -> None:
    assert len({new_guest().user_id for _ in range(3)}) == 3


def test_without_the_setting_there_are_no_guests(server: Callable[..., None]) -> None:
    for setting in ("off", ""):
        server(GUEST_ACCOUNTS=setting)
        assert refusal(ask()) == FORBIDDEN


@pytest.mark.parametrize(
    ("body", "errcode"),
    [({"initial_device_display_name": 1}, "M_BAD_JSON"), (b"nonsense", "M_NOT_JSON"), (b"[]", "M_BAD_JSON")],
)
def test_bodies_that_make_no_sense_make_no_guest(body: Any, errcode: str) -> None:
    assert refusal(ask(body)) == (400, errcode)


def test_guests_are_registered_where_nobody_else_is_and_no_faster(server: Callable[..., None]) -> None:
    server(REGISTRATION="closed", RATE_LIMITS="on")
    statuses = [ask().status for _ in range(22)]
    assert statuses[:20] == [200] * 20
    assert statuses[21] == 429


def test_nobody_can_log_in_to_a_guest_account(guest: User) -> None:
    for password in ("", "x"):
        identifier = {"type": "m.id.user", "user": guest.user_id}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        assert refusal(call("client_login", "POST", path("login"), body)) == (403, "M_FORBIDDEN")


# ── What guests may ask ─────────────────────────────────────────────────────────────────────────────


def test_the_list_of_what_guests_may_ask_is_the_specifications(shared_folder: Path) -> None:
    listed = json.loads((shared_folder / "spec" / "endpoints.json").read_text(encoding="utf-8"))["endpoints"]
    ours = [endpoint for endpoint in listed if endpoint["api"] == "client-server"]
    assert len(ours) > 150
    assert any(endpoint["guest_access"] for endpoint in ours)
    for endpoint in ours:
        where = endpoint["path"].replace("{", "").replace("}", "")
        # Its two descriptions say the same of guests.
        same = [e["guest_access"] for e in ours if (e["method"], e["path"]) == (endpoint["method"], endpoint["path"])]
        assert is_open_to_guests(endpoint["method"], where) is any(same), (endpoint["method"], where)


@pytest.mark.parametrize(
    "asked",
    [
        ("client_rooms", "POST", ["createRoom"], {}),
        ("client_rooms", "POST", ["join", "ROOM"], {}),
        ("client_rooms", "POST", ["knock", "ROOM"], {}),
        ("client_rooms", "POST", ["rooms", "ROOM", "invite"], {"user_id": "@bob:example.org"}),
        ("client_rooms", "POST", ["rooms", "ROOM", "kick"], {"user_id": "@bob:example.org"}),
        ("client_rooms", "POST", ["rooms", "ROOM", "forget"], {}),
        ("client_rooms", "GET", ["joined_rooms"], None),
        ("client_rooms", "PUT", ["directory", "room", "#x:example.org"], {"room_id": "ROOM"}),
        ("client_account", "POST", ["account", "password"], {"new_password": "correct horse battery"}),
        ("client_account", "POST", ["account", "deactivate"], {}),
        ("client_account", "GET", ["capabilities"], None),
        ("client_account", "POST", ["delete_devices"], {"devices": []}),
        ("client_user", "POST", ["user", "ME", "filter"], {}),
        ("client_user", "PUT", ["user", "ME", "account_data", "x"], {}),
        ("client_events", "PUT", ["rooms", "ROOM", "redact", "$x", "1"], {}),
        ("client_history", "GET", ["rooms", "ROOM", "joined_members"], None),
        ("client_login", "POST", ["logout"], {}),
    ],
)
def test_everything_else_is_refused_to_guests(alice: User, guest: User, asked: tuple[str, str, list[str], Any]) -> None:
    function, method, segments, body = asked
    room_id = open_room(alice)
    names = {"ROOM": room_id, "ME": guest.user_id}
    where = path(*(names.get(segment, segment) for segment in segments))
    assert refusal(request(function, method, where, body, token=guest.token)) == FORBIDDEN


def test_a_guest_lives_in_a_room(alice: User, guest: User) -> None:
    room_id = open_room(alice)
    (hello,) = say(alice, room_id, "hello")
    assert post(guest, room_id, "join").json == {"room_id": room_id}
    assert send(guest, room_id, "hi", "1").status == 200
    follow()
    told = sync(guest)["rooms"]["join"][room_id]["timeline"]["events"]
    assert [event["content"].get("body") for event in told if event["type"] == "m.room.message"] == ["hello", "hi"]
    assert messages(guest, room_id).status == 200
    for where in (["state"], ["members"], ["event", hello], ["context", hello], ["state", "m.room.create", ""]):
        assert call("client_history", "GET", path("rooms", room_id, *where), token=guest.token).status == 200
    profile = path("profile", guest.user_id, "displayname")
    assert request("client_user", "PUT", profile, {"displayname": "Gast"}, token=guest.token).status == 200
    assert state(alice, room_id, "m.room.member", guest.user_id).json["displayname"] == "Gast"
    assert refusal(set_state(guest, room_id, "m.room.name", {"name": "Mine"})) == (403, "M_FORBIDDEN")
    assert post(guest, room_id, "leave").json == {}
    assert membership(alice, room_id, guest) == "leave"


# ── Which rooms they enter ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [None, CLOSED, {}, {"guest_access": "CAN_JOIN"}, {"guest_access": ["can_join"]}])
@pytest.mark.parametrize("way", ["join", "state", "invited"])
def test_a_room_that_does_not_say_that_guests_can_join_lets_none_in(
    alice: User, guest: User, content: Any, way: str
) -> None:
    initial = [{"type": "m.room.guest_access", "content": content or {}}]
    room_id = make(alice, preset="public_chat", initial_state=initial).json["room_id"]
    if way == "invited":
        assert post(alice, room_id, "invite", {"user_id": guest.user_id}).status == 200
    before = membership(alice, room_id, guest)
    if way == "state":
        answer = set_state(guest, room_id, "m.room.member", {"membership": "join"}, guest.user_id)
    else:
        answer = post(guest, room_id, "join")
    assert refusal(answer) == FORBIDDEN
    assert membership(alice, room_id, guest) == before


def test_a_guest_joins_by_a_state_event_too(alice: User, guest: User) -> None:
    room_id = open_room(alice)
    assert set_state(guest, room_id, "m.room.member", {"membership": "join"}, guest.user_id).status == 200
    assert guests_of(room_id).users == [guest.user_id]


def test_a_private_room_that_lets_guests_in_needs_an_invitation_as_ever(alice: User, guest: User) -> None:
    room_id = create_room(alice)
    assert refusal(post(guest, room_id, "join")) == (403, "M_FORBIDDEN")
    post(alice, room_id, "invite", {"user_id": guest.user_id})
    assert post(guest, room_id, "join").status == 200


def test_joining_twice_and_coming_back_lists_a_guest_once(alice: User, guest: User) -> None:
    room_id = open_room(alice, guest)
    for action in ("join", "leave", "join", "join"):
        assert post(guest, room_id, action).status == 200
    other = new_guest()
    assert post(other, room_id, "join").status == 200
    assert sorted(guests_of(room_id).users) == sorted([guest.user_id, other.user_id])


# ── How a room is closed to them ────────────────────────────────────────────────────────────────────


def test_a_room_that_is_closed_to_guests_has_none_any_more_and_keeps_the_others(
    alice: User, bob: User, guest: User
) -> None:
    room_id = open_room(alice, bob, guest)
    device = Device(guest)
    follow()
    device.sync()
    answer = set_state(alice, room_id, "m.room.guest_access", CLOSED)
    assert answer.status == 200
    assert membership(alice, room_id, guest) == "leave"
    assert membership(alice, room_id, bob) == "join"
    assert state(alice, room_id, "m.room.guest_access").json == CLOSED
    left = get(alice, "rooms", room_id, "state", "m.room.member", guest.user_id, format="event").json
    assert (left["sender"], left["content"]) == (guest.user_id, {"membership": "leave"})
    assert refusal(send(guest, room_id, "x", "1")) == (403, "M_FORBIDDEN")
    assert refusal(post(guest, room_id, "join")) == FORBIDDEN
    follow()
    assert list(device.sync()["rooms"]) == ["leave"]
    assert guests_of(room_id).users == []


def test_more_guests_than_one_commit_holds_leave_one_after_the_other(alice: User) -> None:
    them = [new_guest() for _ in range(15)]
    room_id = open_room(alice, *them)
    post(them[0], room_id, "leave")
    post(alice, room_id, "ban", {"user_id": them[1].user_id})
    assert set_state(alice, room_id, "m.room.guest_access", CLOSED).status == 200
    found = [membership(alice, room_id, guest) for guest in them]
    assert found == ["leave", "ban", *["leave"] * 13]
    assert events_of(alice, room_id)[-1] == ("m.room.guest_access", "")
    assert guests_of(room_id).users == []


def test_a_room_of_which_all_guests_have_left_is_closed_like_any_other(alice: User) -> None:
    them = [new_guest() for _ in range(13)]
    room_id = open_room(alice, *them)
    for guest in them:
        post(guest, room_id, "leave")
    events = events_of(alice, room_id)
    assert set_state(alice, room_id, "m.room.guest_access", CLOSED).status == 200
    assert events_of(alice, room_id) == [*events, ("m.room.guest_access", "")]
    assert guests_of(room_id).users == []


def test_opening_closing_and_opening_again_lets_guests_come_back(alice: User, guest: User) -> None:
    room_id = open_room(alice, guest)
    for _ in range(2):
        assert set_state(alice, room_id, "m.room.guest_access", CLOSED).status == 200
        assert set_state(alice, room_id, "m.room.guest_access", {"guest_access": "can_join"}).status == 200
        assert post(guest, room_id, "join").status == 200
        assert guests_of(room_id).users == [guest.user_id]


def test_closing_a_closed_room_makes_no_event(alice: User) -> None:
    room_id = open_room(alice)
    first = set_state(alice, room_id, "m.room.guest_access", CLOSED).json["event_id"]
    assert set_state(alice, room_id, "m.room.guest_access", CLOSED).json == {"event_id": first}


def test_who_may_not_close_the_room_makes_nobody_leave(alice: User, bob: User, guest: User) -> None:
    room_id = open_room(alice, bob, guest)
    carol = register()
    for user in (bob, carol, guest):
        assert refusal(set_state(user, room_id, "m.room.guest_access", CLOSED)) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, guest) == "join"
    crowd = [new_guest() for _ in range(7)]  # more than leave at once
    for other in crowd:
        post(other, room_id, "join")
    assert refusal(set_state(bob, room_id, "m.room.guest_access", CLOSED)) == (403, "M_FORBIDDEN")
    assert {membership(alice, room_id, other) for other in crowd} == {"join"}
    unknown = "!unknown:example.org"
    assert refusal(set_state(alice, unknown, "m.room.guest_access", CLOSED)) == (403, "M_FORBIDDEN")
    assert refusal(put(alice, "nonsense", "state", "m.room.guest_access", body=CLOSED)) == (400, "M_INVALID_PARAM")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """`meanwhile(act)`: somebody acts right before the next commit, through the services."""

    def arrange(act: Callable[[], object]) -> None:
        def interrupt(point: str) -> None:
            if point == "commit.before":
                monkeypatch.setattr(observability, "fault_hook", None)
                act()

        monkeypatch.setattr(observability, "fault_hook", interrupt)

    return arrange


def test_a_guest_who_comes_while_the_room_is_closed_leaves_with_the_others(
    alice: User, guest: User, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    room_id = open_room(alice)
    meanwhile(lambda: services.join_room(by(guest, is_guest=True), room_id))
    assert set_state(alice, room_id, "m.room.guest_access", CLOSED).status == 200
    assert membership(alice, room_id, guest) == "leave"


def test_a_room_that_is_closed_while_a_guest_comes_stays_closed(
    alice: User, guest: User, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    room_id = open_room(alice)
    closing = EventDraft("m.room.guest_access", CLOSED, "")
    meanwhile(lambda: set_room_state(by(alice), room_id, closing))
    assert refusal(post(guest, room_id, "join")) == FORBIDDEN
    assert membership(alice, room_id, guest) == "none"


@pytest.mark.parametrize("others", [0, 1])
def test_a_guest_whom_a_read_did_not_show_yet_leaves_with_the_others(
    alice: User, guest: User, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """Reads are no snapshot: the list of guests may be older than the room."""
    room_id = open_room(alice, *[new_guest() for _ in range(others)])
    answers = [guests_of(room_id)]
    assert post(guest, room_id, "join").status == 200
    monkeypatch.setattr(guest_service, "guests_of", lambda room: answers.pop() if answers else guests_of(room))
    assert set_state(alice, room_id, "m.room.guest_access", CLOSED).status == 200
    assert membership(alice, room_id, guest) == "leave"
    assert answers == []


def test_a_guest_who_is_shown_the_room_as_it_was_before_it_was_closed_stays_outside(
    alice: User, guest: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = open_room(alice)
    before, _ = load_room(room_id, [guest_service.GUEST_ACCESS])
    assert before is not None
    assert set_state(alice, room_id, "m.room.guest_access", CLOSED).status == 200
    stale = [before.state[guest_service.GUEST_ACCESS]]

    def torn(*args: Any, **options: Any) -> Any:
        view, found = load_room(*args, **options)
        if stale and view is not None:
            view.state[guest_service.GUEST_ACCESS] = stale.pop()
        return view, found

    monkeypatch.setattr(services, "load_room", torn)
    assert refusal(post(guest, room_id, "join")) == FORBIDDEN
    assert stale == []
    assert membership(alice, room_id, guest) == "none"


def test_a_crash_while_guests_leave_keeps_the_room_open_and_can_be_repeated(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    them = [new_guest() for _ in range(8)]
    room_id = open_room(alice, *them)
    commits = []

    def crash(point: str) -> None:
        if point == "commit.before":
            commits.append(point)
            if len(commits) == 2:
                raise RuntimeError("crash")

    monkeypatch.setattr(observability, "fault_hook", crash)
    with pytest.raises(RuntimeError, match="crash"):
        guest_service.close_to_guests(by(alice), room_id, EventDraft("m.room.guest_access", CLOSED, ""))
    monkeypatch.setattr(observability, "fault_hook", None)
    assert state(alice, room_id, "m.room.guest_access").json == {"guest_access": "can_join"}
    assert [membership(alice, room_id, guest) for guest in them].count("join") == 2
    assert set_state(alice, room_id, "m.room.guest_access", CLOSED).status == 200
    assert [membership(alice, room_id, guest) for guest in them].count("join") == 0
