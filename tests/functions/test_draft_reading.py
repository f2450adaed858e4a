"""What a client of 2014 reads of rooms, events, people and the directory, and how it is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from functions.draft_reading import (
    JSON,
    OLD_L,
    L,
    events,
    give_alias,
    ok,
    publish,
    react,
    read,
    room_in,
    snapshot,
    where,
)
from functions.harness import PASSWORD, Answer, User, call, invoke, payload, register
from functions.rooms import create_room, event, follow, messages, path, post, redact, say, set_state, state, texts
from functions.syncing import ids, sync
from functions.waiting import backend
from homeserver.observability import metered
from homeserver.services import draft_feedback
from homeserver.settings import settings
from homeserver.storage.accounts import ACCOUNT, Account

__all__ = ["backend"]

pytestmark = pytest.mark.usefixtures("set_up", "backend")


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    made = create_room(alice, bob, room_version="11")
    follow()
    return made


# ── What every route refuses ─────────────────────────────────────────────────

WITH_TOKEN = [
    ("initialSync",),
    ("events",),
    ("events", "$one"),
    ("rooms", "!r:example.org", "initialSync"),
    ("rooms", "!r:example.org", "messages"),
    ("rooms", "!r:example.org", "members"),
    ("rooms", "!r:example.org", "state"),
    ("rooms", "!r:example.org", "state", "m.room.name"),
    ("rooms", "!r:example.org", "state", "m.room.member", "@alice:example.org"),
    ("admin", "whois", "@alice:example.org"),
]
OPEN = [
    ("publicRooms",),
    ("directory", "room", "#tea:example.org"),
    ("profile", "@alice:example.org"),
    ("profile", "@alice:example.org", "displayname"),
    ("profile", "@alice:example.org", "avatar_url"),
]


@pytest.mark.parametrize("prefix", [L, OLD_L])
@pytest.mark.parametrize("route", WITH_TOKEN)
def test_a_token_is_needed_and_must_be_known(route: tuple[str, ...], prefix: str) -> None:
    assert refusal(read(None, *route, prefix=prefix)) == (401, "M_MISSING_TOKEN")
    assert refusal(read(None, *route, prefix=prefix, access_token="syt_unknown")) == (401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize("route", [*WITH_TOKEN, *OPEN])
def test_another_method_is_not_known(route: tuple[str, ...], alice: User) -> None:
    for prefix in (L, OLD_L):
        # What no route of the template has comes to discovery.
        answer = call("server_discovery", "PATCH", where(*route, prefix=prefix), {}, token=alice.token)
        assert refusal(answer) == (405, "M_UNRECOGNIZED")
        assert "GET" in answer.headers["allow"]


def test_what_the_draft_does_not_have_is_not_known(alice: User) -> None:
    for segments in [("nothing",), ("rooms", "!r:example.org", "nothing"), ("presence", "@alice:example.org", "x")]:
        assert refusal(read(alice, *segments)) == (404, "M_UNRECOGNIZED")


@pytest.mark.parametrize("setting", ["all", "legacy", "off"])
def test_the_token_in_the_query_is_taken_where_the_operator_takes_it(
    setting: str, alice: User, room_id: str, server: Callable[..., None]
) -> None:
    server(QUERY_TOKENS=setting)
    answers = [read(alice, "rooms", room_id, "members"), read(alice, "initialSync")]
    assert [answer.status for answer in answers] == [401 if setting == "off" else 200] * 2
    for answer in answers:
        assert (answer.headers["referrer-policy"], answer.headers["cache-control"]) == ("no-referrer", "no-store")
    bearer = call("client_legacy_events", "GET", where("rooms", room_id, "members"), token=alice.token)
    assert bearer.status == 200


def test_two_different_tokens_are_refused(alice: User, bob: User, room_id: str) -> None:
    for function, segments in [("client_legacy_events", ("rooms", room_id, "members")), ("client_sync", ("events",))]:
        query = {"access_token": bob.token, "timeout": "0"}
        answer = call(function, "GET", where(*segments), token=alice.token, query=query)
        assert refusal(answer) == (400, "M_INVALID_PARAM")


def test_who_is_not_in_a_room_reads_nothing_of_it(alice: User, room_id: str) -> None:
    stranger = register("stranger")
    (event_id,) = say(alice, room_id, "hello")
    for action in ("messages", "members", "state", "initialSync"):
        assert refusal(read(stranger, "rooms", room_id, action)) == (403, "M_FORBIDDEN")
    assert refusal(read(stranger, "rooms", room_id, "state", "m.room.config")) == (403, "M_FORBIDDEN")
    assert refusal(read(stranger, "rooms", room_id, "state", "m.room.ops_levels")) == (403, "M_FORBIDDEN")
    assert refusal(read(stranger, "events", event_id)) == (404, "M_NOT_FOUND")


# ── An event in both views ───────────────────────────────────────────────────


def test_an_event_is_that_of_today_with_the_sender_and_the_age_on_top(alice: User, room_id: str) -> None:
    content = {"msgtype": "m.emote", "body": "waves"}
    where_to = path("rooms", room_id, "send", "m.room.message", "t1")
    event_id = call("client_events", "PUT", where_to, content, token=alice.token).json["event_id"]
    modern = event(alice, room_id, event_id).json
    draft = ok(alice, "events", event_id)
    assert draft["content"] == content
    assert (draft.pop("user_id"), modern["sender"]) == (alice.user_id, alice.user_id)
    age = draft.pop("age")
    assert modern["unsigned"]["age"] <= age <= modern["unsigned"]["age"] + 5_000
    for each in (draft, modern):
        assert each["unsigned"].pop("age") >= 0
    assert draft == modern


def test_a_state_event_says_what_it_replaced_and_what_it_takes(alice: User, room_id: str) -> None:
    set_state(alice, room_id, "m.room.name", {"name": "Tea"})
    event_id = set_state(alice, room_id, "m.room.name", {"name": "Chai"}).json["event_id"]
    draft = ok(alice, "events", event_id)
    assert (draft["state_key"], draft["prev_content"], draft["required_power_level"]) == ("", {"name": "Tea"}, 50)


def test_a_redaction_names_its_target_on_top(alice: User, room_id: str) -> None:
    (event_id,) = say(alice, room_id, "oops")
    redaction = redact(alice, room_id, event_id).json["event_id"]
    assert ok(alice, "events", redaction)["redacts"] == event_id
    redacted = ok(alice, "events", event_id)
    assert redacted["content"] == {}
    assert redacted["redacted_because"]["event_id"] == redaction
    assert redacted["redacted_because"]["user_id"] == alice.user_id


@pytest.mark.parametrize("event_id", ["$unknown", "nothing", "$" + "x" * 300])
def test_an_event_that_does_not_exist_is_not_found(alice: User, event_id: str) -> None:
    assert refusal(read(alice, "events", event_id)) == (404, "M_NOT_FOUND")


# ── History ──────────────────────────────────────────────────────────────────


def test_history_is_read_in_pages_either_way(alice: User, room_id: str) -> None:
    sent = say(alice, room_id, *[f"text {number}" for number in range(5)])
    page = ok(alice, "rooms", room_id, "messages", dir="b", limit=2)
    assert set(page) == {"chunk", "start", "end"}
    assert ids(page["chunk"]) == [sent[4], sent[3]]
    assert [found["user_id"] for found in page["chunk"]] == [alice.user_id] * 2
    further = ok(alice, "rooms", room_id, "messages", dir="b", limit=2, since=page["end"])
    assert ids(further["chunk"]) == [sent[2], sent[1]]
    back = ok(alice, "rooms", room_id, "messages", dir="f", limit=2, since=page["end"])
    assert ids(back["chunk"]) == [sent[3], sent[4]]
    between = ok(alice, "rooms", room_id, "messages", dir="b", limit=9, since=page["end"], to=further["end"])
    assert ids(between["chunk"]) == [sent[2], sent[1]]


def test_every_page_has_an_end_and_the_one_after_the_last_is_empty(alice: User, room_id: str) -> None:
    for direction, begins in (("b", "END"), ("f", "START")):
        since, seen = begins, []
        while (page := ok(alice, "rooms", room_id, "messages", dir=direction, limit=3, since=since))["chunk"]:
            seen += ids(page["chunk"])
            since = page["end"]
        known = ids(messages(alice, room_id, dir=direction, limit=100).json["chunk"])
        assert seen == known
        assert ok(alice, "rooms", room_id, "messages", dir=direction, since=since)["chunk"] == []


def test_tokens_of_the_stream_are_tokens_of_a_room_too(alice: User, room_id: str) -> None:
    (before,) = say(alice, room_id, "before")
    follow()
    since = snapshot(alice)["end"]
    say(alice, room_id, "after")
    assert ids(ok(alice, "rooms", room_id, "messages", dir="b", limit=1, since=since)["chunk"]) == [before]


@pytest.mark.parametrize("name", ["from", "to"])
def test_what_is_no_token_is_bad_pagination(alice: User, room_id: str, name: str) -> None:
    answer = read(alice, "rooms", room_id, "messages", **{name: "l1_84_3_9"})
    assert refusal(answer) == (400, "M_BAD_PAGINATION")


def test_other_parameters_are_refused_by_name(alice: User, room_id: str) -> None:
    for query in ({"dir": "up"}, {"limit": "0"}, {"limit": "few"}, {"feedback": "perhaps"}):
        assert refusal(read(alice, "rooms", room_id, "messages", **query)) == (400, "M_INVALID_PARAM")
    assert refusal(read(alice, "rooms", "no room", "messages")) == (400, "M_INVALID_PARAM")


def test_members_come_with_the_names_of_both_ends(alice: User, bob: User, room_id: str) -> None:
    body = ok(alice, "rooms", room_id, "members", since="ignored", to="ignored", limit="1")
    assert (body["start"], body["end"]) == ("START", "END")
    assert {(found["state_key"], found["content"]["membership"]) for found in body["chunk"]} == {
        (alice.user_id, "join"),
        (bob.user_id, "join"),
    }
    assert {found["required_power_level"] for found in body["chunk"]} == {50}


def test_one_room_is_told_as_in_the_snapshot_of_all(alice: User, room_id: str) -> None:
    say(alice, room_id, *[f"text {number}" for number in range(3)])
    give_alias(alice, room_id, "tea")
    follow()
    alone, among = ok(alice, "rooms", room_id, "initialSync", limit=2), room_in(snapshot(alice, limit=2), room_id)
    assert alone["presence"] == []
    assert (alone["membership"], alone["visibility"]) == ("join", "private")
    assert ids(alone["messages"]["chunk"]) == ids(among["messages"]["chunk"])
    assert {found["event_id"] for found in alone["state"]} == {found["event_id"] for found in among["state"]}
    assert alone["messages"]["end"] == among["messages"]["end"]
    earlier = ok(alice, "rooms", room_id, "messages", dir="b", limit=1, since=alone["messages"]["start"])
    assert texts(earlier["chunk"]) == ["text 0"]


def test_who_has_left_reads_the_room_as_it_was_then(alice: User, bob: User, room_id: str) -> None:
    set_state(alice, room_id, "m.room.name", {"name": "Tea"})
    post(bob, room_id, "leave")
    set_state(alice, room_id, "m.room.name", {"name": "Secret"})
    body = ok(bob, "rooms", room_id, "initialSync")
    assert body["membership"] == "leave"
    assert ok(bob, "rooms", room_id, "state", "m.room.name") == {"name": "Tea"}
    assert ok(bob, "rooms", room_id, "state", "m.room.config")["name"] == "Tea"
    assert [found["content"] for found in body["state"] if found["type"] == "m.room.name"] == [{"name": "Tea"}]


# ── State and its projections ────────────────────────────────────────────────


def test_state_is_a_list_with_the_aliases_of_this_server(alice: User, room_id: str) -> None:
    alias = give_alias(alice, room_id, "tea")
    found = {(e["type"], e["state_key"]): e for e in ok(alice, "rooms", room_id, "state")}
    modern = call("client_history", "GET", path("rooms", room_id, "state"), token=alice.token).json
    assert set(found) == {(e["type"], e["state_key"]) for e in modern} | {("m.room.aliases", "example.org")}
    assert found["m.room.aliases", "example.org"]["content"] == {"aliases": [alias]}
    assert all(e["user_id"] == e["sender"] and e["required_power_level"] >= 0 for e in found.values())
    assert refusal(read(alice, "rooms", room_id, "state", "m.room.aliases", "example.org")) == (404, "M_NOT_FOUND")


def test_one_state_event_is_its_content(alice: User, bob: User, room_id: str) -> None:
    set_state(alice, room_id, "m.room.topic", {"topic": "green"})
    set_state(alice, room_id, "org.example.shelf", {"teas": 3}, key="upper/left")
    assert ok(alice, "rooms", room_id, "state", "m.room.topic") == {"topic": "green"}
    assert read(alice, "rooms", room_id, "state", "m.room.topic", "").json == {"topic": "green"}
    assert ok(alice, "rooms", room_id, "state", "m.room.member", bob.user_id)["membership"] == "join"
    assert ok(alice, "rooms", room_id, "state", "org.example.shelf", "upper/left") == {"teas": 3}
    assert refusal(read(alice, "rooms", room_id, "state", "org.example.none")) == (404, "M_NOT_FOUND")


def test_the_config_of_a_room_is_made_of_what_it_has_today(alice: User) -> None:
    made = create_room(alice, name="Pub", topic="t", room_alias_name="pub", room_version="11")
    assert ok(alice, "rooms", made, "state", "m.room.config") == {
        "visibility": "private",
        "room_alias_name": "pub",
        "name": "Pub",
        "topic": "t",
    }
    publish(alice, made)
    assert ok(alice, "rooms", made, "state", "m.room.config")["visibility"] == "public"
    # For clients of today it is a type like any other, and it is not there.
    assert state(alice, made, "m.room.config").status == 404


def test_a_listed_room_with_a_name_and_levels_of_its_own_reads_as_the_draft_has_it(alice: User) -> None:
    made = create_room(alice, name="Pub", room_version="11")
    publish(alice, made)
    levels = state(alice, made, "m.room.power_levels").json
    levels |= {"state_default": 50, "events_default": 5, "ban": 75, "kick": 60, "redact": 50}
    set_state(alice, made, "m.room.power_levels", levels)
    assert ok(alice, "rooms", made, "state", "m.room.config") == {"visibility": "public", "name": "Pub"}
    assert ok(alice, "rooms", made, "state", "m.room.power_levels") == {alice.user_id: 100, "default": 0}
    assert ok(alice, "rooms", made, "state", "m.room.add_state_level") == {"level": 50}
    assert ok(alice, "rooms", made, "state", "m.room.send_event_level") == {"level": 5}
    assert ok(alice, "rooms", made, "state", "m.room.ops_levels") == {
        "ban_level": 75,
        "kick_level": 60,
        "redact_level": 50,
    }


def test_who_made_a_room_of_version_12_has_the_greatest_level(alice: User, bob: User) -> None:
    made = create_room(alice, bob, room_version="12")
    levels = ok(alice, "rooms", made, "state", "m.room.power_levels")
    assert levels == {alice.user_id: 9007199254740991, "default": 0}
    assert type(levels[alice.user_id]) is int


# ── Feedback ─────────────────────────────────────────────────────────────────


def feedback_of(page: JSON) -> dict[str, list[tuple[str, str]]]:
    """Who has (kind) each message, by its text."""
    return {
        found["content"]["body"]: sorted((each["from"], each["feedback"]) for each in found["feedback"])
        for found in page["chunk"]
        if found["type"] == "m.room.message"
    }


def test_a_receipt_is_feedback_for_its_message_and_those_before(alice: User, bob: User, room_id: str) -> None:
    _, second, _ = say(alice, room_id, "one", "two", "three")
    react(bob, room_id, second)
    page = ok(alice, "rooms", room_id, "messages", dir="b", limit=9, feedback="true")
    assert feedback_of(page) == {"one": [(bob.user_id, "r")], "two": [(bob.user_id, "r")], "three": []}
    (entry,) = next(found for found in page["chunk"] if found.get("event_id") == second)["feedback"]
    assert set(entry) == {"from", "feedback", "content", "hs_ts"}
    assert entry["content"] == {}
    assert entry["hs_ts"] > 1_700_000_000_000
    assert all("feedback" not in found for found in page["chunk"] if found["type"] != "m.room.message")
    plain = ok(alice, "rooms", room_id, "messages", dir="b", limit=9)
    assert all("feedback" not in found for found in plain["chunk"])


def test_both_snapshots_have_feedback_if_it_is_asked_for(alice: User, bob: User, room_id: str) -> None:
    first, _ = say(alice, room_id, "one", "two")
    react(bob, room_id, first)
    follow()
    expected = {"one": [(bob.user_id, "r")], "two": []}
    assert feedback_of(room_in(snapshot(alice, feedback="true"), room_id)["messages"]) == expected
    assert feedback_of(ok(alice, "rooms", room_id, "initialSync", feedback="true")["messages"]) == expected
    for room in (room_in(snapshot(alice), room_id), ok(alice, "rooms", room_id, "initialSync", feedback="false")):
        assert "feedback" not in json.dumps(room)


def test_private_receipts_are_feedback_to_oneself_alone(alice: User, bob: User, room_id: str) -> None:
    (event_id,) = say(alice, room_id, "one")
    react(bob, room_id, event_id, "m.read.private")
    assert feedback_of(ok(alice, "rooms", room_id, "messages", feedback="true")) == {"one": []}
    assert feedback_of(ok(bob, "rooms", room_id, "messages", feedback="true")) == {"one": [(bob.user_id, "r")]}


def test_both_kinds_are_told_and_what_was_delivered_to_clients_of_2014_alone(
    alice: User, bob: User, room_id: str
) -> None:
    first, second = say(alice, room_id, "one", "two")
    for kind, target in (("read", first), ("delivered", second)):
        where_to = where("rooms", room_id, "send", "m.room.message.feedback")
        body = {"type": kind, "target_event_id": target}
        assert call("client_legacy_rooms", "POST", where_to, body, token=bob.token).status == 200
    follow()
    assert feedback_of(ok(alice, "rooms", room_id, "messages", feedback="true")) == {
        "one": [(bob.user_id, "d"), (bob.user_id, "r")],
        "two": [(bob.user_id, "d")],
    }
    told = json.dumps(sync(alice)["rooms"]["join"][room_id]["ephemeral"])
    assert first in told
    assert second not in told


def test_nobody_gives_feedback_to_themselves(alice: User, room_id: str) -> None:
    (event_id,) = say(alice, room_id, "one")
    react(alice, room_id, event_id)
    assert feedback_of(ok(alice, "rooms", room_id, "messages", feedback="true")) == {"one": []}


def test_receipts_that_have_left_the_rooms_item_count_and_entries_are_bounded(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = [register(f"reader{number:02}") for number in range(12)]
    made = create_room(alice, preset="public_chat")
    for reader in readers:
        post(reader, made, "join")
    (event_id,) = say(alice, made, "one")
    for reader in readers:
        react(reader, made, event_id)
    found = feedback_of(ok(alice, "rooms", made, "messages", limit=1, feedback="true"))["one"]
    assert found == [(reader.user_id, "r") for reader in readers]
    monkeypatch.setattr(draft_feedback, "MOST_ENTRIES", 5)
    assert len(feedback_of(ok(alice, "rooms", made, "messages", limit=1, feedback="true"))["one"]) == 5


# ── The directory, and people ────────────────────────────────────────────────


def test_published_rooms_are_listed_with_their_aliases_for_everybody(alice: User, bob: User) -> None:
    made = create_room(alice, bob, name="Tea", topic="green", room_alias_name="tea")
    other = create_room(alice)
    for room in (made, other):
        publish(alice, room)
    second = give_alias(alice, made, "chai")
    follow()
    body = ok(None, "publicRooms")
    assert (body["start"], body["end"]) == ("START", "END")
    assert body["chunk"] == [
        {
            "room_id": made,
            "name": "Tea",
            "topic": "green",
            "num_joined_members": 2,
            "aliases": [second, "#tea:example.org"],
        },
        {"room_id": other, "num_joined_members": 1, "aliases": []},
    ]
    page = ok(None, "publicRooms", limit=1)
    assert [room["room_id"] for room in page["chunk"]] == [made]
    rest = ok(None, "publicRooms", since=page["end"])
    assert ([room["room_id"] for room in rest["chunk"]], rest["start"]) == ([other], page["end"])
    assert ok(None, "publicRooms", since="END")["chunk"] == []
    assert refusal(read(None, "publicRooms", **{"from": "nowhere"})) == (400, "M_BAD_PAGINATION")


def test_an_alias_names_its_room_and_servers(alice: User) -> None:
    made = create_room(alice, room_alias_name="tea")
    assert ok(None, "directory", "room", "#tea:example.org") == {"room_id": made, "servers": ["example.org"]}
    assert refusal(read(None, "directory", "room", "#coffee:example.org")) == (404, "M_NOT_FOUND")
    assert refusal(read(None, "directory", "room", "tea")) == (400, "M_INVALID_PARAM")


def test_a_profile_is_open_to_all_whole_and_in_parts(alice: User) -> None:
    where_to = path("profile", alice.user_id, "displayname")
    assert call("client_user", "PUT", where_to, {"displayname": "Al"}, token=alice.token).status == 200
    assert ok(None, "profile", alice.user_id) == {"displayname": "Al"}
    assert ok(None, "profile", alice.user_id, "displayname") == {"displayname": "Al"}
    assert refusal(read(None, "profile", alice.user_id, "avatar_url")) == (404, "M_NOT_FOUND")
    assert refusal(read(None, "profile", "@nobody:example.org")) == (404, "M_NOT_FOUND")
    assert refusal(read(None, "profile", "@carol:elsewhere.test", "displayname")) == (404, "M_NOT_FOUND")


def test_users_see_where_they_are_logged_in(alice: User) -> None:
    body = {"type": "m.login.password", "user": "alice", "password": PASSWORD, "device_id": "PHONE"}
    assert call("client_login", "POST", path("login"), body, address="192.0.2.9").status == 200
    found = ok(alice, "admin", "whois", alice.user_id)
    assert found["user_id"] == alice.user_id
    devices = {device["device_id"]: device["sessions"] for device in found["devices"]}
    assert set(devices) == {alice.device_id, "PHONE"}
    ((connection,),) = [session["connections"] for session in devices["PHONE"]]
    assert connection["ip"] == "192.0.2.9"
    assert connection["last_seen"] > 1_700_000_000_000


def test_others_are_told_to_administrators_only(alice: User, bob: User) -> None:
    assert refusal(read(bob, "admin", "whois", alice.user_id)) == (403, "M_FORBIDDEN")
    Account(bob.user_id, ACCOUNT).update([Account.admin.set(True)])
    assert [device["device_id"] for device in ok(bob, "admin", "whois", alice.user_id)["devices"]] == [alice.device_id]
    assert refusal(read(bob, "admin", "whois", "@nobody:example.org")) == (404, "M_NOT_FOUND")
    assert refusal(read(bob, "admin", "whois", "nobody")) == (400, "M_INVALID_PARAM")


# ── What it costs ────────────────────────────────────────────────────────────


def rounds(work: Callable[[], Answer]) -> int:
    with metered() as meter:
        assert work().status == 200
    return meter.rounds


def modern(user: User, function: str, *segments: str, **query: Any) -> Callable[[], Answer]:
    return lambda: call(function, "GET", path(*segments), token=user.token, query=query or None)


def test_no_route_takes_more_than_one_round_more_than_its_counterpart(alice: User, bob: User) -> None:
    readers = [register(f"reader{number:02}") for number in range(10)]
    made = create_room(alice, bob, room_alias_name="tea", preset="public_chat")
    create_room(alice, invite=[bob.user_id])
    publish(alice, made)
    for reader in readers:
        post(reader, made, "join")
    (event_id,) = say(alice, made, "hello")
    for reader in readers:  # so that some have left the room's item
        react(reader, made, event_id)
    named = set_state(alice, made, "m.room.name", {"name": "Tea"}).json["event_id"]
    follow()
    first = snapshot(bob)["end"]
    since = events(bob, first)["end"]
    set_state(alice, made, "m.room.name", {"name": "Chai"})
    react(alice, made, named)
    follow()
    history, directory, users = "client_history", "client_directory", "client_user"
    pairs: list[tuple[Callable[[], Answer], Callable[[], Answer]]] = [
        (lambda: read(bob, "initialSync", feedback="true"), modern(bob, "client_sync", "initialSync")),
        (
            lambda: read(bob, "events", timeout="0", **{"from": since}),
            modern(bob, "client_sync", "events", timeout="0", **{"from": since}),
        ),
        # The first answer has all receipts there are, which of today's streams only /sync has.
        (
            lambda: read(bob, "events", timeout="0", **{"from": first}),
            modern(bob, "client_sync", "sync", timeout="0", since=first),
        ),
        (lambda: read(bob, "events", named), modern(bob, history, "events", named)),
        (
            lambda: read(bob, "rooms", made, "initialSync", feedback="true"),
            modern(bob, history, "rooms", made, "initialSync"),
        ),
        (
            lambda: read(bob, "rooms", made, "messages", dir="b", feedback="true"),
            modern(bob, history, "rooms", made, "messages", dir="b"),
        ),
        (lambda: read(bob, "rooms", made, "members"), modern(bob, history, "rooms", made, "members")),
        (lambda: read(bob, "rooms", made, "state"), modern(bob, history, "rooms", made, "state")),
        (
            lambda: read(bob, "rooms", made, "state", "m.room.config"),
            modern(bob, history, "rooms", made, "state", "m.room.name"),
        ),
        (
            lambda: read(bob, "rooms", made, "state", "m.room.ops_levels"),
            modern(bob, history, "rooms", made, "state", "m.room.power_levels"),
        ),
        (lambda: read(None, "publicRooms"), modern(bob, directory, "publicRooms")),
        (
            lambda: read(None, "directory", "room", "#tea:example.org"),
            modern(bob, "client_rooms", "directory", "room", "#tea:example.org"),
        ),
        (lambda: read(None, "profile", bob.user_id), modern(bob, users, "profile", bob.user_id)),
        (lambda: read(bob, "admin", "whois", bob.user_id), modern(bob, "client_account", "devices")),
    ]
    for here, there in pairs:
        there()  # both are warm then
        here()
        assert rounds(here) <= rounds(there) + 1


# ── The recorded requests of API Gateway ─────────────────────────────────────


def test_the_payloads_in_the_examples_are_answered() -> None:
    assert refusal(invoke("client_legacy_events", payload("client_legacy_events_members"))) == (401, "M_UNKNOWN_TOKEN")
    listed = invoke("client_legacy_events", payload("client_legacy_events_public_rooms"))
    assert (listed.status, listed.json) == (200, {"start": "START", "end": "END", "chunk": []})
    assert refusal(invoke("client_sync", payload("client_sync_draft_events"))) == (401, "M_UNKNOWN_TOKEN")
    assert settings().query_tokens == "all"
