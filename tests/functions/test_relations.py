"""`/relations`: which events relate to one, in which order, and who may see it."""

import pytest

from functions.harness import User
from functions.relating import children, edit, message, react, refer, relates, relations, reply, say, send, sent
from functions.rooms import create_room, get, post, redact, set_state, state


def test_the_children_of_an_event_come_newest_first_and_oldest_first(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent = say(alice, room_id, "parent")
    say(bob, room_id, "nothing to do with it")
    edited = edit(alice, room_id, parent, "better")
    reaction = react(bob, room_id, parent).json["event_id"]
    replied = reply(bob, room_id, parent, "in thread")
    referred = refer(alice, room_id, parent)
    assert children(alice, room_id, parent) == [referred, replied, reaction, edited]
    assert children(bob, room_id, parent, dir="f") == [edited, reaction, replied, referred]
    assert children(alice, room_id, parent, "m.thread") == [replied]
    assert children(alice, room_id, parent, "m.annotation", "m.reaction") == [reaction]
    assert children(alice, room_id, parent, "m.annotation", "m.room.message") == []
    assert children(alice, room_id, edited) == []
    shown = relations(alice, room_id, parent, "m.annotation").json
    assert shown.keys() == {"chunk"}
    assert shown["chunk"][0]["content"] == relates("m.annotation", parent, key="👍")
    assert (shown["chunk"][0]["sender"], shown["chunk"][0]["room_id"]) == (bob.user_id, room_id)


def test_pages_of_children_are_whole_and_do_not_overlap(alice: User) -> None:
    room_id = create_room(alice)
    parent = say(alice, room_id, "parent")
    ids = []
    for number in range(7):
        ids.append(reply(alice, room_id, parent, str(number)))
        react(alice, room_id, parent, str(number))
    for direction, expected in (("b", ids[::-1]), ("f", ids)):
        found: list[str] = []
        token = None
        for page in range(10):
            more = {"from": token} if token else {}
            answer = relations(alice, room_id, parent, "m.thread", dir=direction, limit=3, **more).json
            assert answer.get("prev_batch") == token
            found += [child["event_id"] for child in answer["chunk"]]
            token = answer.get("next_batch")
            if token is None:
                break
            assert len(answer["chunk"]) == 3, page
        assert found == expected
    # What /messages calls the place before an event is a bound too.
    after = get(alice, "rooms", room_id, "context", ids[3], limit=0).json
    assert children(alice, room_id, parent, "m.thread", **{"from": after["end"]}) == ids[3::-1]
    assert children(alice, room_id, parent, "m.thread", to=after["start"]) == ids[:2:-1]
    assert children(alice, room_id, parent, "m.thread", to=after["end"], dir="f") == ids[:4]
    assert (
        children(alice, room_id, parent, "m.thread", **{"from": after["start"], "to": after["end"], "dir": "b"}) == []
    )


def test_what_relates_to_children_comes_on_request_down_to_three_levels(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    root = say(alice, room_id, "root")
    replied = reply(bob, room_id, root, "reply")
    edited = edit(bob, room_id, replied, "edited reply")
    on_edit = react(alice, room_id, edited).json["event_id"]
    too_deep = react(bob, room_id, on_edit).json["event_id"]
    on_root = react(bob, room_id, root).json["event_id"]
    direct = relations(alice, room_id, root, recurse="false").json
    assert [child["event_id"] for child in direct["chunk"]] == [on_root, replied]
    assert direct["recursion_depth"] == 1
    whole = relations(alice, room_id, root, recurse="true").json
    assert [child["event_id"] for child in whole["chunk"]] == [on_root, on_edit, edited, replied]
    assert whole["recursion_depth"] == 3
    assert children(alice, room_id, root, "m.annotation", recurse="true") == [on_root, on_edit]
    assert children(alice, room_id, root, "m.annotation", "m.reaction", recurse="true", dir="f") == [on_edit, on_root]
    assert children(alice, room_id, replied, recurse="true") == [too_deep, on_edit, edited]
    first = relations(alice, room_id, root, recurse="true", limit=3).json
    rest = relations(alice, room_id, root, recurse="true", limit=3, **{"from": first["next_batch"]}).json
    assert [child["event_id"] for child in rest["chunk"]] == [replied]
    # An event that no longer relates to the root takes what hung on it along.
    redact(bob, room_id, replied)
    assert children(alice, room_id, root, recurse="true") == [on_root]
    assert children(alice, room_id, replied, recurse="true") == [too_deep, on_edit, edited]


def test_the_unstable_name_of_recurse_means_the_same_and_counts_only_without_the_stable_one(alice: User) -> None:
    room_id = create_room(alice)
    root = say(alice, room_id, "root")
    replied = reply(alice, room_id, root, "reply")
    on_reply = react(alice, room_id, replied).json["event_id"]
    name = "org.matrix.msc3981.recurse"
    told = relations(alice, room_id, root, **{name: "true"}).json
    assert [child["event_id"] for child in told["chunk"]] == [on_reply, replied]
    assert told["recursion_depth"] == 3
    assert relations(alice, room_id, root, **{name: "false"}).json["recursion_depth"] == 1
    assert children(alice, room_id, root, recurse="false", **{name: "true"}) == [replied]
    refused = relations(alice, room_id, root, **{name: "yes"})
    assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")


def test_a_rich_reply_and_what_is_no_relation_relate_to_nothing(alice: User) -> None:
    room_id, other = create_room(alice), create_room(alice)
    parent, elsewhere = say(alice, room_id, "parent"), say(alice, other, "elsewhere")
    for relates_to in (
        {"m.in_reply_to": {"event_id": parent}},
        {"rel_type": "m.thread"},
        {"event_id": parent},
        {"rel_type": 1, "event_id": parent},
        {"rel_type": "m.thread", "event_id": [parent]},
        {"rel_type": "m.thread", "event_id": "nonsense"},
        {"rel_type": "m.thread", "event_id": "$" + "a" * 43},
        {"rel_type": "m.thread", "event_id": elsewhere},
        [parent],
        "m.thread",
    ):
        assert send(alice, room_id, "m.room.message", message("x", **{"m.relates_to": relates_to})).status == 200
    assert children(alice, room_id, parent) == []
    assert children(alice, other, elsewhere) == []
    # A type of relation that the specification does not know is one nevertheless.
    own = sent(alice, room_id, "org.example.vote", relates("org.example.vote", parent))
    assert children(alice, room_id, parent, "org.example.vote") == [own]


def test_who_cannot_see_the_event_is_told_that_there_is_none(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    parent = say(alice, room_id, "parent")
    reply(alice, room_id, parent, "reply")
    for user, where, parent_id in (
        (bob, room_id, parent),
        (alice, room_id, "$" + "a" * 43),
        (alice, room_id, "nonsense"),
        (alice, create_room(alice), parent),
        (alice, "!unknown:example.org", parent),
    ):
        answer = relations(user, where, parent_id)
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND"), (where, parent_id)


def test_children_that_a_user_may_not_see_are_left_out(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent = say(alice, room_id, "parent")
    seen = reply(alice, room_id, parent, "while bob is there")
    post(bob, room_id, "leave")
    reply(alice, room_id, parent, "without bob")
    assert children(bob, room_id, parent) == [seen]
    assert children(bob, room_id, parent, dir="f") == [seen]


@pytest.mark.parametrize(
    "query", [{"dir": "x"}, {"limit": "0"}, {"limit": "many"}, {"recurse": "yes"}, {"from": "nonsense"}, {"to": "s"}]
)
def test_parameters_that_cannot_be_are_refused(alice: User, query: dict[str, str]) -> None:
    room_id = create_room(alice)
    parent = say(alice, room_id, "parent")
    answer = relations(alice, room_id, parent, **query)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_event_ids_with_slashes_are_told_from_types(alice: User) -> None:
    room_id = create_room(alice, room_version="3")
    slashed = None
    for number in range(200):
        parent = say(alice, room_id, str(number))
        if "/" in parent:
            slashed = parent
            break
    assert slashed is not None
    reaction = react(alice, room_id, slashed).json["event_id"]
    assert children(alice, room_id, slashed) == [reaction]
    assert children(alice, room_id, slashed, "m.annotation") == [reaction]
    assert children(alice, room_id, slashed, "m.annotation", "m.reaction") == [reaction]
    assert children(alice, room_id, slashed, "m.thread") == []


def test_an_annotation_cannot_be_made_twice(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent, other = say(alice, room_id, "parent"), say(alice, room_id, "other")
    first = react(bob, room_id, parent)
    assert first.status == 200
    again = react(bob, room_id, parent)
    assert (again.status, again.errcode) == (400, "M_DUPLICATE_ANNOTATION")
    # Another key, another user, another event, another type: none of them is a duplicate.
    assert react(bob, room_id, parent, "🎉").status == 200
    assert react(alice, room_id, parent).status == 200
    assert react(bob, room_id, other).status == 200
    assert send(bob, room_id, "org.example.reaction", relates("m.annotation", parent, key="👍")).status == 200
    assert len(children(alice, room_id, parent)) == 4
    # Who takes it back may make it again.
    redact(bob, room_id, first.json["event_id"])
    assert len(children(alice, room_id, parent)) == 3
    assert react(bob, room_id, parent).status == 200
    assert react(bob, room_id, parent).errcode == "M_DUPLICATE_ANNOTATION"
    # Without a key there is nothing to compare.
    for _ in range(2):
        assert send(bob, room_id, "m.reaction", relates("m.annotation", parent)).status == 200


def test_a_repeated_transaction_is_no_duplicate(alice: User) -> None:
    from functions.rooms import put

    room_id = create_room(alice)
    parent = say(alice, room_id, "parent")
    body = relates("m.annotation", parent, key="👍")
    answers = [put(alice, room_id, "send", "m.reaction", "same", body=body) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].json == answers[1].json


def test_who_may_not_send_makes_no_relation(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent = say(alice, room_id, "parent")
    levels = state(alice, room_id, "m.room.power_levels").json
    set_state(alice, room_id, "m.room.power_levels", {**levels, "events": {"m.reaction": 50}})
    answer = react(bob, room_id, parent)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert children(alice, room_id, parent) == []


def test_a_redacted_child_is_none_any_more(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    parent = say(alice, room_id, "parent")
    reaction = react(bob, room_id, parent).json["event_id"]
    replied = reply(bob, room_id, parent, "reply")
    redact(bob, room_id, reaction)
    assert children(alice, room_id, parent) == [replied]
    redact(alice, room_id, replied)
    assert children(alice, room_id, parent) == []
    # The children of a redacted event are still its children.
    later = reply(bob, room_id, parent, "later")
    redact(alice, room_id, parent, "p")
    assert children(alice, room_id, parent) == [later]
