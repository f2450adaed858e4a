"""Events in the format of the draft of 2014, and what decided between two values there."""

import hashlib
from typing import Any

import pytest

from homeserver.matrix.event import Event
from homeserver.matrix.power_levels import PowerLevels
from homeserver.matrix.room_versions import V11, V12
from homeserver.matrix.seed_clobber import Clobber, Rule, SeedPdu, seed_clobber
from homeserver.matrix.seed_view import SeedState, seed_transaction, to_seed_view

ROOM = "!r:hs.test"
CAROL, DAVE = "@carol:hs.test", "@dave:peer.test"


def event(event_id: str, **more: Any) -> Event:
    pdu = {
        "type": "m.room.message",
        "room_id": ROOM,
        "sender": CAROL,
        "origin_server_ts": 1_700_000_000_000,
        "depth": 9,
        "content": {"msgtype": "m.emote", "body": "waves"},
        "prev_events": ["$h3"],
        "auth_events": [],
        "hashes": {"sha256": "x"},
        "signatures": {},
        **more,
    }
    return Event(event_id, ROOM, pdu, V11)


def topic(event_id: str, **more: Any) -> Event:
    return event(event_id, type="m.room.topic", state_key="", content={"topic": "Tea"}, **more)


def test_a_message_is_shown_as_the_draft_has_it() -> None:
    assert to_seed_view(event("$h4"), {"$h3": "peer.test"}) == {
        "pdu_id": "$h4",
        "origin": "hs.test",
        "context": ROOM,
        "pdu_type": "m.room.message",
        "ts": 1_700_000_000_000,
        "prev_pdus": [["$h3", "peer.test"]],
        "depth": 9,
        "is_state": False,
        "user_id": CAROL,
        "content": {"msgtype": "m.emote", "body": "waves"},
    }


def test_state_has_levels_and_what_it_replaced() -> None:
    levels = PowerLevels({"users": {CAROL: 100}, "state_default": 50}, frozenset(), V11)
    made = topic("$h4")
    view = to_seed_view(made, {}, SeedState.before(made, levels, topic("$h1", sender=DAVE)))
    assert {key: view[key] for key in view if key not in to_seed_view(event("$h4"), {})} == {
        "state_key": "",
        "power_level": 100,
        "required_power_level": 50,
        "prev_state_id": "$h1",
        "prev_state_origin": "peer.test",
    }
    assert (view["is_state"], view["pdu_type"]) == (True, "m.room.topic")


def test_the_first_value_of_a_key_replaced_nothing() -> None:
    levels = PowerLevels({"events": {"m.room.topic": 7}, "users_default": 3}, frozenset(), V11)
    made = topic("$h4")
    view = to_seed_view(made, {}, SeedState.before(made, levels, None))
    assert (view["power_level"], view["required_power_level"]) == (3, 7)
    assert not {"prev_state_id", "prev_state_origin"} & view.keys()


def test_a_state_event_whose_past_is_not_known_says_nothing_of_it() -> None:
    view = to_seed_view(topic("$h4"), {})
    assert (view["is_state"], view["state_key"]) == (True, "")
    assert not {"power_level", "required_power_level", "prev_state_id"} & view.keys()


def test_the_power_of_a_creator_is_the_greatest_integer() -> None:
    made = topic("$h4")
    view = to_seed_view(made, {}, SeedState.before(made, PowerLevels(None, frozenset({CAROL}), V12), None))
    assert view["power_level"] == 2**53 - 1


def test_parents_come_in_their_order_and_an_unknown_one_without_a_server() -> None:
    view = to_seed_view(event("$h4", prev_events=["$b", "$a"]), {"$a": "peer.test"})
    assert view["prev_pdus"] == [["$b", ""], ["$a", "peer.test"]]


def test_views_come_in_a_transaction_that_follows_on_none() -> None:
    shown = to_seed_view(event("$h4"), {})
    assert seed_transaction("hs.test", 5, [shown]) == {"origin": "hs.test", "ts": 5, "pdus": [shown], "prev_ids": []}


# ── Clobbering ──────────────────────────────────────────────────────────────────────────────────────

POWER = {"@strong:a": 100, "@weak:a": 0, "@middle:a": 50}


def branch(*users: str, name: str = "n") -> list[SeedPdu]:
    return [SeedPdu(f"{name}{number}", "a", f"@{user}:a") for number, user in enumerate(users)]


def decided(new: list[SeedPdu], current: list[SeedPdu]) -> Clobber:
    return seed_clobber(new, current, POWER.__getitem__)


def test_who_knew_what_they_replaced_wins_whatever_their_power() -> None:
    assert decided(branch("weak"), []) == Clobber(replaces=True, rule=Rule.DIRECT_SUCCESSOR)
    assert decided([], branch("weak")) == Clobber(replaces=False, rule=Rule.DIRECT_SUCCESSOR)


def test_the_most_powerful_user_of_a_branch_decides_before_its_length() -> None:
    strong, longer = branch("weak", "strong"), branch("middle", "middle", "middle", name="c")
    assert decided(strong, longer) == Clobber(replaces=True, rule=Rule.POWER)
    assert decided(longer, strong) == Clobber(replaces=False, rule=Rule.POWER)


def test_of_equal_power_the_longer_branch_wins_which_is_why_the_rules_are_no_more() -> None:
    honest, stretched = branch("middle"), branch("middle", "weak", name="c")
    assert decided(stretched, honest) == Clobber(replaces=True, rule=Rule.LENGTH)
    assert decided(honest, stretched) == Clobber(replaces=False, rule=Rule.LENGTH)


def test_at_last_the_greater_hash_of_the_ids_wins_on_both_sides() -> None:
    one, other = branch("middle", "weak"), branch("weak", "middle", name="c")
    greater = hashlib.sha1(b"n0an1a").digest() > hashlib.sha1(b"c0ac1a").digest()
    assert decided(one, other) == Clobber(replaces=greater, rule=Rule.HASH)
    assert decided(other, one) == Clobber(replaces=not greater, rule=Rule.HASH)


def test_one_value_is_nothing_to_decide_about() -> None:
    with pytest.raises(ValueError, match="no two values"):
        decided([], [])
