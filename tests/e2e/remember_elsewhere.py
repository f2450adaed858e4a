"""A room of another server that has a history: told when somebody reads it, while its users go on in it.

For what has to be seen of all: how history is fetched, redactions in it, and redactions that come.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from e2e.client import V3, Answer, Client, at_once, segments
from e2e.elsewhere import resident
from e2e.let_in import restricted
from e2e.sent_by_servers import Sending, owner_bodies, wait_until
from federation_peer import Peer
from functions.backfilling import HistoryPeer, HistoryRoom
from functions.remote_server import KEY, State
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import auth_event_keys
from homeserver.matrix.hashes import event_from_pdu
from homeserver.matrix.signing import SigningKey

MOST_PDUS = 50  # of a transaction
BUCKET = 100  # positions, as homeserver.storage.room_items has it: a search indexes what is complete


class RememberedRoom(HistoryRoom):
    """One whose local users sign with keys that only their server has."""

    def _home_keys(self) -> Mapping[str, SigningKey]:
        return {}

    def redact(self, target: Event, **more: Any) -> Event:
        return self.make("m.room.redaction", {"redacts": target.event_id}, self.user("carol"), **more)

    def relate(self, rel_type: str, target: Event, body: str) -> Event:
        relation = {"rel_type": rel_type, "event_id": target.event_id}
        content = {"msgtype": "m.text", "body": body, "m.relates_to": relation}
        return self.make("m.room.message", content, self.user("carol"))


class RememberingPeer(HistoryPeer):
    """A server that tells of its rooms, and lets users of this one into them."""

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        parts = [unquote(part) for part in path.split("/")]
        room = self.rooms.get(parts[5]) if len(parts) > 6 else None
        if room is not None and parts[4] == "make_join":
            return 200, {"room_version": room.rules.version, "event": self._template(room, parts[6])}
        if room is not None and parts[4] == "send_join":
            return 200, self._let_in(room, event_from_pdu(json.loads(body), room.rules, room_id=room.room_id))
        return super().respond(method, path, query, body)

    def _template(self, room: HistoryRoom, user_id: str) -> dict[str, Any]:
        before = _now(room)
        content = {"membership": "join"}
        keys = auth_event_keys("m.room.member", user_id, user_id, content, room.rules)
        return {
            "type": "m.room.member",
            "room_id": room.room_id,
            "sender": user_id,
            "state_key": user_id,
            "content": content,
            "depth": 1 + max(room.events[event_id].depth for event_id in room.tip),
            "origin_server_ts": room.now,
            "prev_events": list(room.tip),
            "auth_events": [before[key] for key in keys if key in before],
        }

    def _let_in(self, room: HistoryRoom, join: Event) -> dict[str, Any]:
        state = list(_now(room).values())
        room._enter_graph(join, room.before(join))
        chain = room.chain([*state, join.event_id])
        pdus = self._pdus(room.events[event_id] for event_id in state)
        return {"state": pdus, "auth_chain": self._pdus(chain), "event": dict(join.pdu), "origin": self.name}


def _now(room: HistoryRoom) -> State:
    return room.resolved([room.after[event_id] for event_id in room.tip])


def remember_elsewhere(alice: Client, bob: Client, nobody: Client, folder: Path) -> None:
    """Read what was before; see what is taken back of it, and of what came."""
    with (
        RememberingPeer(folder / "remembering") as peer,
        Peer(folder / "newcomers") as newcomers,
        Peer(folder / "strangers") as strangers,
    ):
        keys = {peer.name: KEY, newcomers.name: newcomers.key, strangers.name: strangers.key}
        room = RememberedRoom(peer.name, keys=keys)
        peer.tells(room)
        told = _early_days(room, strangers)
        room_id = room.room_id
        assert alice.ok("POST", segments("join", room_id), {}, query={"via": peer.name}) == {"room_id": room_id}
        history = alice.messages(room_id, "b")
        assert history[-1]["type"] == "m.room.create"
        assert _bodies(history) == told
        _late_days(alice, room, Sending(nobody, peer), newcomers)
    _join_together(alice, bob, nobody, folder)


def _bodies(events: list[dict[str, Any]]) -> list[str | None]:
    """The texts of messages, the latest first; None for one that was redacted."""
    return [event["content"].get("body") for event in events if event["type"] == "m.room.message"]


def _early_days(room: RememberedRoom, strangers: Peer) -> list[str | None]:
    """What happened before anybody of this server came; the texts that are left of it, the latest first."""
    carol = room.user("carol")
    regretted = room.say(carol, "regretted")
    question = room.say(carol, "question")
    room.topic(carol, "first")
    room.topic(carol, "second")
    room.relate("m.thread", question, "answer")
    # Nobody let them in: it is refused, but their server's keys have to be known for that.
    uninvited = [room.create.event_id, _now(room)["m.room.power_levels", ""]]
    room.say(f"@uninvited:{strangers.name}", "let me in", auth=uninvited)
    room.redact(regretted)
    return ["answer", "question", None]


def _late_days(alice: Client, room: RememberedRoom, sending: Sending, newcomers: Peer) -> None:
    """The room goes on; of what came some is redacted: in time, too early, and by what nobody sent."""
    carol = room.user("carol")

    def arrive(*events: Event) -> None:
        for start in range(0, len(events), MOST_PDUS):
            sending.send([dict(event.pdu) for event in events[start : start + MOST_PDUS]])

    def read(*texts: str | None) -> None:
        wait_until(lambda: owner_bodies(alice, room.room_id)[: len(texts)] == [*reversed(texts)])

    root = room.say(carol, "root")
    first, second = room.relate("m.thread", root, "first pear"), room.relate("m.thread", root, "second pear")
    newcomer = f"@newcomer:{newcomers.name}"
    arrive(root, first, second, room.join(newcomer), room.say(newcomer, "hello"))
    arrive(*(room.say(carol, f"n{number}") for number in range(BUCKET)))
    read(f"n{BUCKET - 1}")
    assert _found(alice, room.room_id, "pear") == 2
    tip = list(room.tip)
    arrive(room.redact(second))
    arrive(room.say(carol, "after the first"))
    read("after the first")
    assert _found(alice, room.room_id, "pear") == 1
    # A redaction that is not after what it redacts, and comes before it.
    unseen = room.say(carol, "not to be seen", prev=tip)
    arrive(room.redact(unseen, prev=tip))
    arrive(unseen)
    arrive(room.say(carol, "after the second"))
    read("after the second")
    # One that is never sent, but told of when it is asked for.
    room.redact(first)
    arrive(room.say(carol, "after the third"))
    read("after the third")
    alice.messages(room.room_id, "b")
    assert _found(alice, room.room_id, "pear") == 0


def _found(alice: Client, room_id: str, term: str) -> int:
    criteria = {"search_term": term, "filter": {"rooms": [room_id]}}
    answer = alice.ok("POST", f"{V3}/search", {"search_categories": {"room_events": criteria}})
    return len(answer["search_categories"]["room_events"]["results"])


def _join_together(alice: Client, bob: Client, nobody: Client, folder: Path) -> None:
    """Into a restricted room: when the second one's turn comes, this server is in the room and lets him in itself."""
    club = alice.create_room(preset="public_chat")
    bob.join(club)
    with resident(folder / "restricting", nobody) as peer:
        room = peer.room()
        room.add("m.room.join_rules", restricted([{"type": "m.room_membership", "room_id": club}]))
        peer.slow["send_join"] = 2.0

        def join(user: Client) -> Answer:
            return user.ask_anything("POST", segments("join", room.id), {}, query={"via": peer.name})

        def join_later() -> Answer:
            wait_until(lambda: peer.count("send_join") == 1)
            return join(bob)

        answers = at_once(partial(join, alice), join_later)
        assert [answer.status for answer in answers] == [200, 200], answers
        assert peer.count("send_join") == 1
