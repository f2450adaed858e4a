"""Threads: what comes with their roots, the list of a room's threads, and who may begin one."""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import pytest

from functions.harness import User, register
from functions.relating import bundle, children, edit, message, react, refer, relates, reply, roots, say, send, threads
from functions.rooms import create_room, event, messages, post, redact
from functions.test_relations_bundled import ignore


def test_a_thread_tells_its_latest_reply_their_number_and_whether_one_took_part(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    root = say(alice, room_id, "root")
    assert bundle(alice, room_id, root) == {}
    reply(alice, room_id, root, "one")
    assert bundle(bob, room_id, root)["m.thread"]["current_user_participated"] is False
    assert bundle(alice, room_id, root)["m.thread"]["current_user_participated"] is True
    latest = reply(bob, room_id, root, "two")
    react(alice, room_id, latest)
    for user in (alice, bob):
        shown = bundle(user, room_id, root)
        assert shown.keys() == {"m.thread"}
        thread = shown["m.thread"]
        assert thread.keys() == {"latest_event", "count", "current_user_participated"}
        assert (thread["count"], thread["current_user_participated"]) == (2, True)
        assert thread["latest_event"]["event_id"] == latest
        assert thread["latest_event"]["content"] == message("two", **relates("m.thread", root))
        assert thread["latest_event"]["room_id"] == room_id


def test_no_thread_begins_at_an_event_that_relates_to_another(alice: User) -> None:
    room_id = create_room(alice)
    root = say(alice, room_id, "root")
    children = [
        reply(alice, room_id, root, "reply"),
        edit(alice, room_id, root, "edit"),
        react(alice, room_id, root).json["event_id"],
        refer(alice, room_id, root),
    ]
    for child in children:
        answer = send(alice, room_id, "m.room.message", message("x", **relates("m.thread", child)))
        assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")
    assert roots(alice, room_id) == [root]
    # One that was redacted relates to nothing any more; a rich reply never did.
    redact(alice, room_id, children[0])
    reply(alice, room_id, children[0], "its own thread")
    rich = send(
        alice, room_id, "m.room.message", message("x", **{"m.relates_to": {"m.in_reply_to": {"event_id": root}}})
    )
    reply(alice, room_id, rich.json["event_id"], "in the thread of a reply")
    assert roots(alice, room_id) == [rich.json["event_id"], children[0]]


def test_threads_are_listed_by_their_latest_reply(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    assert threads(alice, room_id).json == {"chunk": []}
    first, second, third, _ = (say(alice, room_id, name) for name in ("first", "second", "third", "no thread"))
    for root in (first, second, third):
        reply(alice, room_id, root, "reply")
    assert roots(alice, room_id) == [third, second, first]
    latest = reply(bob, room_id, first, "again")
    edit(alice, room_id, second, "an edit is no reply")
    shown = threads(bob, room_id).json
    assert shown.keys() == {"chunk"}
    assert [root["event_id"] for root in shown["chunk"]] == [first, third, second]
    thread = shown["chunk"][0]["unsigned"]["m.relations"]["m.thread"]
    assert (thread["latest_event"]["event_id"], thread["count"]) == (latest, 2)
    assert "m.replace" in shown["chunk"][2]["unsigned"]["m.relations"]


def test_the_list_of_threads_comes_in_pages(alice: User) -> None:
    room_id = create_room(alice)
    expected = []
    for number in range(5):
        expected.insert(0, say(alice, room_id, str(number)))
        reply(alice, room_id, expected[0], "reply")
    first = threads(alice, room_id, limit=2).json
    second = threads(alice, room_id, limit=2, **{"from": first["next_batch"]}).json
    third = threads(alice, room_id, limit=2, **{"from": second["next_batch"]}).json
    assert [[root["event_id"] for root in page["chunk"]] for page in (first, second, third)] == [
        expected[:2],
        expected[2:4],
        expected[4:],
    ]
    assert "next_batch" not in third
    assert "next_batch" not in threads(alice, room_id, limit=5).json


def test_threads_in_which_one_took_part(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    begun, replied, other = (say(user, room_id, name) for user, name in ((bob, "begun"), (alice, "in"), (alice, "not")))
    reply(alice, room_id, begun, "reply")
    gone = reply(bob, room_id, other, "reply that goes")
    reply(bob, room_id, replied, "reply")
    reply(alice, room_id, other, "reply")
    assert roots(bob, room_id, include="participated") == [other, replied, begun]
    redact(bob, room_id, gone)
    assert roots(bob, room_id, include="participated") == [replied, begun]
    assert roots(bob, room_id, include="all") == [other, replied, begun]
    assert roots(alice, room_id, include="participated") == [other, replied, begun]


def test_who_may_not_see_the_room_gets_no_threads(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    reply(alice, room_id, say(alice, room_id, "root"), "reply")
    for where in (room_id, "!unknown:example.org"):
        answer = threads(bob, where)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("query", [{"include": "some"}, {"limit": "0"}, {"limit": "x"}, {"from": "nonsense"}])
def test_parameters_that_cannot_be_are_refused(alice: User, query: dict[str, str]) -> None:
    answer = threads(alice, create_room(alice), **query)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_redacting_replies_goes_back_to_the_one_before(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    root, other = say(alice, room_id, "root"), say(alice, room_id, "other")
    replies = [reply(bob, room_id, root, body) for body in ("one", "two")]
    reply(alice, room_id, other, "between")
    replies.append(reply(bob, room_id, root, "three"))
    redact(bob, room_id, replies[0], "1")
    thread = bundle(alice, room_id, root)["m.thread"]
    assert (thread["latest_event"]["event_id"], thread["count"]) == (replies[2], 2)
    assert roots(alice, room_id) == [root, other]
    redact(bob, room_id, replies[2], "2")
    thread = bundle(alice, room_id, root)["m.thread"]
    assert (thread["latest_event"]["event_id"], thread["count"]) == (replies[1], 1)
    assert roots(alice, room_id) == [other, root]
    redact(bob, room_id, replies[1], "3")
    assert bundle(alice, room_id, root) == {}
    assert roots(alice, room_id) == [other]
    # Redacting the root leaves the thread.
    redact(alice, room_id, other, "4")
    assert roots(alice, room_id) == [other]


def test_replies_of_ignored_users_do_not_count(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, carol)
    mixed, only, theirs = (say(u, room_id, n) for u, n in ((alice, "mixed"), (alice, "only bob"), (bob, "bob's")))
    kept = reply(carol, room_id, mixed, "kept")
    reply(bob, room_id, mixed, "ignored")
    reply(bob, room_id, only, "ignored")
    reply(carol, room_id, theirs, "reply")
    ignore(alice, bob)
    thread = bundle(alice, room_id, mixed)["m.thread"]
    assert (thread["latest_event"]["event_id"], thread["count"]) == (kept, 1)
    assert bundle(alice, room_id, only) == {}
    assert bundle(carol, room_id, only)["m.thread"]["count"] == 1
    shown = threads(alice, room_id).json["chunk"]
    assert [root["event_id"] for root in shown] == [theirs, mixed]
    # What somebody whom one ignores began is shown as if it was redacted.
    assert shown[0]["content"] == {}
    assert event(carol, room_id, theirs).json["content"]["body"] == "bob's"


def test_a_thread_of_many_users_still_knows_who_took_part(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.matrix import relations

    monkeypatch.setattr(relations, "_MOST_SENDERS_BYTES", len(alice.user_id))
    room_id = create_room(alice, bob)
    carol = register("carol")
    post(alice, room_id, "invite", {"user_id": carol.user_id})
    post(carol, room_id, "join")
    root = say(carol, room_id, "root")
    reply(alice, room_id, root, "one")
    ids = [reply(bob, room_id, root, body) for body in ("two", "three")]
    for _ in range(2):
        assert bundle(bob, room_id, root)["m.thread"]["current_user_participated"] is True
        assert roots(bob, room_id, include="participated") == [root]
        redact(bob, room_id, ids.pop(), str(len(ids)))
    assert bundle(bob, room_id, root)["m.thread"]["current_user_participated"] is False
    assert bundle(bob, room_id, root)["m.thread"]["count"] == 1
    assert roots(bob, room_id, include="participated") == []


def test_replies_at_the_same_time_all_count(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    from homeserver.matrix.event_builder import EventDraft
    from homeserver.services.access_tokens import Requester
    from homeserver.services.send_event import send_message_event
    from homeserver.storage.connection import Transaction

    commit, one_at_a_time = Transaction.commit, Lock()
    cancelled = []

    def commit_alone(transaction: Transaction) -> None:
        # moto's transactions mix when they are made at the same time; what is read between them stays as it comes.
        with one_at_a_time:
            try:
                commit(transaction)
            except Exception as error:
                cancelled.append(error)
                raise

    monkeypatch.setattr(Transaction, "commit", commit_alone)
    room_id = create_room(alice)
    root = say(alice, room_id, "root")
    requester = Requester(alice.user_id, alice.device_id, "")

    def send_reply(number: int) -> str:
        draft = EventDraft("m.room.message", message(str(number), **relates("m.thread", root)))
        return send_message_event(requester, room_id, draft, f"race{number}")

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(send_reply, range(8)))
    thread = bundle(alice, room_id, root)["m.thread"]
    assert thread["count"] == len(set(ids)) == 8
    newest_first = [shown["event_id"] for shown in messages(alice, room_id).json["chunk"]]
    assert thread["latest_event"]["event_id"] == newest_first[0]
    assert children(alice, room_id, root) == newest_first[:8]
    assert cancelled, "nobody lost a race"
    assert roots(alice, room_id) == [root]
