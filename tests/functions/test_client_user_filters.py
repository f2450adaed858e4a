"""Filters over HTTP, and as /sync loads them."""

import pytest

from functions.harness import invoke
from functions.test_client_user_profile import as_user
from homeserver.matrix.errors import BadJson, InvalidParam, NotJson
from homeserver.matrix.filters import parse_filter
from homeserver.services.filters import load_filter
from homeserver.storage.user_data import UserData, all_of

FUNCTION = "client_user"
FILTERS = "/_matrix/client/v3/user/@alice:example.org/filter"
DEFINITION = {
    "room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 10, "types": ["m.room.*"]}},
    "event_fields": ["type", "content.body"],
}


def test_the_recorded_payload_stores_a_filter(alice):
    filter_id = invoke(FUNCTION, as_user("client_user_filter", alice)).json["filter_id"]
    found = load_filter(alice.user_id, filter_id)
    assert (found.room.timeline.limit, found.room.state.lazy_load_members) == (20, True)


@pytest.mark.parametrize("version", ["r0", "v3"])
def test_a_filter_is_stored_and_read_back(checked, alice, version):
    base = FILTERS.replace("v3", version)
    created = checked(FUNCTION, "POST", base, DEFINITION, token=alice.token)
    assert created.status == 200
    filter_id = created.json["filter_id"]
    assert not filter_id.startswith("{")
    assert checked(FUNCTION, "GET", f"{base}/{filter_id}", token=alice.token)[:2] == (200, DEFINITION)
    assert load_filter(alice.user_id, filter_id) == parse_filter(DEFINITION)


def test_the_same_filter_has_the_same_id_and_is_stored_once(call, alice):
    first = call(FUNCTION, "POST", FILTERS, '{"room": {}, "presence": {"limit": 1}}', token=alice.token).json
    again = call(FUNCTION, "POST", FILTERS, '{"presence":{"limit":1},"room":{}}', token=alice.token).json
    other = call(FUNCTION, "POST", FILTERS, {"presence": {"limit": 2}}, token=alice.token).json
    assert first == again != other
    assert len(list(UserData.query(alice.user_id))) == 2
    assert all_of(alice.user_id) == []  # filters are no account data


def test_keys_that_the_specification_does_not_know_are_kept(call, alice):
    definition = {"org.example.extra": {"a": [1.5]}, "room": {"org.example": True}}
    filter_id = call(FUNCTION, "POST", FILTERS, definition, token=alice.token).json["filter_id"]
    assert call(FUNCTION, "GET", f"{FILTERS}/{filter_id}", token=alice.token).json == definition


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ("[", 400, "M_NOT_JSON"),
        ([], 400, "M_BAD_JSON"),
        ({"room": []}, 400, "M_BAD_JSON"),
        ({"room": {"timeline": {"limit": "10"}}}, 400, "M_BAD_JSON"),
        ({"room": {"timeline": {"limit": 0}}}, 400, "M_INVALID_PARAM"),
        ({"event_format": "other"}, 400, "M_INVALID_PARAM"),
        ('{"x":' + "[" * 300 + "]" * 300 + "}", 400, "M_BAD_JSON"),
        ({"event_fields": ["x" * 65536]}, 413, "M_TOO_LARGE"),
    ],
)
def test_what_is_no_filter_is_refused_and_nothing_is_stored(checked, alice, body, status, errcode):
    answer = checked(FUNCTION, "POST", FILTERS, body, token=alice.token)
    assert (answer.status, answer.errcode) == (status, errcode)
    assert list(UserData.query(alice.user_id)) == []


def test_only_the_owner_stores_and_reads_filters(checked, alice, bob):
    filter_id = checked(FUNCTION, "POST", FILTERS, DEFINITION, token=alice.token).json["filter_id"]
    answers = [
        checked(FUNCTION, "POST", FILTERS, DEFINITION, token=bob.token),
        checked(FUNCTION, "GET", f"{FILTERS}/{filter_id}", token=bob.token),
    ]
    assert [(answer.status, answer.errcode) for answer in answers] == [(403, "M_FORBIDDEN")] * 2
    own = FILTERS.replace("alice", "bob")
    assert checked(FUNCTION, "GET", f"{own}/{filter_id}", token=bob.token).status == 404
    assert checked(FUNCTION, "POST", FILTERS, DEFINITION).errcode == "M_MISSING_TOKEN"


@pytest.mark.parametrize("filter_id", ["unknown", "%23", "a%20b", "x" * 300])
def test_an_unknown_filter_is_not_found(checked, alice, filter_id):
    answer = checked(FUNCTION, "GET", f"{FILTERS}/{filter_id}", token=alice.token)
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


def test_sync_takes_a_filter_inline_or_by_id_and_refuses_the_rest(alice, bob, call):
    assert load_filter(alice.user_id, '{"room":{"timeline":{"limit":3}}}').room.timeline.limit == 3
    filter_id = call(FUNCTION, "POST", FILTERS, {"presence": {"limit": 4}}, token=alice.token).json["filter_id"]
    assert load_filter(alice.user_id, filter_id).presence.limit == 4
    for user, text, error in [
        (bob, filter_id, InvalidParam),
        (alice, "66696p746572", InvalidParam),
        (alice, "", InvalidParam),
        (alice, "{", NotJson),
        (alice, '{"room":1}', BadJson),
    ]:
        with pytest.raises(error):
            load_filter(user.user_id, text)


def test_a_filter_that_was_loaded_once_is_not_read_again(alice, call, monkeypatch):
    filter_id = call(FUNCTION, "POST", FILTERS, {"presence": {"limit": 5}}, token=alice.token).json["filter_id"]
    first = load_filter(alice.user_id, filter_id)
    monkeypatch.setattr(UserData, "fetch", classmethod(lambda *_, **__: pytest.fail("read again")))
    assert load_filter(alice.user_id, filter_id) is first
