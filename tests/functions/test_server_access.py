"""Which servers may ask about a room: its ACL, the count of their members, and rows that lag behind the state."""

import pytest

from functions.harness import User
from functions.remote_server import RemoteServer, head_of, state_of
from functions.rooms import create_room, set_state
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.observability import metered
from homeserver.services import room_changes, server_access
from homeserver.services.receive_events import Verdict
from homeserver.services.rows_follow import follow_rows
from homeserver.services.server_access import check_access
from homeserver.storage.room_items import RemoteServer as ServerRow

pytestmark = pytest.mark.usefixtures("set_up")
CAROL = "@carol:remote.test"


@pytest.fixture
def room_id(alice: User) -> str:
    return create_room(alice, preset="public_chat", room_version="11")


@pytest.fixture
def remote(room_id: str) -> RemoteServer:
    server = RemoteServer(room_id)
    server.accepted(server.join(CAROL))
    return server


def may(room_id: str, origin: str = "remote.test", *, needs_member: bool = True) -> bool:
    try:
        check_access(room_id, origin, needs_member=needs_member)
    except Forbidden:
        return False
    return True


def test_a_server_is_in_a_room_as_long_as_it_has_a_joined_member(remote: RemoteServer, room_id: str) -> None:
    dave = "@dave:remote.test"
    remote.accepted(remote.join(dave))
    assert may(room_id)
    remote.accepted(remote.member(CAROL, "leave", CAROL))
    assert may(room_id)
    remote.accepted(remote.member(dave, "leave", dave))
    assert not may(room_id)
    assert may(room_id, needs_member=False)
    remote.accepted(remote.join(CAROL))
    assert may(room_id)
    assert not may(room_id, "remote.test:8448")
    assert not may(room_id, "other.test")


def test_the_acl_counts_from_the_moment_it_is_set(alice: User, remote: RemoteServer, room_id: str) -> None:
    set_state(alice, room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["*.test"]})
    assert not may(room_id)
    assert not may(room_id, needs_member=False)
    assert may(room_id, "example.org", needs_member=False)
    set_state(alice, room_id, "m.room.server_acl", {"allow": ["remote.test"]})
    assert may(room_id)
    assert not may(room_id, "example.org", needs_member=False)


def test_unknown_rooms_are_not_found_and_what_is_no_room_is_refused() -> None:
    with pytest.raises(NotFound):
        check_access("!unknown:example.org", "remote.test")
    with pytest.raises(InvalidParam):
        check_access("unknown", "remote.test")


def test_what_is_asked_for_comes_along_in_the_same_round(alice: User, remote: RemoteServer, room_id: str) -> None:
    set_state(alice, room_id, "m.room.server_acl", {"allow": ["*"]})
    extra = (ServerRow, room_id, "server/remote.test")
    with metered() as meter:
        view = check_access(
            room_id, "remote.test", keys=[("m.room.create", "")], local_users=[alice.user_id], extras=[extra]
        )
    assert meter.rounds == 1
    assert view.locals[alice.user_id].membership == "join"
    assert (view.extras[extra].members, view.membership("nobody")) == (1, "leave")
    assert view.event("m.room.create") is not None


# ── Rows that lag behind ────────────────────────────────────────────────────────────────────────────


def undone(alice: User, remote: RemoteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One late event takes Carol's power away, and with it her ban of Dave; the rows stay as they were."""
    remote.accepted(remote.power(alice.user_id, {CAROL: 50}))
    tip = remote.tips()
    remote.accepted(remote.member(CAROL, "ban", "@dave:other.test"))
    monkeypatch.setattr(room_changes, "MOST_ROWS", 0, raising=True)
    demotion = remote.power(alice.user_id, {CAROL: 0}, prev=tip)
    assert [outcome.verdict for outcome in remote.receive(demotion)] == [Verdict.ACCEPTED]


def test_where_rows_lag_behind_the_state_decides(
    alice: User, remote: RemoteServer, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.accepted(remote.join("@dave:other.test"))
    assert may(room_id, "other.test")
    undone(alice, remote, monkeypatch)
    head = head_of(room_id)
    assert head.rows_root != head.root
    row = ServerRow.fetch(room_id, "server/other.test")
    assert row is not None
    joined = remote.events[state_of(room_id)["m.room.member", "@dave:other.test"]].content["membership"] == "join"
    assert (int(row.members), joined) == (0, True)
    assert may(room_id, "other.test")
    assert may(room_id, "remote.test")
    assert not may(room_id, "third.test")
    follow_rows(room_id)
    assert may(room_id, "other.test")


def test_a_row_that_changes_while_it_is_read_is_read_again(
    alice: User, remote: RemoteServer, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.accepted(remote.join("@dave:other.test"))
    undone(alice, remote, monkeypatch)
    looked = []
    real = server_access.batch_get

    def late(keys: object, *, consistent: bool) -> object:
        if not looked:
            follow_rows(room_id)
        looked.append(keys)
        return real(keys, consistent=consistent)  # type: ignore[arg-type]  # what it was given

    monkeypatch.setattr(server_access, "batch_get", late)
    assert may(room_id, "other.test")
    assert len(looked) == 2
