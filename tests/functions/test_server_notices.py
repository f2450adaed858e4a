"""Server notices: what an administrator writes to a user, and the room that nobody leaves."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import PASSWORD, Answer, User, call, invoke, payload, register
from functions.rooms import V3, create_room, follow, membership, messages, path, post, put, send, sync, texts
from homeserver.services import server_notices
from homeserver.storage import user_data
from homeserver.storage.accounts import ACCOUNT, Account
from homeserver.storage.server_notices import notice_room_of

WHERE = "/_synapse/admin/v1/send_server_notice"
SERVER = "@server:example.org"
NOTICE = {"msgtype": "m.text", "body": "The server rests tonight."}

pytestmark = pytest.mark.usefixtures("set_up", "notices")


@pytest.fixture
def notices(server: Callable[..., None]) -> None:
    server(SERVER_NOTICES_LOCALPART="server")


@pytest.fixture
def admin(notices: None) -> User:
    user = register("root")
    Account(user.user_id, ACCOUNT).update([Account.admin.set(True)])
    return user


def notice(admin: User | None, user_id: Any, content: Any = NOTICE, *, txn: str | None = None, **more: Any) -> Answer:
    token = admin.token if admin is not None else None
    method, where = ("POST", WHERE) if txn is None else ("PUT", f"{WHERE}/{txn}")
    return call("server_admin", method, where, {"user_id": user_id, "content": content, **more}, token=token)


def sent(admin: User, user: User, body: str = "The server rests tonight.", txn: str | None = None) -> str:
    """Send a notice; its event ID."""
    answer = notice(admin, user.user_id, {"msgtype": "m.text", "body": body}, txn=txn)
    assert answer.status == 200, answer
    assert answer.json.keys() == {"event_id"}
    return str(answer.json["event_id"])


def room_of(user: User) -> str:
    room_id = notice_room_of(user.user_id)
    assert room_id is not None
    return room_id


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


CANNOT_LEAVE = (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")


def test_a_notice_invites_the_user_into_a_room_of_the_server(admin: User, bob: User) -> None:
    event_id = sent(admin, bob)
    room_id = room_of(bob)
    follow()
    invited = sync(bob)["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert ("m.room.name", "Server notices") in [(e["type"], e["content"].get("name")) for e in invited]
    assert {e["sender"] for e in invited} == {SERVER}
    assert post(bob, room_id, "join").status == 200
    newest = messages(bob, room_id).json["chunk"][:2]
    assert [event["type"] for event in newest] == ["m.room.member", "m.room.message"]
    assert (newest[1]["event_id"], newest[1]["sender"], newest[1]["content"]) == (event_id, SERVER, NOTICE)
    tags = user_data.load(bob.user_id, room_id, "m.tag")
    assert tags is not None
    assert tags.content == {"tags": {"m.server_notice": {}}}


def test_further_notices_come_into_the_same_room_and_keep_the_users_tags(admin: User, bob: User) -> None:
    sent(admin, bob, "one")
    room_id = room_of(bob)
    post(bob, room_id, "join")
    where = path("user", bob.user_id, "rooms", room_id, "tags", "m.favourite")
    assert call("client_user", "PUT", where, {}, token=bob.token).status == 200
    sent(admin, bob, "two")
    assert room_of(bob) == room_id
    assert texts(messages(bob, room_id).json["chunk"]) == ["two", "one"]
    tags = user_data.load(bob.user_id, room_id, "m.tag")
    assert tags is not None
    assert tags.content["tags"].keys() == {"m.server_notice", "m.favourite"}


def test_each_user_has_a_room_of_their_own(admin: User, alice: User, bob: User) -> None:
    sent(admin, alice)
    sent(admin, bob)
    assert room_of(alice) != room_of(bob)
    assert messages(bob, room_of(alice)).status == 403


def test_the_invitation_cannot_be_rejected_and_the_room_not_left(admin: User, bob: User) -> None:
    sent(admin, bob)
    room_id = room_of(bob)
    leave = {"membership": "leave"}
    for _ in range(2):
        assert refusal(post(bob, room_id, "leave")) == CANNOT_LEAVE
        where = path("rooms", room_id, "state", "m.room.member", bob.user_id)
        assert refusal(call("client_events", "PUT", where, leave, token=bob.token)) == CANNOT_LEAVE
        assert post(bob, room_id, "join").status == 200
    assert membership(bob, room_id, bob) == "join"
    other = create_room(bob)
    assert post(bob, other, "leave").status == 200


def test_the_user_reads_and_does_not_write(admin: User, alice: User, bob: User) -> None:
    sent(admin, bob)
    room_id = room_of(bob)
    post(bob, room_id, "join")
    assert refusal(send(bob, room_id, "why?", "w")) == (403, "M_FORBIDDEN")
    assert refusal(post(bob, room_id, "invite", {"user_id": alice.user_id})) == (403, "M_FORBIDDEN")
    assert put(bob, room_id, "state", "m.room.name", "", body={"name": "mine"}).status == 403


def test_a_transaction_id_makes_a_notice_safe_to_repeat(admin: User, alice: User, bob: User) -> None:
    first = sent(admin, bob, "once", txn="t1")
    assert sent(admin, bob, "once", txn="t1") == first
    assert sent(admin, bob, "again", txn="t2") != first
    assert sent(admin, alice, "once", txn="t1") != first
    post(bob, room_of(bob), "join")
    assert texts(messages(bob, room_of(bob)).json["chunk"]) == ["again", "once"]


def test_only_administrators_send_notices(admin: User, alice: User, bob: User) -> None:
    assert refusal(notice(alice, bob.user_id)) == (403, "M_FORBIDDEN")
    assert refusal(notice(None, bob.user_id)) == (401, "M_MISSING_TOKEN")
    assert refusal(invoke("server_admin", payload("server_admin_notice"))) == (401, "M_UNKNOWN_TOKEN")
    Account(admin.user_id, ACCOUNT).update([Account.admin.remove()])
    assert refusal(notice(admin, bob.user_id)) == (403, "M_FORBIDDEN")
    assert notice_room_of(bob.user_id) is None
    assert Account.fetch(SERVER, ACCOUNT) is None


@pytest.mark.parametrize(
    ("user_id", "expected"),
    [
        ("@nobody:example.org", (404, "M_NOT_FOUND")),
        ("@bob:elsewhere.org", (404, "M_NOT_FOUND")),
        (SERVER, (404, "M_NOT_FOUND")),
        ("bob", (400, "M_INVALID_PARAM")),
        (None, (400, "M_MISSING_PARAM")),
        (1, (400, "M_BAD_JSON")),
    ],
)
def test_a_notice_goes_to_a_user_of_this_server(admin: User, user_id: Any, expected: tuple[int, str]) -> None:
    assert refusal(notice(admin, user_id)) == expected


@pytest.mark.parametrize(
    ("content", "more", "errcode"),
    [
        (None, {}, "M_MISSING_PARAM"),
        ("hello", {}, "M_BAD_JSON"),
        ({"body": "no type"}, {}, "M_MISSING_PARAM"),
        ({"msgtype": "m.text"}, {}, "M_MISSING_PARAM"),
        ({"msgtype": "m.text", "body": 1}, {}, "M_BAD_JSON"),
        ({"msgtype": "m.text", "body": "x", "weight": 1.5}, {}, "M_BAD_JSON"),
        ({"msgtype": "m.server_notice", "body": "which?"}, {}, "M_MISSING_PARAM"),
        (NOTICE, {"type": "m.room.name"}, "M_INVALID_PARAM"),
        (NOTICE, {"state_key": ""}, "M_INVALID_PARAM"),
    ],
)
def test_a_notice_is_a_message(admin: User, bob: User, content: Any, more: dict[str, Any], errcode: str) -> None:
    assert refusal(notice(admin, bob.user_id, content, **more)) == (400, errcode)


def test_a_notice_of_the_specified_type_goes_out_as_it_is(admin: User, bob: User) -> None:
    content = {
        "msgtype": "m.server_notice",
        "body": "Too many users",
        "server_notice_type": "m.server_notice.usage_limit_reached",
        "admin_contact": "mailto:root@example.org",
        "limit_type": "monthly_active_user",
    }
    assert notice(admin, bob.user_id, content).status == 200
    post(bob, room_of(bob), "join")
    assert messages(bob, room_of(bob)).json["chunk"][1]["content"] == content


def test_nobody_else_gets_the_servers_account(admin: User, bob: User) -> None:
    def taken() -> tuple[int, str | None]:
        body = {"username": "server", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        return refusal(call("client_login", "POST", f"{V3}/register", body))

    assert taken() == (400, "M_USER_IN_USE")
    sent(admin, bob)
    assert taken() == (400, "M_USER_IN_USE")
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "server"}, "password": ""}
    assert call("client_login", "POST", f"{V3}/login", login).status == 403


def test_an_account_of_somebody_is_never_taken_over(admin: User, bob: User, server: Callable[..., None]) -> None:
    server(SERVER_NOTICES_LOCALPART="")
    alice = register("alice")
    server(SERVER_NOTICES_LOCALPART="alice")
    answer = notice(admin, bob.user_id)
    assert refusal(answer) == (400, "M_UNKNOWN")
    assert alice.user_id in answer.json["error"]
    assert notice_room_of(bob.user_id) is None


def test_without_the_setting_there_are_no_notices(admin: User, bob: User, server: Callable[..., None]) -> None:
    sent(admin, bob)
    room_id = room_of(bob)
    server(SERVER_NOTICES_LOCALPART="")
    assert refusal(notice(admin, bob.user_id)) == (400, "M_UNKNOWN")
    assert post(bob, room_id, "leave").status == 200


def test_who_left_meanwhile_is_invited_again(admin: User, bob: User, server: Callable[..., None]) -> None:
    sent(admin, bob, "one")
    room_id = room_of(bob)
    server(SERVER_NOTICES_LOCALPART="")
    post(bob, room_id, "leave")
    server(SERVER_NOTICES_LOCALPART="server")
    sent(admin, bob, "two")
    assert room_of(bob) == room_id
    assert post(bob, room_id, "join").status == 200
    assert texts(messages(bob, room_id).json["chunk"])[0] == "two"


def test_a_deactivated_user_leaves_the_room_all_the_same(admin: User, bob: User) -> None:
    sent(admin, bob)
    room_id = room_of(bob)
    post(bob, room_id, "join")
    follow()
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": bob.user_id},
        "password": bob.password,
    }
    assert call("client_account", "POST", f"{V3}/account/deactivate", {"auth": auth}, token=bob.token).status == 200
    from homeserver.storage.rooms import load_room

    view, _ = load_room(room_id, [("m.room.member", bob.user_id)])
    assert view is not None
    assert view.membership(bob.user_id) == "leave"
    assert refusal(notice(admin, bob.user_id)) == (404, "M_NOT_FOUND")


def test_a_crash_after_the_room_was_made_is_made_good_by_the_next_notice(
    admin: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def crash(*_: Any) -> None:
            raise RuntimeError("the end of the process")

        patch.setattr(server_notices, "change_account_data", crash)
        assert notice(admin, bob.user_id).status == 500
    room_id = room_of(bob)
    follow()
    assert "rooms" not in sync(bob)  # nobody was told of it
    sent(admin, bob)
    assert room_of(bob) == room_id
    assert post(bob, room_id, "join").status == 200
    assert texts(messages(bob, room_id).json["chunk"]) == ["The server rests tonight."]
