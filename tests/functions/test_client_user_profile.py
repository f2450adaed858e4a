"""Profiles over HTTP: fields, limits, who may change them, and what the rooms are told."""

import copy

import pytest

from functions.harness import User, invoke, payload
from homeserver.services import membership, profile
from homeserver.storage import profiles
from homeserver.storage.profiles import Profile, profile_fields

ALICE = "/_matrix/client/v3/profile/@alice:example.org"
FUNCTION = "client_user"


@pytest.fixture
def told(monkeypatch) -> list[tuple[str, dict]]:
    """What the rooms were told, in order; the rooms themselves are another test's."""
    calls: list[tuple[str, dict]] = []
    monkeypatch.setattr(membership, "update_profile_in_rooms", lambda user_id, fields: calls.append((user_id, fields)))
    return calls


def as_user(name: str, user: User) -> dict:
    """A recorded event with the token of a user who exists in the test."""
    event = copy.deepcopy(payload(name))
    if "authorization" in event["headers"]:
        event["headers"]["authorization"] = f"Bearer {user.token}"
    return event


def test_the_recorded_payloads_set_read_and_delete_a_field(alice):
    assert invoke(FUNCTION, as_user("client_user_profile_field", alice)).json == {}
    assert invoke(FUNCTION, as_user("client_user_profile", alice)).json == {"displayname": "Alice Margatroid"}
    assert invoke(FUNCTION, as_user("client_user_profile_field_delete", alice)).json == {}
    assert invoke(FUNCTION, as_user("client_user_profile", alice)).json == {}


@pytest.mark.parametrize("version", ["r0", "v3"])
def test_fields_of_all_kinds_are_set_and_read_under_both_versions(checked, alice, version):
    base = ALICE.replace("v3", version)
    fields = {
        "displayname": "Ålice 🎩",
        "avatar_url": "mxc://example.org/SEsfnsuifSDFSSEF",
        "m.tz": "Europe/Berlin",
        "org.example.pronouns": ["she", {"her": True, "n": None, "half": 0.5}],
        "org.example.with-dash_1": None,
    }
    for key, value in fields.items():
        path = f"{base}/{key}"
        assert checked(FUNCTION, "PUT", path, {key: value}, token=alice.token)[:2] == (200, {})
        assert checked(FUNCTION, "GET", path)[:2] == (200, {key: value})
    assert checked(FUNCTION, "GET", base)[:2] == (200, fields)


def test_reading_needs_no_token_and_a_wrong_one_does_not_matter(call, alice):
    assert call(FUNCTION, "GET", ALICE, token="wrong").json == {"displayname": "alice"}


def test_who_does_not_exist_has_no_profile(checked, alice):
    for path in ("@nobody:example.org", "@nobody:example.org/displayname", "@alice:elsewhere.org"):
        assert checked(FUNCTION, "GET", f"/_matrix/client/v3/profile/{path}")[:2][0] == 404
        assert checked(FUNCTION, "GET", f"/_matrix/client/v3/profile/{path}").errcode == "M_NOT_FOUND"


def test_a_field_that_is_not_set_or_cannot_be_is_not_found(checked, alice):
    for key in ("avatar_url", "org.example.none", "NoSuch", "m.tz"):
        answer = checked(FUNCTION, "GET", f"{ALICE}/{key}")
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("user_id", ["alice", "@alice", "%40alice%20", "@alice:"])
def test_what_is_no_user_id_is_refused(checked, alice, user_id):
    answer = checked(FUNCTION, "GET", f"/_matrix/client/v3/profile/{user_id}")
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_a_user_id_with_a_slash_is_read_as_the_last_part_and_refused_before_it(call, register_slash):
    path = "/_matrix/client/v3/profile/@a%2Fb:example.org"
    assert call(FUNCTION, "GET", path).json == {"displayname": "a/b"}
    answer = call(FUNCTION, "PUT", f"{path}/displayname", {"displayname": "x"}, token=register_slash.token)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.fixture
def register_slash() -> User:
    from functions.harness import register

    return register("a/b")


@pytest.mark.parametrize(
    ("key", "body", "refusal"),
    [
        ("displayname", {}, (400, "M_MISSING_PARAM")),
        ("displayname", {"avatar_url": "mxc://example.org/a"}, (400, "M_MISSING_PARAM")),
        ("displayname", {"displayname": "A", "avatar_url": "mxc://example.org/a"}, (400, "M_BAD_JSON")),
        ("displayname", {"displayname": 7}, (400, "M_BAD_JSON")),
        ("displayname", {"displayname": None}, (400, "M_BAD_JSON")),
        ("displayname", [], (400, "M_BAD_JSON")),
        ("displayname", "{", (400, "M_NOT_JSON")),
        ("displayname", {"displayname": "é" * 513}, (413, "M_TOO_LARGE")),
        ("avatar_url", {"avatar_url": "https://example.org/a.png"}, (400, "M_BAD_JSON")),
        ("avatar_url", {"avatar_url": "mxc://example.org/" + "a" * 1024}, (413, "M_TOO_LARGE")),
        ("m.tz", {"m.tz": ["Europe/Berlin"]}, (400, "M_BAD_JSON")),
        ("Org.Example", {"Org.Example": 1}, (400, "M_INVALID_PARAM")),
        ("nickname", {"nickname": "Al"}, (400, "M_INVALID_PARAM")),
        ("org.exämple", {"org.exämple": 1}, (400, "M_INVALID_PARAM")),
        ("org." + "e" * 252, {"org." + "e" * 252: 1}, (400, "M_KEY_TOO_LARGE")),
        ("org.example.big", {"org.example.big": "x" * 65536}, (400, "M_PROFILE_TOO_LARGE")),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_stored(checked, alice, key, body, refusal):
    answer = checked(FUNCTION, "PUT", f"{ALICE}/{key}", body, token=alice.token)
    assert (answer.status, answer.errcode) == refusal
    assert checked(FUNCTION, "GET", ALICE).json == {"displayname": "alice"}


def test_a_value_too_deep_to_be_sent_out_again_is_refused(call, alice):
    body = '{"org.example.deep":' + "[" * 300 + "]" * 300 + "}"
    answer = call(FUNCTION, "PUT", f"{ALICE}/org.example.deep", body, token=alice.token)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


def test_the_whole_profile_stays_under_64_kib(call, alice):
    # {"displayname":"alice","org.example.big":"..."}: 44 bytes beside the value
    fits = 64 * 1024 - 1 - len('{"displayname":"alice","org.example.big":""}')
    path = f"{ALICE}/org.example.big"
    assert call(FUNCTION, "PUT", path, {"org.example.big": "x" * fits}, token=alice.token).status == 200
    over = call(FUNCTION, "PUT", f"{ALICE}/displayname", {"displayname": "alice!"}, token=alice.token)
    assert (over.status, over.errcode) == (400, "M_PROFILE_TOO_LARGE")
    assert call(FUNCTION, "GET", f"{ALICE}/displayname").json == {"displayname": "alice"}


def test_only_the_owner_changes_a_profile(checked, alice, bob):
    for method in ("PUT", "DELETE"):
        body = {"displayname": "Mallory"} if method == "PUT" else None
        answer = checked(FUNCTION, method, f"{ALICE}/displayname", body, token=bob.token)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        answer = checked(FUNCTION, method, f"{ALICE}/displayname", body)
        assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")
        answer = checked(FUNCTION, method, f"{ALICE}/displayname", body, token="unknown")
        assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert checked(FUNCTION, "GET", ALICE).json == {"displayname": "alice"}


def test_deleting_a_field_twice_is_no_error_and_a_bad_name_is(checked, alice):
    checked(FUNCTION, "PUT", f"{ALICE}/org.example.a", {"org.example.a": 1}, token=alice.token)
    for _ in range(2):
        assert checked(FUNCTION, "DELETE", f"{ALICE}/org.example.a", token=alice.token)[:2] == (200, {})
        assert checked(FUNCTION, "GET", ALICE).json == {"displayname": "alice"}
    answer = checked(FUNCTION, "DELETE", f"{ALICE}/Bad", token=alice.token)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_an_empty_name_or_picture_takes_it_away(call, alice):
    call(FUNCTION, "PUT", f"{ALICE}/avatar_url", {"avatar_url": "mxc://example.org/a"}, token=alice.token)
    for key in ("displayname", "avatar_url"):
        assert call(FUNCTION, "PUT", f"{ALICE}/{key}", {key: ""}, token=alice.token).status == 200
    assert call(FUNCTION, "GET", ALICE)[:2] == (200, {})


def test_the_rooms_are_told_of_names_and_pictures_only(call, alice, told):
    call(FUNCTION, "PUT", f"{ALICE}/displayname", {"displayname": "Alice"}, token=alice.token)
    call(FUNCTION, "PUT", f"{ALICE}/org.example.a", {"org.example.a": 1}, token=alice.token)
    call(FUNCTION, "PUT", f"{ALICE}/avatar_url", {"avatar_url": "mxc://example.org/a"}, token=alice.token)
    call(FUNCTION, "DELETE", f"{ALICE}/displayname", token=alice.token)
    shown = {"displayname": "Alice", "avatar_url": "mxc://example.org/a", "org.example.a": 1}
    assert told == [
        (alice.user_id, {"displayname": "Alice"}),
        (alice.user_id, shown),
        (alice.user_id, {k: v for k, v in shown.items() if k != "displayname"}),
    ]


def test_a_repeated_change_writes_nothing_but_tells_the_rooms_again(call, alice, told):
    for _ in range(2):
        call(FUNCTION, "PUT", f"{ALICE}/displayname", {"displayname": "Alice"}, token=alice.token)
    assert int(Profile.fetch(alice.user_id).version) == 2
    assert told == [(alice.user_id, {"displayname": "Alice"})] * 2


def test_the_rooms_end_with_the_name_that_was_stored_last(call, alice, monkeypatch):
    told: list[str] = []

    def overtaken(user_id, fields):
        told.append(fields["displayname"])
        if len(told) == 1:  # another request stored and told its own name while this one was telling
            before = Profile.fetch(user_id)
            profiles.replace_fields(before, profiles.pack_fields({"displayname": "second"}))

    monkeypatch.setattr(membership, "update_profile_in_rooms", overtaken)
    call(FUNCTION, "PUT", f"{ALICE}/displayname", {"displayname": "first"}, token=alice.token)
    assert told == ["first", "second"]


def test_two_fields_changed_at_the_same_time_are_both_kept(call, alice, monkeypatch):
    stale = Profile.fetch(alice.user_id)
    reads = iter([stale])
    fetch = Profile.fetch
    call(FUNCTION, "PUT", f"{ALICE}/org.example.first", {"org.example.first": 1}, token=alice.token)
    monkeypatch.setattr(profile.Profile, "fetch", lambda *key, **more: next(reads, None) or fetch(*key, **more))
    call(FUNCTION, "PUT", f"{ALICE}/org.example.second", {"org.example.second": 2}, token=alice.token)
    assert profile_fields(fetch(alice.user_id)) == {
        "displayname": "alice",
        "org.example.first": 1,
        "org.example.second": 2,
    }


def test_true_and_one_are_different_values(call, alice):
    for value in (1, True):
        call(FUNCTION, "PUT", f"{ALICE}/org.example.a", {"org.example.a": value}, token=alice.token)
    assert call(FUNCTION, "GET", f"{ALICE}/org.example.a").json["org.example.a"] is True


def test_a_deactivated_account_gets_no_profile_back(alice, told):
    Profile(alice.user_id).delete()
    with pytest.raises(profile.NotFound):
        profile._change(alice.user_id, lambda fields: {**fields, "displayname": "ghost"}, "displayname")
    assert Profile.fetch(alice.user_id) is None
    assert told == []


def test_a_new_name_shows_in_a_room_that_the_user_is_in(call, alice):
    room_id = call("client_rooms", "POST", "/_matrix/client/v3/createRoom", {}, token=alice.token).json["room_id"]
    call(FUNCTION, "PUT", f"{ALICE}/displayname", {"displayname": "Alice M."}, token=alice.token)
    path = f"/_matrix/client/v3/rooms/{room_id}/joined_members"
    joined = call("client_history", "GET", path, token=alice.token).json["joined"]
    assert joined[alice.user_id]["display_name"] == "Alice M."
