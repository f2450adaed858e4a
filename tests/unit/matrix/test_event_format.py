import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical_json import encode_canonical
from homeserver.matrix.errors import BadJson, TooLarge
from homeserver.matrix.event_format import MAX_EVENT_BYTES, check_event_format
from homeserver.matrix.hashes import event_from_pdu
from homeserver.matrix.identifiers import is_event_id
from homeserver.matrix.room_versions import ROOM_VERSIONS, V1, V2, V3, V4, V5, V6, V11, V12
from homeserver.matrix.signing import servers_that_must_sign

ID = "$" + "a" * 43
ROOM_V12 = "!" + "b" * 43
ABSENT = object()


def pdu(rules, **changes):
    hashed = [["$p:example.org", {"sha256": "abc"}]]
    event = {
        "type": "m.room.message",
        "sender": "@u:example.org",
        "room_id": ROOM_V12 if rules.room_id_is_create_hash else "!r:example.org",
        "content": {"body": "x"},
        "depth": 1,
        "origin_server_ts": 1,
        "auth_events": hashed if rules.hashed_edges else [ID],
        "prev_events": hashed if rules.hashed_edges else [ID],
        "hashes": {"sha256": "abc"},
        "signatures": {"example.org": {"ed25519:a": "abc"}},
        **({"event_id": "$e:example.org"} if rules.hashed_edges else {}),
        **changes,
    }
    return {key: value for key, value in event.items() if value is not ABSENT}


def nested(levels):
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("rules", ROOM_VERSIONS.values(), ids=lambda rules: f"v{rules.version}")
def test_a_well_formed_event_of_every_version_passes(rules):
    check_event_format(pdu(rules), rules)
    check_event_format(pdu(rules, state_key="", unsigned={"age": 1.5}, unknown=[1]), rules)
    check_event_format(pdu(rules, sender="@Historical User:example.org"), rules)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data(), st.sampled_from(list(ROOM_VERSIONS.values())))
def test_any_json_in_any_field_makes_an_event_or_is_bad_json_or_too_large(data, rules):
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(pdu(V1))), json_values, min_size=1, max_size=3))
    event = pdu(rules, **changes)
    try:
        check_event_format(event, rules)
    except (BadJson, TooLarge):
        return
    # What passes can be identified without further checks.
    assert is_event_id(event_from_pdu(event, rules).event_id, rules.event_id_format)
    assert all(isinstance(server, str) for server in servers_that_must_sign(event, rules))


MALFORMED = [
    ("type", [ABSENT, None, 1, {}]),
    ("sender", [ABSENT, None, "u:example.org", "@u", "@u:exa mple", 7]),
    ("room_id", [ABSENT, None, "r", "#r:example.org", 7]),
    ("content", [ABSENT, None, [], "x"]),
    ("depth", [ABSENT, None, -1, True, "1", 2**63]),
    ("origin_server_ts", [ABSENT, None, True, "1", 1.5]),
    ("state_key", [None, 1, {}]),
    ("redacts", [None, 1, []]),
    ("hashes", [ABSENT, None, [], {}, {"sha256": 1}, {"md5": "x"}]),
    ("signatures", [ABSENT, None, [], {"example.org": "x"}, {"example.org": {"ed25519:a": 1}}]),
    ("auth_events", [ABSENT, None, {}, "x", [1], [None], ["x"], [[]]]),
    ("prev_events", [ABSENT, None, {}, "x", [1], [None], ["x"], [[]]]),
]


@pytest.mark.parametrize("rules", [V1, V3, V5, V6, V11, V12], ids=lambda rules: f"v{rules.version}")
@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in MALFORMED for value in values])
def test_a_missing_or_malformed_field_is_bad_json_that_names_it(rules, key, value):
    with pytest.raises(BadJson, match=key):
        check_event_format(pdu(rules, **{key: value}), rules)


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_what_is_no_object_is_no_event(value):
    with pytest.raises(BadJson, match="not an object"):
        check_event_format(value, V12)


@pytest.mark.parametrize("rules", ROOM_VERSIONS.values(), ids=lambda rules: f"v{rules.version}")
def test_ten_auth_events_and_twenty_previous_events_are_the_most(rules):
    (edge,) = pdu(rules)["prev_events"]
    check_event_format(pdu(rules, auth_events=[edge] * 10, prev_events=[edge] * 20), rules)
    with pytest.raises(BadJson, match="auth_events has more than 10"):
        check_event_format(pdu(rules, auth_events=[edge] * 11), rules)
    with pytest.raises(BadJson, match="prev_events has more than 20"):
        check_event_format(pdu(rules, prev_events=[edge] * 21), rules)


@pytest.mark.parametrize(
    "edge",
    [ID, ["$p:example.org"], ["$p:example.org", {}], ["$p:example.org", {"sha256": 1}], [ID, {"sha256": "x"}], "$p:x"],
)
def test_the_edges_of_old_versions_are_pairs_of_an_id_and_its_hash(edge):
    with pytest.raises(BadJson, match="prev_events"):
        check_event_format(pdu(V2, prev_events=[edge]), V2)


@pytest.mark.parametrize(
    ("rules", "edge"),
    [(V3, "$" + "-" * 43), (V4, "$" + "+" * 43), (V4, "$p:example.org"), (V12, ["$p:x", {"sha256": "x"}])],
)
def test_the_edges_of_later_versions_are_ids_of_their_format(rules, edge):
    with pytest.raises(BadJson, match="auth_events"):
        check_event_format(pdu(rules, auth_events=[edge]), rules)


@pytest.mark.parametrize("value", [ABSENT, None, 1, ID, "$e", "e:example.org"])
def test_old_versions_have_their_event_id_in_the_event(value):
    with pytest.raises(BadJson, match="event_id"):
        check_event_format(pdu(V1, event_id=value), V1)


def test_room_ids_have_the_form_of_their_version():
    with pytest.raises(BadJson, match="room_id"):
        check_event_format(pdu(V11, room_id=ROOM_V12), V11)
    with pytest.raises(BadJson, match="room_id"):
        check_event_format(pdu(V12, room_id="!r:example.org"), V12)


def test_the_create_event_has_a_room_id_up_to_version_11_and_none_in_version_12():
    check_event_format(pdu(V12, type="m.room.create", room_id=ABSENT), V12)
    with pytest.raises(BadJson, match="no room_id"):
        check_event_format(pdu(V12, type="m.room.create"), V12)
    check_event_format(pdu(V11, type="m.room.create"), V11)
    with pytest.raises(BadJson, match="room_id"):
        check_event_format(pdu(V11, type="m.room.create", room_id=ABSENT), V11)


def test_the_depth_ends_at_53_bits_from_version_6_and_at_63_before():
    check_event_format(pdu(V5, depth=2**63 - 1), V5)
    check_event_format(pdu(V6, depth=2**53 - 1), V6)
    with pytest.raises(BadJson, match="depth"):
        check_event_format(pdu(V6, depth=2**53), V6)


@pytest.mark.parametrize("number", [1.5, 1.0, -0.0, 2**53, -(2**53), 2**70, float("nan")])
def test_numbers_outside_canonical_json_are_bad_json_from_version_6(number):
    with pytest.raises(BadJson, match=r"canonical JSON: content\.n"):
        check_event_format(pdu(V6, content={"n": number}), V6)
    if not math.isnan(number):  # no JSON has NaN
        check_event_format(pdu(V5, content={"n": number}), V5)


@pytest.mark.parametrize("rules", [V5, V12], ids=lambda rules: f"v{rules.version}")
def test_deep_nesting_is_bad_json_and_no_crash(rules):
    check_event_format(pdu(rules, content=nested(190)), rules)
    with pytest.raises(BadJson, match="levels"):
        check_event_format(pdu(rules, content=nested(50_000)), rules)


@pytest.mark.parametrize("rules", [V5, V12], ids=lambda rules: f"v{rules.version}")
def test_a_lone_surrogate_is_bad_json(rules):
    for changes in ({"type": "\ud800"}, {"state_key": "\ud800"}, {"content": {"\ud800": 1}}):
        with pytest.raises(BadJson, match="surrogate"):
            check_event_format(pdu(rules, **changes), rules)


def test_an_event_of_65536_bytes_passes_and_one_byte_more_is_too_large():
    room = MAX_EVENT_BYTES - len(encode_canonical(pdu(V12, content={"body": ""})))
    check_event_format(pdu(V12, content={"body": "x" * room}), V12)
    check_event_format(pdu(V12, content={"body": "x" * room}, unsigned={"a": "x" * 99_999}), V12)
    with pytest.raises(TooLarge, match="65537 bytes") as refused:
        check_event_format(pdu(V12, content={"body": "x" * (room + 1)}), V12)
    assert (refused.value.status, refused.value.errcode) == (413, "M_TOO_LARGE")
    with pytest.raises(TooLarge):
        check_event_format(pdu(V12, content={"body": "é" * (room // 2 + 1)}), V12)


@pytest.mark.parametrize(
    ("rules", "key", "longest"),
    [
        (V12, "type", "é" * 127 + "x"),
        (V12, "state_key", "é" * 127 + "x"),
        (V12, "sender", "@" + "u" * 252 + ":x"),
        (V11, "room_id", "!" + "r" * 252 + ":x"),
        (V1, "event_id", "$" + "e" * 252 + ":x"),
    ],
)
def test_a_field_of_255_bytes_passes_and_one_byte_more_is_too_large(rules, key, longest):
    assert len(longest.encode()) == 255
    check_event_format(pdu(rules, **{key: longest}), rules)
    with pytest.raises(TooLarge, match=key):
        check_event_format(pdu(rules, **{key: longest + "x"}), rules)
