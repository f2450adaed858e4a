"""The draft's prev_ids as one who sends: each transaction names the one before, and what got lost can be pulled."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from functions.federating import LOOPBACK, signed
from functions.harness import Answer, User, call
from functions.remote_server import head_of
from functions.rooms import post, redact, say
from functions.sending import VERSION, Outbox, Receiver, shared_room, speak
from homeserver.services import outgoing_ledger
from homeserver.services.destinations import forget_destinations, mark_capable
from homeserver.storage.destinations import read_destination
from homeserver.storage.sent_transactions import SLOTS, put_sent, read_sent

pytestmark = pytest.mark.usefixtures("set_up")
FUNCTION = "federation_transactions"


@pytest.fixture
def outbox(server: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Outbox:
    server(**LOOPBACK)
    return Outbox(monkeypatch)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as running:
        yield running


def pull(peer: Receiver, *known: str, origin: str | None = None, slash: str = "/") -> Answer:
    """What the peer is answered to `GET /pull/`."""
    query = "&".join([f"origin={quote(origin or peer.name, safe='')}", *(f"v={quote(v)}" for v in known)])
    return signed(call, peer, FUNCTION, "GET", f"/_matrix/federation/v1/pull{slash}?{query}")


def named(peer: Receiver) -> list[Any]:
    """The prev_ids of the transactions that a peer took."""
    return [transaction.get("prev_ids") for transaction in peer.transactions()]


def capable(outbox: Outbox, alice: User, peer: Receiver, *texts: str) -> tuple[str, list[str]]:
    """A room with a peer that understands prev_ids, with a transaction for each text; their IDs."""
    mark_capable(peer.name)
    room_id, _ = shared_room(outbox, alice, peer)
    for text in texts:
        speak(alice, room_id, text)
        outbox.flow()
    return room_id, list(peer.taken)


def test_each_transaction_names_the_one_before(outbox: Outbox, alice: User, peer: Receiver) -> None:
    _, ids = capable(outbox, alice, peer, "one", "two", "three")
    assert named(peer) == [[], [ids[0]], [ids[1]]]
    assert [sent.txn for sent in read_sent(peer.name)] == ids


def test_servers_of_other_software_are_sent_none_and_are_asked_only_once(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    for text in ("one", "two", "three"):
        speak(alice, room_id, text)
        outbox.flow()
    assert named(peer) == [None, None, None]
    assert peer.paths().count(f"GET {VERSION}") == 1
    assert read_destination(peer.name).software == "Synapse"
    assert read_sent(peer.name) == []


@pytest.mark.parametrize("software", ["Eigenserver", None])
def test_a_server_of_this_software_is_sent_them_and_one_that_says_nothing_is_not(
    outbox: Outbox, alice: User, peer: Receiver, software: str | None
) -> None:
    peer.software = software
    room_id, _ = shared_room(outbox, alice, peer)
    for text in ("one", "two", "three"):
        speak(alice, room_id, text)
        outbox.flow()
    ids = list(peer.taken)
    # Nothing is known of it before the first one.
    assert named(peer) == ([None, [], [ids[1]]] if software else [None, None, None])
    assert peer.paths().count(f"GET {VERSION}") == 1


def test_the_setting_decides_over_what_is_known(
    outbox: Outbox, alice: User, peer: Receiver, server: Callable[..., None]
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    server(FEDERATION_PREV_IDS="always")
    speak(alice, room_id, "one")
    outbox.flow()
    server(FEDERATION_PREV_IDS="never")
    mark_capable(peer.name)
    speak(alice, room_id, "two")
    outbox.flow()
    assert named(peer) == [[], None]
    assert f"GET {VERSION}" not in peer.paths()
    server(FEDERATION_PREV_IDS="auto")


def test_that_a_server_understands_them_is_written_once(outbox: Outbox, peer: Receiver) -> None:
    from homeserver.observability import metered

    mark_capable(peer.name)
    with metered() as known:
        mark_capable(peer.name)
    forget_destinations()
    with metered() as cold:
        mark_capable(peer.name)
    assert (known.calls, cold.calls, cold.wru) == (0, 1, 0)


@pytest.mark.parametrize("point", ["ledger.entered", "ledger.noted", "sender.before_request", "sender.after_request"])
def test_a_transaction_that_is_sent_again_keeps_its_place(
    outbox: Outbox, alice: User, peer: Receiver, point: str
) -> None:
    room_id, ids = capable(outbox, alice, peer, "one")
    speak(alice, room_id, "two")
    outbox.route(room_id)
    assert outbox.crashing(outbox.send_some, point)
    outbox.send()
    assert named(peer) == [[], [ids[0]]]
    assert [sent.txn for sent in read_sent(peer.name)] == list(peer.taken)


# ── Asking for what got lost ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("slash", ["/", ""])
def test_a_server_is_told_everything_after_the_latest_transaction_that_it_knows(
    outbox: Outbox, alice: User, peer: Receiver, slash: str
) -> None:
    _, ids = capable(outbox, alice, peer, "one", "two", "three")
    sent = peer.pdus()
    answer = pull(peer, ids[0], slash=slash)
    assert answer.status == 200
    ts = answer.json["origin_server_ts"]
    assert answer.json == {"origin": "example.org", "origin_server_ts": ts, "prev_ids": [], "pdus": sent[1:]}
    assert pull(peer, ids[0], ids[1], "unknown").json["pdus"] == sent[2:]
    assert pull(peer, ids[2]).json["pdus"] == []


@pytest.mark.parametrize("known", [(), ("unknown",)])
def test_who_names_nothing_that_is_known_gets_everything_and_is_told_that_there_may_be_more(
    outbox: Outbox, alice: User, peer: Receiver, known: tuple[str, ...]
) -> None:
    capable(outbox, alice, peer, "one", "two")
    answer = pull(peer, *known)
    assert answer.json["limited"] is True
    assert answer.json["pdus"] == peer.pdus()


def test_of_more_than_one_answer_holds_the_latest_are_told(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing_ledger, "MOST_PULLED", 2)
    _, ids = capable(outbox, alice, peer, "one", "two", "three", "four")
    answer = pull(peer, ids[0])
    assert answer.json["pdus"] == peer.pdus()[-2:]
    assert answer.json["limited"] is True


def test_nobody_is_told_what_another_server_was_sent(
    outbox: Outbox, alice: User, peer: Receiver, tmp_path: Path
) -> None:
    _, ids = capable(outbox, alice, peer, "secret")
    with Receiver(tmp_path) as stranger:
        refused = pull(stranger, ids[0], origin=peer.name)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
        assert pull(stranger, ids[0]).json["pdus"] == []
    unsigned = call(FUNCTION, "GET", f"/_matrix/federation/v1/pull/?origin={quote(peer.name, safe='')}")
    assert (unsigned.status, unsigned.errcode) == (401, "M_UNAUTHORIZED")


def test_what_was_redacted_since_is_told_without_its_content(outbox: Outbox, alice: User, peer: Receiver) -> None:
    mark_capable(peer.name)
    room_id, _ = shared_room(outbox, alice, peer)
    (event_id,) = say(alice, room_id, "regret")
    outbox.flow()
    assert redact(alice, room_id, event_id).status == 200
    (pdu,) = pull(peer).json["pdus"]
    assert pdu["content"] == {}


def test_a_server_that_left_and_came_back_is_not_told_what_was_before_that(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    mark_capable(peer.name)
    room_id, remotes = shared_room(outbox, alice, peer)
    remote = remotes[peer.name]
    carol = remote.user("carol")
    speak(alice, room_id, "first time")
    outbox.flow()
    assert len(pull(peer).json["pdus"]) == 1
    assert post(alice, room_id, "kick", {"user_id": carol}).status == 200
    outbox.flow()
    # What took it out is told as well.
    assert [pdu["type"] for pdu in pull(peer).json["pdus"]] == ["m.room.message", "m.room.member"]
    remote.accepted(remote.join(carol))
    speak(alice, room_id, "second time")
    outbox.flow()
    told = pull(peer).json["pdus"]
    assert [pdu["content"].get("body") for pdu in told if pdu["type"] == "m.room.message"] == ["second time"]
    assert int(head_of(room_id).position) > 0


# ── The ledger ──────────────────────────────────────────────────────────────────────────────────────


def test_no_more_than_a_thousand_transactions_are_kept_and_none_for_more_than_a_week(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.storage import sent_transactions

    for number in (1, 2, SLOTS, SLOTS + 1):
        put_sent("peer.test", number, f"t{number}", [("!r", number)])
    assert [sent.number for sent in read_sent("peer.test")] == [2, SLOTS, SLOTS + 1]
    later = sent_transactions.time() + 8 * 24 * 3600
    monkeypatch.setattr(sent_transactions, "time", lambda: later)
    assert read_sent("peer.test") == []


def test_an_empty_transaction_says_where_this_server_stands_after_only_edus_were_lost(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    from functions.ephemeral import type_in

    room_id, ids = capable(outbox, alice, peer, "one")
    peer.fails()
    type_in(alice, room_id, timeout=30_000)
    outbox.route(room_id)
    outbox.send()
    lost = read_destination(peer.name).last
    assert lost != ids[0]
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    transaction = peer.transactions()[-1]
    assert (transaction["pdus"], transaction["prev_ids"]) == ([], [lost])
    assert "edus" not in transaction
    assert pull(peer, ids[0]).json["pdus"] == []
