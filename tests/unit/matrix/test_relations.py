"""Relationships in the pure core: what forms one, which edits are valid, how aggregates change."""

from typing import Any

import pytest

from homeserver.matrix import relations
from homeserver.matrix.relations import Aggregate, Edit, Parent, Relation, annotation_number, is_valid_edit, relation_of

PARENT = "$" + "p" * 43


def test_a_relation_is_read_from_the_content() -> None:
    content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": PARENT, "key": "👍"}}
    assert relation_of(content) == Relation("m.annotation", PARENT, "👍")
    content = {"m.relates_to": {"rel_type": "org.example", "event_id": PARENT, "key": "no annotation"}}
    assert relation_of(content) == Relation("org.example", PARENT)


@pytest.mark.parametrize(
    "relates_to",
    [
        None,
        [],
        {},
        {"rel_type": "m.thread"},
        {"event_id": PARENT},
        {"rel_type": None, "event_id": PARENT},
        {"rel_type": "m.thread", "event_id": "p"},
        {"rel_type": "m.thread", "event_id": 7},
        {"rel_type": "x" * 256, "event_id": PARENT},
        {"m.in_reply_to": {"event_id": PARENT}},
    ],
)
def test_what_forms_no_relation(relates_to: Any) -> None:
    assert relation_of({"m.relates_to": relates_to}) is None
    assert relation_of({}) is None


def test_annotations_share_a_number_only_if_sender_type_and_key_are_the_same() -> None:
    numbers = {
        annotation_number(*parts) for parts in (("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", "b", "d"))
    }
    assert len(numbers) == 4
    assert all(0 <= number < 10**38 for number in numbers)
    assert annotation_number("a", "b", "\ud800") == annotation_number("a", "b", "\ud800")


MESSAGE = Parent(1, "@a:x", "m.room.message", is_state=False)
EDIT: dict[str, Any] = {"type": "m.room.message", "content": {"m.new_content": {}}}


@pytest.mark.parametrize(
    ("parent", "rel_type", "sender", "pdu", "valid"),
    [
        (MESSAGE, None, "@a:x", EDIT, True),
        (MESSAGE, "m.thread", "@a:x", EDIT, True),
        (MESSAGE, "m.replace", "@a:x", EDIT, False),
        (MESSAGE, None, "@b:x", EDIT, False),
        (MESSAGE, None, "@a:x", {**EDIT, "type": "m.sticker"}, False),
        (MESSAGE, None, "@a:x", {**EDIT, "state_key": ""}, False),
        (MESSAGE, None, "@a:x", {**EDIT, "content": {}}, False),
        (MESSAGE, None, "@a:x", {**EDIT, "content": {"m.new_content": 1}}, False),
        (Parent(1, "@a:x", "m.room.message", is_state=True), None, "@a:x", EDIT, False),
        (
            Parent(1, "@a:x", "m.room.encrypted", is_state=False),
            None,
            "@a:x",
            {"type": "m.room.encrypted", "content": {}},
            True,
        ),
    ],
)
def test_which_edits_are_valid(
    parent: Parent, rel_type: str | None, sender: str, pdu: dict[str, Any], valid: bool
) -> None:
    assert is_valid_edit(parent, rel_type, sender, pdu) is valid


def test_the_most_recent_edit_is_the_one_with_the_latest_timestamp_then_the_greater_id() -> None:
    late, early = Edit("$a", 5, 20), Edit("$z", 6, 10)
    assert Aggregate().with_edit(late).with_edit(early).edit == late
    assert Aggregate().with_edit(early).with_edit(late).edit == late
    twin = Edit("$b", 4, 20)
    assert Aggregate().with_edit(late).with_edit(twin).edit == twin
    assert Aggregate().with_edit(twin).with_edit(late) == Aggregate(edits=2, edit=twin)
    assert Aggregate(edits=2, edit=twin).without_edit(late) == Aggregate(edits=1, edit=late)


def test_replies_are_counted_by_user_until_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "_MOST_SENDERS_BYTES", 8)
    thread = Aggregate()
    for number, sender in enumerate(("@a:x", "@b:x", "@c:x", "@a:x")):
        thread = thread.with_reply(f"${number}", number, sender)
    assert thread == Aggregate(replies=4, latest_reply=("$3", 3), senders={"@a:x": 2, "@b:x": 1}, is_partial=True)
    thread = thread.without_reply("@b:x", ("$2", 2)).without_reply("@c:x", ("$0", 0))
    assert thread == Aggregate(replies=2, latest_reply=("$0", 0), senders={"@a:x": 2}, is_partial=True)


def test_references_are_counted() -> None:
    assert Aggregate().with_references(1).with_references(1).with_references(-1).references == 1
    assert Aggregate().with_references(-1).references == 0
