import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError
from homeserver.matrix.filters import (
    EventFilter,
    Filter,
    RoomEventFilter,
    RoomFilter,
    TypePatterns,
    parse_filter,
    parse_room_event_filter,
    project_event_fields,
    split_property_path,
)

ROOM = "!kitchen:example.org"
OTHER_ROOM = "!cellar:example.org"
ALICE = "@alice:example.org"
BOB = "@bob:example.org"
MESSAGE = {"type": "m.room.message", "sender": ALICE, "content": {"body": "hi", "msgtype": "m.text"}}
IMAGE = {"type": "m.room.message", "sender": BOB, "content": {"url": "mxc://example.org/a", "msgtype": "m.image"}}
TYPING = {"type": "m.typing", "content": {"user_ids": [ALICE]}}


def presence_filter(**fields):
    return parse_filter({"presence": fields}).presence


# ── Matching ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "event_type", "sender", "verdict"),
    [
        ({}, "m.presence", ALICE, True),
        ({"types": ["m.presence"]}, "m.presence", ALICE, True),
        ({"types": ["m.presence"]}, "m.other", ALICE, False),
        ({"types": []}, "m.presence", ALICE, False),
        ({"not_types": ["m.presence"]}, "m.presence", ALICE, False),
        ({"not_types": ["m.presence"]}, "m.other", ALICE, True),
        ({"types": ["m.presence"], "not_types": ["m.pres*"]}, "m.presence", ALICE, False),
        ({"senders": [ALICE]}, "m.presence", ALICE, True),
        ({"senders": [ALICE]}, "m.presence", BOB, False),
        ({"senders": [ALICE]}, "m.presence", None, False),
        ({"senders": []}, "m.presence", ALICE, False),
        ({"not_senders": [ALICE]}, "m.presence", ALICE, False),
        ({"not_senders": [ALICE]}, "m.presence", BOB, True),
        ({"not_senders": [ALICE]}, "m.presence", None, True),
        ({"senders": [ALICE], "not_senders": [ALICE]}, "m.presence", ALICE, False),
        ({"types": ["m.presence"], "senders": [BOB]}, "m.presence", ALICE, False),
    ],
)
def test_an_event_filter_decides_by_type_and_sender(fields, event_type, sender, verdict):
    assert presence_filter(**fields).matches(event_type, sender) is verdict


@pytest.mark.parametrize(
    ("pattern", "event_type", "verdict"),
    [
        ("*", "", True),
        ("*", "m.room.message", True),
        ("**", "m.room.message", True),
        ("m.room.*", "m.room.message", True),
        ("m.room.*", "m.room.", True),
        ("m.room.*", "m.room", False),
        ("m.room.*", "m_room_message", False),
        ("*.message", "m.room.message", True),
        ("*.message", "m.room.messages", False),
        ("m.*.message", "m.room.message", True),
        ("m.*.message", "m.message", False),
        ("m.*o*.m*e", "m.room.message", True),
        ("a*a", "a", False),
        ("a*ba*a", "aba", False),
        ("m.room.message", "m.room.message", True),
        ("m.room.messag?", "m.room.message", False),
        ("M.ROOM.*", "m.room.message", False),
        ("", "", True),
        ("", "m", False),
    ],
)
def test_a_star_in_a_type_stands_for_any_run_of_characters(pattern, event_type, verdict):
    assert presence_filter(types=[pattern]).matches(event_type, ALICE) is verdict
    assert presence_filter(not_types=[pattern]).matches(event_type, ALICE) is not verdict


@given(st.text("ab*", max_size=7), st.text("ab", max_size=7))
def test_wildcards_match_as_their_definition_says(pattern, text):
    def by_definition(p, t):
        if not p:
            return not t
        if p[0] == "*":
            return any(by_definition(p[1:], t[n:]) for n in range(len(t) + 1))
        return t[:1] == p[0] and by_definition(p[1:], t[1:])

    assert TypePatterns.of([pattern]).match(text) is by_definition(pattern, text)


def test_a_pattern_of_many_stars_is_no_way_to_keep_the_server_busy():
    patterns = TypePatterns.of(["a*" * 10_000 + "b"])
    assert patterns.match("a" * 60_000) is False
    assert patterns.match("a" * 60_000 + "b") is True


@pytest.mark.parametrize(
    ("fields", "event", "room_id", "verdict"),
    [
        ({}, MESSAGE, ROOM, True),
        ({}, TYPING, ROOM, True),
        ({"types": ["m.room.*"]}, MESSAGE, ROOM, True),
        ({"types": ["m.room.*"]}, TYPING, ROOM, False),
        ({"not_types": ["m.typing"]}, MESSAGE, ROOM, True),
        ({"not_types": ["m.typing"]}, TYPING, ROOM, False),
        ({"senders": [ALICE]}, MESSAGE, ROOM, True),
        ({"senders": [ALICE]}, IMAGE, ROOM, False),
        ({"not_senders": [ALICE]}, MESSAGE, ROOM, False),
        ({"not_senders": [ALICE]}, TYPING, ROOM, True),
        ({"rooms": [ROOM]}, MESSAGE, ROOM, True),
        ({"rooms": [ROOM]}, MESSAGE, OTHER_ROOM, False),
        ({"rooms": []}, MESSAGE, ROOM, False),
        ({"not_rooms": [ROOM]}, MESSAGE, ROOM, False),
        ({"not_rooms": [ROOM]}, MESSAGE, OTHER_ROOM, True),
        ({"rooms": [ROOM], "not_rooms": [ROOM]}, MESSAGE, ROOM, False),
        ({"contains_url": True}, IMAGE, ROOM, True),
        ({"contains_url": True}, MESSAGE, ROOM, False),
        ({"contains_url": False}, IMAGE, ROOM, False),
        ({"contains_url": False}, MESSAGE, ROOM, True),
        ({"contains_url": False}, {"type": "m.odd", "content": "url"}, ROOM, True),
        ({"contains_url": True}, {"type": "m.odd"}, ROOM, False),
        ({"rooms": [ROOM], "types": ["m.*"], "senders": [BOB], "contains_url": True}, IMAGE, ROOM, True),
    ],
)
def test_a_room_event_filter_decides_by_event_and_room(fields, event, room_id, verdict):
    assert parse_room_event_filter(fields).matches(event, room_id) is verdict


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, False),
        ({"not_types": ["*"]}, True),
        ({"not_types": ["m.typing", "***"]}, True),
        ({"not_types": ["m.*"]}, False),
        ({"types": []}, True),
        ({"types": ["*"]}, False),
        ({"types": ["m.typing"]}, False),
        ({"senders": []}, True),
        ({"senders": [ALICE], "not_senders": [ALICE, BOB]}, True),
        ({"senders": [ALICE], "not_senders": [BOB]}, False),
    ],
)
def test_a_filter_says_when_nothing_can_pass(fields, verdict):
    assert presence_filter(**fields).excludes_everything is verdict
    assert parse_room_event_filter(fields).excludes_everything is verdict


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"rooms": []}, True),
        ({"rooms": [ROOM], "not_rooms": [ROOM]}, True),
        ({"rooms": [ROOM]}, False),
        ({"not_rooms": [ROOM]}, False),
    ],
)
def test_a_filter_says_when_no_room_can_pass(fields, verdict):
    assert parse_room_event_filter(fields).excludes_everything is verdict
    assert parse_filter({"room": fields}).room.excludes_everything is verdict


@pytest.mark.parametrize(
    ("fields", "room_id", "verdict"),
    [
        ({}, ROOM, True),
        ({"rooms": [ROOM]}, ROOM, True),
        ({"rooms": [ROOM]}, OTHER_ROOM, False),
        ({"not_rooms": [ROOM]}, ROOM, False),
        ({"not_rooms": [ROOM]}, OTHER_ROOM, True),
        ({"rooms": [ROOM], "not_rooms": [ROOM]}, ROOM, False),
    ],
)
def test_rooms_are_filtered_before_their_parts(fields, room_id, verdict):
    assert parse_filter({"room": fields}).room.includes_room(room_id) is verdict
    assert parse_room_event_filter(fields).includes_room(room_id) is verdict


def test_the_limit_is_the_clients_or_the_default_but_never_above_the_cap():
    assert presence_filter().limit_within(default=10, cap=100) == 10
    assert presence_filter(limit=20).limit_within(default=10, cap=100) == 20
    assert presence_filter(limit=2**70).limit_within(default=10, cap=100) == 100
    assert presence_filter().limit_within(default=10, cap=5) == 5


# ── Parsing ──────────────────────────────────────────────────────────────────


def test_an_empty_filter_lets_everything_pass():
    assert parse_filter({}) == Filter()
    assert parse_filter({"room": {"state": {}, "timeline": {}}, "presence": {}}) == Filter()
    assert Filter().event_format == "client"
    assert Filter().event_fields is None
    assert Filter().room == RoomFilter(include_leave=False)


def test_every_part_of_a_filter_goes_to_its_place():
    parsed = parse_filter(
        {
            "event_format": "federation",
            "event_fields": ["type", "content.body"],
            "presence": {"types": ["m.presence"], "limit": 3},
            "account_data": {"not_types": ["*"]},
            "room": {
                "rooms": [ROOM],
                "not_rooms": [OTHER_ROOM],
                "include_leave": True,
                "state": {"lazy_load_members": True, "include_redundant_members": True},
                "timeline": {"limit": 7, "unread_thread_notifications": True},
                "ephemeral": {"senders": [ALICE]},
                "account_data": {"not_senders": [BOB], "org.example.unknown": 5},
                "org.example.unknown": 5,
            },
            "org.example.unknown": 5,
        }
    )
    assert parsed == Filter(
        event_format="federation",
        event_fields=("type", "content.body"),
        presence=EventFilter(types=TypePatterns.of(["m.presence"]), limit=3),
        account_data=EventFilter(not_types=TypePatterns.of(["*"])),
        room=RoomFilter(
            rooms=frozenset({ROOM}),
            not_rooms=frozenset({OTHER_ROOM}),
            include_leave=True,
            state=RoomEventFilter(lazy_load_members=True, include_redundant_members=True),
            timeline=RoomEventFilter(limit=7, unread_thread_notifications=True),
            ephemeral=RoomEventFilter(senders=frozenset({ALICE})),
            account_data=RoomEventFilter(not_senders=frozenset({BOB})),
        ),
    )


def test_conditions_on_relations_are_kept_for_who_reads_relations():
    parsed = parse_room_event_filter({"related_by_senders": [ALICE], "related_by_rel_types": ["m.thread"]})
    assert parsed.related_by_senders == {ALICE}
    assert parsed.related_by_rel_types == {"m.thread"}
    assert parsed.needs_relations is True
    assert parsed.matches(MESSAGE, ROOM) is True
    assert parse_room_event_filter({"related_by_rel_types": []}).needs_relations is True
    assert parse_room_event_filter({"types": ["m.room.message"]}).needs_relations is False


@pytest.mark.parametrize(
    ("obj", "place"),
    [
        ([], "filter"),
        (None, "filter"),
        ({"room": []}, "filter.room"),
        ({"presence": "all"}, "filter.presence"),
        ({"account_data": None}, "filter.account_data"),
        ({"event_format": 1}, "filter.event_format"),
        ({"event_fields": "type"}, "filter.event_fields"),
        ({"event_fields": [1]}, "filter.event_fields"),
        ({"room": {"rooms": "not a list"}}, "filter.room.rooms"),
        ({"room": {"not_rooms": {}}}, "filter.room.not_rooms"),
        ({"room": {"include_leave": "yes"}}, "filter.room.include_leave"),
        ({"room": {"state": 1}}, "filter.room.state"),
        ({"room": {"timeline": {"types": "m.room.message"}}}, "filter.room.timeline.types"),
        ({"room": {"timeline": {"not_types": [None]}}}, "filter.room.timeline.not_types"),
        ({"room": {"timeline": {"senders": [1]}}}, "filter.room.timeline.senders"),
        ({"room": {"timeline": {"not_senders": ALICE}}}, "filter.room.timeline.not_senders"),
        ({"room": {"timeline": {"rooms": ROOM}}}, "filter.room.timeline.rooms"),
        ({"room": {"timeline": {"not_rooms": [[ROOM]]}}}, "filter.room.timeline.not_rooms"),
        ({"room": {"timeline": {"limit": "10"}}}, "filter.room.timeline.limit"),
        ({"room": {"timeline": {"limit": 1.5}}}, "filter.room.timeline.limit"),
        ({"room": {"timeline": {"limit": True}}}, "filter.room.timeline.limit"),
        ({"room": {"timeline": {"contains_url": 1}}}, "filter.room.timeline.contains_url"),
        ({"room": {"state": {"lazy_load_members": "true"}}}, "filter.room.state.lazy_load_members"),
        ({"room": {"state": {"include_redundant_members": 0}}}, "filter.room.state.include_redundant_members"),
        ({"room": {"timeline": {"unread_thread_notifications": []}}}, "timeline.unread_thread_notifications"),
        ({"room": {"timeline": {"related_by_senders": ALICE}}}, "filter.room.timeline.related_by_senders"),
        ({"room": {"timeline": {"related_by_rel_types": [1]}}}, "filter.room.timeline.related_by_rel_types"),
        ({"room": {"ephemeral": {"types": 1}}}, "filter.room.ephemeral.types"),
        ({"room": {"account_data": {"types": 1}}}, "filter.room.account_data.types"),
    ],
)
def test_a_value_of_the_wrong_type_is_bad_json_that_names_the_key(obj, place):
    with pytest.raises(BadJson, match=place + " ") as raised:
        parse_filter(obj)
    assert (raised.value.status, raised.value.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    ("obj", "place"),
    [
        ({"event_format": "xml"}, "filter.event_format"),
        ({"presence": {"limit": 0}}, "filter.presence.limit"),
        ({"presence": {"limit": -1}}, "filter.presence.limit"),
        ({"presence": {"senders": ["alice"]}}, "filter.presence.senders"),
        ({"presence": {"not_senders": [ALICE, ""]}}, "filter.presence.not_senders"),
        ({"room": {"rooms": ["kitchen"]}}, "filter.room.rooms"),
        ({"room": {"timeline": {"rooms": ["#alias:example.org"]}}}, "filter.room.timeline.rooms"),
        ({"room": {"timeline": {"not_rooms": [""]}}}, "filter.room.timeline.not_rooms"),
        ({"room": {"timeline": {"related_by_senders": ["bob"]}}}, "filter.room.timeline.related_by_senders"),
    ],
)
def test_a_value_that_cannot_be_is_an_invalid_parameter_that_names_the_key(obj, place):
    with pytest.raises(InvalidParam, match=place + " ") as raised:
        parse_filter(obj)
    assert (raised.value.status, raised.value.errcode) == (400, "M_INVALID_PARAM")


filter_keys = st.sampled_from(
    [
        *("room", "presence", "account_data", "event_format", "event_fields", "state", "timeline", "ephemeral"),
        *("rooms", "not_rooms", "types", "not_types", "senders", "not_senders", "limit", "contains_url"),
        *("include_leave", "lazy_load_members", "related_by_senders", "related_by_rel_types"),
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["*", "client", ALICE, ROOM]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(filter_keys | st.text(), inner, max_size=5),
    max_leaves=15,
)


@given(json_values)
def test_any_json_is_a_filter_or_a_matrix_error(obj):
    try:
        parsed = parse_filter(obj)
    except MatrixError:
        return
    assert parsed.room.timeline.matches(MESSAGE, ROOM) in {True, False}
    if parsed.room.timeline.excludes_everything:
        assert not parsed.room.timeline.matches(MESSAGE, ROOM)


# ── Fields ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("type", ("type",)),
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to.key", ("content", "m.relates_to", "key")),
        (r"a\\.b", ("a\\", "b")),
        (r"a\\\.b", ("a\\.b",)),
        (r"a\xb", (r"a\xb",)),
        ("a\\", ("a\\",)),
        ("", ("",)),
        (".a..", ("", "a", "", "")),
    ],
)
def test_property_paths_are_split_at_dots_that_are_not_escaped(text, names):
    assert split_property_path(text) == names


@given(st.lists(st.text("a.\\", max_size=4), min_size=1, max_size=4))
def test_escaped_names_come_back_from_a_path(names):
    escaped = ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in names)
    assert split_property_path(escaped) == tuple(names)


EVENT = {
    "type": "m.room.message",
    "sender": ALICE,
    "content": {
        "body": "hi",
        "m.relates_to": {"rel_type": "m.thread", "event_id": "$root"},
        "info": {"w": 1, "h": 2},
        "list": [{"a": 1}],
        "nothing": None,
    },
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], {}),
        (["type", "sender"], {"type": "m.room.message", "sender": ALICE}),
        (["content.body"], {"content": {"body": "hi"}}),
        (["content.info.w", "content.info.h"], {"content": {"info": {"w": 1, "h": 2}}}),
        ([r"content.m\.relates_to.rel_type"], {"content": {"m.relates_to": {"rel_type": "m.thread"}}}),
        (["content.m.relates_to"], {}),
        (["content.nothing"], {"content": {"nothing": None}}),
        (["content.nothing.deeper", "content.body.deeper", "unsigned.age", "absent", ""], {}),
        (["content.list.0", "content.list.a"], {}),
        (["content.list"], {"content": {"list": [{"a": 1}]}}),
        (["content", "content.body"], {"content": EVENT["content"]}),
        (["content.body", "content"], {"content": EVENT["content"]}),
        (["content.info.w", "content.info", "content.info"], {"content": {"info": {"w": 1, "h": 2}}}),
    ],
)
def test_only_the_fields_that_were_asked_for_remain(fields, expected):
    before = repr(EVENT)
    assert project_event_fields(EVENT, fields) == expected
    assert repr(EVENT) == before


def test_projecting_never_changes_the_event_even_where_paths_overlap():
    event = {"a": {"b": {"c": 1}, "d": {}}}
    assert project_event_fields(event, ["a.d", "a.b.c", "a.b", "a.d.e"]) == {"a": {"b": {"c": 1}, "d": {}}}
    assert event == {"a": {"b": {"c": 1}, "d": {}}}
