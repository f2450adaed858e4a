import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical_json import MAX_INTEGER
from homeserver.matrix.errors import BadJson, TooLarge
from homeserver.matrix.event_builder import Edge, EventDraft, build_event, next_depth
from homeserver.matrix.hashes import check_content_hash, event_from_pdu, reference_hash
from homeserver.matrix.room_versions import ROOM_VERSIONS, V2, V5, V6, V10, V11, V12
from homeserver.matrix.signing import SigningKey, verify_event_signature
from homeserver.matrix.unpadded_base64 import encode

KEY = SigningKey.generate("a", bytes(range(32)))
ROOM_V12 = "!" + "b" * 43
VERSIONS = pytest.mark.parametrize("rules", ROOM_VERSIONS.values(), ids=lambda rules: f"v{rules.version}")


def edge(rules, letter="a", depth=7):
    if rules.hashed_edges:
        return Edge(f"${letter}:example.org", depth, "hash")
    return Edge("$" + letter * 43, depth)


def build(draft, rules, **changes):
    arguments = {
        "rules": rules,
        "room_id": ROOM_V12 if rules.room_id_is_create_hash else "!r:example.org",
        "sender": "@u:example.org",
        "prev_events": [edge(rules)],
        "auth_events": [edge(rules, "b"), edge(rules, "c")],
        "origin_server_ts": 1_700_000_000_000,
        "server_name": "example.org",
        "key": KEY,
        "opaque_id": "opaque",
        **changes,
    }
    return build_event(draft, **arguments)


@VERSIONS
def test_a_built_event_is_what_a_receiver_makes_of_its_pdu(rules):
    event = build(EventDraft("m.room.message", {"body": "x", "org.unknown": [1]}), rules)
    received = event_from_pdu(event.pdu, rules)
    assert (received.event_id, received.room_id) == (event.event_id, event.room_id)
    assert check_content_hash(event.pdu, rules)
    verify_event_signature(event.pdu, rules, "example.org", {KEY.key_id: KEY.verify_key})
    assert (event.depth, event.origin_server_ts, event.sender) == (8, 1_700_000_000_000, "@u:example.org")
    assert event.content == {"body": "x", "org.unknown": [1]}
    assert not event.is_state
    assert event.prev_event_ids == [edge(rules).event_id]
    assert event.auth_event_ids == [edge(rules, "b").event_id, edge(rules, "c").event_id]


@VERSIONS
def test_a_redaction_has_its_target_where_the_version_wants_it(rules):
    event = build(EventDraft("m.room.redaction", {"reason": "spam"}, redacts="$target"), rules)
    assert event.redacts == "$target"
    if int(rules.version) >= 11:
        assert event.content == {"reason": "spam", "redacts": "$target"}
        assert "redacts" not in event.pdu
    else:
        assert event.content == {"reason": "spam"}
        assert event.pdu["redacts"] == "$target"


def test_a_state_event_has_its_key_even_when_it_is_empty():
    event = build(EventDraft("m.room.name", {"name": "x"}, state_key=""), V12)
    assert event.key == ("m.room.name", "")


def test_the_create_event_of_version_12_makes_its_room():
    draft = EventDraft("m.room.create", {"room_version": "12"}, state_key="")
    event = build(draft, V12, room_id=None, prev_events=[], auth_events=[])
    assert "room_id" not in event.pdu
    assert event.room_id == "!" + event.event_id[1:]
    assert event.depth == 1
    assert event_from_pdu(event.pdu, V12) == event


def test_old_versions_take_their_event_id_and_the_hashes_of_their_edges():
    first = build(EventDraft("m.room.message", {}), V2, prev_events=[], auth_events=[], opaque_id="first")
    assert first.event_id == "$first:example.org"
    second = build(EventDraft("m.room.message", {}), V2, prev_events=[Edge.to(first)], auth_events=[])
    assert second.pdu["prev_events"] == [["$first:example.org", {"sha256": encode(reference_hash(first.pdu, V2))}]]
    assert second.depth == 2


def test_an_edge_to_a_later_event_is_its_id_and_depth():
    event = build(EventDraft("m.room.message", {}), V10)
    assert Edge.to(event) == Edge(event.event_id, 8, None)


@pytest.mark.parametrize(
    ("draft", "rules", "changes"),
    [
        (EventDraft("m.room.create", {}, ""), V12, {}),
        (EventDraft("m.room.create", {}, ""), V11, {"room_id": None}),
        (EventDraft("m.room.message", {}), V12, {"room_id": None}),
        (EventDraft("m.room.message", {}), V2, {"opaque_id": None}),
        (EventDraft("m.room.message", {}), V2, {"prev_events": [Edge("$a:example.org", 1)]}),
    ],
)
def test_a_call_that_no_draft_excuses_is_a_value_error(draft, rules, changes):
    with pytest.raises(ValueError, match=r"room ID|opaque ID|reference hashes"):
        build(draft, rules, **changes)


@pytest.mark.parametrize(
    ("draft", "error"),
    [
        (EventDraft("m.room.message", {"n": 1.5}), BadJson),
        (EventDraft("m.room.message", {"n": 2**53}), BadJson),
        (EventDraft("m.room.message", {"s": "\ud800"}), BadJson),
        (EventDraft("m.room.message", ["not an object"]), BadJson),
        (EventDraft("m.room.message", {"body": "x" * 65_536}), TooLarge),
        (EventDraft("t" * 256, {}), TooLarge),
        (EventDraft("m.room.name", {}, state_key="k" * 256), TooLarge),
    ],
)
def test_a_draft_that_makes_no_valid_event_is_refused(draft, error):
    with pytest.raises(error):
        build(draft, V6)


def test_old_versions_bear_floats_but_no_number_of_more_than_53_bits():
    event = build(EventDraft("m.room.message", {"w": 1.5, "n": 2**53 - 1}), V5)
    assert check_content_hash(event.pdu, V5)
    for number in (2.0**70, -(2.0**53), 2**53, -(2**70), float("inf"), float("nan")):
        with pytest.raises(BadJson):
            build(EventDraft("m.room.message", {"a": [{"n": number}]}), V5)


@pytest.mark.parametrize(("rules", "limit"), [(V5, 2**63 - 1), (V6, 2**53 - 1)])
def test_the_depth_is_one_more_than_the_deepest_and_stops_at_the_limit(rules, limit):
    assert next_depth([], rules) == 1
    assert next_depth([Edge("$a", 3), Edge("$b", 9), Edge("$c", 4)], rules) == 10
    assert next_depth([Edge("$a", limit)], rules) == limit
    assert build(EventDraft("m.room.message", {}), rules, prev_events=[edge(rules, depth=limit)]).depth == limit


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
contents = st.dictionaries(
    texts, st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | texts | st.lists(texts, max_size=3)
)


@given(contents, st.sampled_from(list(ROOM_VERSIONS.values())), texts | st.none())
def test_any_content_is_hashed_signed_and_identified_as_a_receiver_does_it(content, rules, state_key):
    event = build(EventDraft("org.example", content, state_key=state_key), rules)
    assert event_from_pdu(event.pdu, rules).event_id == event.event_id
    assert check_content_hash(event.pdu, rules)
    verify_event_signature(event.pdu, rules, "example.org", {KEY.key_id: KEY.verify_key})
