"""What users do in rooms whose rows are behind: nothing that anybody could notice."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from e2e import asked_by_servers
from e2e.client import PASSWORD, V3, Client, segments
from e2e.conversation import SECRET, confirmed, send_notice, with_secret
from e2e.local_run import Server
from e2e.sent_by_servers import be_sent_late
from functions.handshakes import InvitedServer
from functions.remote_server import KEY


class LateServer(Server):
    """A local run with cold functions, in whose rooms some rows come late, or not at all."""

    module = "e2e.late_functions"


def live_with_late_rows(folder: Path, record: Callable[[Path], Any]) -> Iterator[Any]:
    """Three servers on one folder; what `record` says of each after it stopped.

    In the first the rows stay behind, whatever happens. The second's start brings them along; in its own rooms the
    follower does it.
    """
    settings = {"REGISTRATION": "open", "RECORD_PERMISSIONS": "1", "REGISTRATION_SHARED_SECRET": SECRET}
    settings |= {"SERVER_NOTICES_LOCALPART": "server"} | asked_by_servers.SETTINGS
    with LateServer(folder, LATE_ROWS="stay", **settings) as server:
        owner, guest = server.register("lateowner"), server.register("lateguest")
        room_id = live(owner, guest)
        with InvitedServer(folder / "late", key=KEY) as peer:
            be_sent_late(owner, room_id, server.client(), peer)
        with with_secret(server.client(), "lateroot", admin=True) as root:
            send_notice(root, owner.user_id)
            send_notice(root, owner.user_id, txn_id="again")
        confirmed(guest, "POST", f"{V3}/account/deactivate", {"erase": False})
        before = ids_of(owner, room_id)
        assert server.stop() == 0
        assert late_rooms(server) != []
    yield record(folder)
    with LateServer(folder, LATE_ROWS="come", **settings) as server:
        owner = server.client().log_in("lateowner", PASSWORD)
        assert ids_of(owner, room_id) == before
        owner.create_room(name="Another")
        owner.sync_until(lambda: len(owner.seen) >= 2)
        assert server.stop() == 0
        assert "Traceback" not in server.log, server.log
        assert late_rooms(server) == []
    yield record(folder)


def live(owner: Client, guest: Client) -> str:
    """A room in which everything happens that asks for the power levels, whose row is not there."""
    room_id = owner.create_room(preset="public_chat", name="Late", room_alias_name="late")
    guest.join(room_id)
    guest.ok("PUT", segments("profile", guest.user_id, "displayname"), {"displayname": "Late Guest"})
    owner.ok("PUT", segments("directory", "list", "room", room_id), {"visibility": "public"})
    assert owner.act(room_id, "kick", user_id=guest.user_id).status == 200
    guest.join(room_id)
    assert guest.act(room_id, "kick", user_id=owner.user_id).status == 403
    owner.set_state(room_id, "m.room.topic", {"topic": "late"})
    owner.send(room_id, "hello")
    state = owner.state(room_id)
    assert state["m.room.power_levels", ""]["content"]["ban"] == 50
    assert state["m.room.member", guest.user_id]["content"]["displayname"] == "Late Guest"
    owner.sync_until(lambda: owner.bodies(room_id) == ["hello"])
    return room_id


def ids_of(user: Client, room_id: str) -> dict[tuple[str, str], str]:
    """The room's state as the user sees it: event IDs by key."""
    return {key: str(event["event_id"]) for key, event in user.state(room_id).items()}


def late_rooms(server: Server) -> list[str]:
    """Rooms whose rows are not their state, in the last snapshot."""
    heads = [item for item in server.stored("Rooms") if item["k"]["S"] == "head"]
    return [item["room"]["S"] for item in heads if item["r"] != item["rr"]]
