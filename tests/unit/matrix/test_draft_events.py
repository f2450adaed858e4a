"""Events as clients of the draft of 2014 see them."""

import copy
from typing import Any

import pytest

from homeserver.matrix.draft_events import draft_view, message_content

MESSAGE: dict[str, Any] = {
    "type": "m.room.message",
    "event_id": "$h4",
    "room_id": "!r:hs.test",
    "sender": "@carol:hs.test",
    "origin_server_ts": 1_700_000_000_000,
    "content": {"msgtype": "m.emote", "body": "waves"},
    "unsigned": {"age": 1200},
}
URL = "http://pictures.test/t.png"
INFO = {"w": 32, "h": 32, "mimetype": "image/png", "size": 900}


def state(event_type: str, content: dict[str, Any], **unsigned: Any) -> dict[str, Any]:
    return {**MESSAGE, "type": event_type, "state_key": "", "content": content, "unsigned": {"age": 5, **unsigned}}


def test_a_message_has_its_sender_and_age_at_the_top_as_well() -> None:
    before = copy.deepcopy(MESSAGE)
    assert draft_view(MESSAGE) == {**MESSAGE, "user_id": "@carol:hs.test", "age": 1200}
    assert before == MESSAGE


def test_an_age_that_is_given_counts_and_one_that_nobody_knows_is_left_out() -> None:
    assert draft_view(MESSAGE, age=7)["age"] == 7
    assert "age" not in draft_view({key: value for key, value in MESSAGE.items() if key != "unsigned"})


def test_state_has_what_it_replaced_and_the_level_it_takes() -> None:
    topic = state("m.room.topic", {"topic": "Tea"}, prev_content={"topic": "Coffee"})
    view = draft_view(topic, required_power_level=50)
    assert (view["prev_content"], view["required_power_level"]) == ({"topic": "Coffee"}, 50)
    assert view["unsigned"] == topic["unsigned"]


def test_a_message_has_no_level_that_it_takes() -> None:
    assert "required_power_level" not in draft_view(MESSAGE, required_power_level=50)


def test_power_levels_are_flat_in_what_they_are_and_were() -> None:
    event = state(
        "m.room.power_levels",
        {"users": {"@carol:hs.test": 100}, "users_default": 0, "ban": 50},
        prev_content={"users": {}, "users_default": 7},
    )
    view = draft_view(event, creators=["@dave:hs.test"])
    assert view["content"] == {"@carol:hs.test": 100, "@dave:hs.test": 9007199254740991, "default": 0}
    assert view["prev_content"] == view["unsigned"]["prev_content"] == {"@dave:hs.test": 9007199254740991, "default": 7}


def test_power_levels_under_another_state_key_are_an_ordinary_event() -> None:
    event = {**state("m.room.power_levels", {"users": {}}), "state_key": "x"}
    assert draft_view(event)["content"] == {"users": {}}


def test_a_redaction_names_its_target_at_the_top() -> None:
    redaction = {**MESSAGE, "type": "m.room.redaction", "content": {"redacts": "$h1"}}
    assert draft_view(redaction)["redacts"] == "$h1"


def test_what_was_redacted_says_why_at_the_top_in_the_same_form() -> None:
    because = {**MESSAGE, "type": "m.room.redaction", "event_id": "$h5", "content": {"redacts": "$h4"}}
    view = draft_view({**MESSAGE, "content": {}, "unsigned": {"redacted_because": because}})
    assert view["redacted_because"] == draft_view(because)
    assert view["unsigned"]["redacted_because"]["user_id"] == "@carol:hs.test"


def test_an_encrypted_event_keeps_its_content() -> None:
    content = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "thumbnail_url": "y"}
    event = {**MESSAGE, "type": "m.room.encrypted", "content": content}
    assert draft_view(event)["content"] == content


@pytest.mark.parametrize(
    "content",
    [
        {"thumbnail_url": URL, "thumbnail_info": INFO, "info": {"w": 640}},
        {"info": {"w": 640, "thumbnail_url": URL, "thumbnail_info": INFO}},
        {"thumbnail_url": URL, "info": {"w": 640, "thumbnail_info": INFO}},
        {"thumbnail_url": URL, "thumbanil_info": INFO, "info": {"w": 640}},
        {"info": {"w": 640, "thumbnail_url": URL, "thumbanil_info": INFO}},
    ],
)
def test_a_thumbnail_is_at_the_top_and_in_the_info_wherever_it_was_put(content: dict[str, Any]) -> None:
    shown = message_content({"msgtype": "m.image", "body": "cat", "url": "http://pictures.test/cat.png", **content})
    assert shown == {
        "msgtype": "m.image",
        "body": "cat",
        "url": "http://pictures.test/cat.png",
        "thumbnail_url": URL,
        "thumbnail_info": INFO,
        "info": {"w": 640, "thumbnail_url": URL, "thumbnail_info": INFO},
    }


def test_a_thumbnail_without_info_gets_one() -> None:
    shown = message_content({"msgtype": "m.location", "body": "here", "geo_uri": "geo:1,2", "thumbnail_url": URL})
    assert shown["info"] == {"thumbnail_url": URL}


def test_two_thumbnails_are_both_kept() -> None:
    content = {"msgtype": "m.image", "thumbnail_url": "a", "info": {"thumbnail_url": "b"}}
    assert message_content(content) == content


def test_an_info_that_is_no_object_stays_as_it_is() -> None:
    content = {"msgtype": "m.image", "thumbnail_url": "a", "info": "none"}
    assert message_content(content) == content
