import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.event import Event
from homeserver.matrix.redaction import redact, redact_event
from homeserver.matrix.room_versions import ROOM_VERSIONS, V1, V5, V6, V8, V9, V10, V11, V12

# Keys that some version keeps, beside keys that none does.
kept_keys = sorted(
    {key for rules in ROOM_VERSIONS.values() for keys in rules.redaction.content.values() for key in keys or ()}
    | {"third_party_invite", "signed", "body"}
)
types = st.sampled_from([*sorted(V1.redaction.content), "m.room.redaction", "m.room.message"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(kept_keys), inner, max_size=4),
    max_leaves=12,
)
top_level_keys = st.sampled_from([*sorted(V1.redaction.top_level), "unsigned", "redacts", "age"])
events = st.builds(
    lambda event, more: {**event, **more},
    st.dictionaries(top_level_keys, values, max_size=8),
    st.fixed_dictionaries(
        {}, optional={"type": types, "content": st.dictionaries(st.sampled_from(kept_keys), values, max_size=6)}
    ),
)
versions = st.sampled_from(list(ROOM_VERSIONS.values()))


@given(events, versions)
def test_redacting_twice_is_redacting_once(event, rules):
    before = repr(event)
    once = redact(event, rules)
    assert redact(once, rules) == once
    assert repr(event) == before  # the original is not changed


@given(events, versions)
def test_redaction_only_ever_takes_away(event, rules):
    redacted = redact(event, rules)
    assert all(key in event for key in redacted)
    assert all(redacted[key] is event[key] for key in redacted if key != "content")
    assert "unsigned" not in redacted
    assert "redacts" not in redacted


def test_the_derived_events_keep_the_content_of_their_version(vectors):
    cases = vectors["derived"]["event_per_room_version"]
    checked = 0
    for vector in cases:
        for version, expected in vector["per_room_version"].items():
            redacted = redact(vector["event"], ROOM_VERSIONS[version])
            assert redacted["content"] == expected["redacted_content"], (vector["name"], version)
            checked += 1
    assert checked == 56


@pytest.mark.parametrize("rules", ROOM_VERSIONS.values(), ids=lambda rules: f"v{rules.version}")
def test_origin_membership_and_prev_state_are_kept_up_to_version_10(rules):
    event = {"type": "x", "content": {"a": 1}, "origin": "o", "membership": "join", "prev_state": [], "redacts": "$x"}
    expected = {"type": "x", "content": {}}
    if int(rules.version) <= 10:
        expected |= {"origin": "o", "membership": "join", "prev_state": []}
    assert redact(event, rules) == expected


@pytest.mark.parametrize(
    ("rules", "event_type", "content", "left"),
    [
        (V10, "m.room.create", {"creator": "@a:b", "m.federate": False}, {"creator": "@a:b"}),
        (V11, "m.room.create", {"creator": "@a:b", "m.federate": False}, {"creator": "@a:b", "m.federate": False}),
        (V5, "m.room.aliases", {"aliases": ["#a:b"]}, {"aliases": ["#a:b"]}),
        (V6, "m.room.aliases", {"aliases": ["#a:b"]}, {}),
        (
            V8,
            "m.room.member",
            {"membership": "join", "join_authorised_via_users_server": "@a:b"},
            {"membership": "join"},
        ),
        (V10, "m.room.member", {"third_party_invite": {"signed": {"x": 1}}}, {}),
        (
            V11,
            "m.room.member",
            {"third_party_invite": {"signed": {"x": 1}, "y": 1}},
            {"third_party_invite": {"signed": {"x": 1}}},
        ),
        (V11, "m.room.member", {"third_party_invite": {"y": 1}}, {"third_party_invite": {}}),
        (V11, "m.room.member", {"third_party_invite": "y"}, {}),
        (V9, "m.room.power_levels", {"invite": 1, "kick": 2, "notifications": {}}, {"kick": 2}),
        (V12, "m.room.power_levels", {"invite": 1, "kick": 2, "notifications": {}}, {"invite": 1, "kick": 2}),
        (V10, "m.room.redaction", {"redacts": "$x", "reason": "y"}, {}),
        (V11, "m.room.redaction", {"redacts": "$x", "reason": "y"}, {"redacts": "$x"}),
        (V12, "m.room.message", "not an object", {}),
        (V12, ["m.room.create"], {"a": 1}, {}),
    ],
)
def test_the_content_that_is_left_is_that_of_the_version(rules, event_type, content, left):
    assert redact({"type": event_type, "content": content}, rules)["content"] == left


def test_a_redacted_event_keeps_its_id_and_its_room():
    event = Event("$id", "!room:x", {"type": "m.room.message", "content": {"body": "x"}, "sender": "@a:x"}, V12)
    redacted = redact_event(event)
    assert (redacted.event_id, redacted.room_id, redacted.content) == ("$id", "!room:x", {})
    assert event.content == {"body": "x"}
