"""What this server asks others for its users: directories, rooms that it is not in; for what has to be seen of all."""

from pathlib import Path

from e2e.client import V3, Answer, Client, segments
from functions.telling_peer import TellingPeer


def be_told(alice: Client, folder: Path) -> None:
    """Directory, summary and space of a server."""
    with TellingPeer(folder / "telling") as peer:
        peer.directory = {"chunk": [peer.summary("!tea:far.test", "Tea")]}
        room_id = peer.tells(f"!tea:{peer.name}", "Tea", children=["!cup:far.test"])
        peer.spaces[room_id]["children"] = [peer.summary("!cup:far.test", "Cup")]
        for body in (None, {"filter": {"generic_search_term": "tea"}}):
            found = alice.ok("POST" if body else "GET", f"{V3}/publicRooms", body, query={"server": peer.name})
            assert [room["name"] for room in found["chunk"]] == ["Tea"]
        named = segments("room_summary", room_id).replace("/v3/", "/v1/")
        assert alice.ok("GET", named, query={"via": peer.name})["membership"] == "leave"
        space = segments("rooms", room_id, "hierarchy").replace("/v3/", "/v1/")
        assert [room["name"] for room in alice.ok("GET", space)["rooms"]] == ["Tea", "Cup"]


def history_of(user: Client, room_id: str, server: str) -> Answer:
    """The draft's way to fetch history, under both of its prefixes."""
    where = segments("rooms", room_id, "backfill").replace("/v3/", "/api/v1/")
    answer = user.ask_anything("GET", where, query={"remote": server})
    again = user.ask_anything("GET", where.replace("/_matrix", "/matrix"), query={"remote": server})
    assert answer.status == again.status
    return answer
