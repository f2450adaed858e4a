"""What events of other servers must pass before a room looks at them, in every room version."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from functions.foreign_pdus import HASH_ROOM, KEY, OTHER_KEY, REMOTE, ROOM, edge, know_keys, signed_pdu, unsigned_pdu
from functions.harness import SERVER_NAME
from homeserver.adapters.signing_key import signing_key
from homeserver.matrix.errors import BadJson, Forbidden
from homeserver.matrix.event import Event
from homeserver.matrix.hashes import event_id_of
from homeserver.matrix.room_versions import ROOM_VERSIONS, V1, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.observability import log
from homeserver.services import pdu_keys, server_keys
from homeserver.services.clock import now_ms
from homeserver.services.pdu_checks import CheckedPdu, check_pdu, check_pdus
from homeserver.services.server_keys import forget_keys
from homeserver.storage.server_keys import load_keys

pytestmark = pytest.mark.usefixtures("set_up")
HELPER = "helper.test"
HELPER_KEY = SigningKey.generate("h1", b"h" * 32)
every_version = pytest.mark.parametrize("rules", ROOM_VERSIONS.values(), ids=lambda rules: rules.version)


@pytest.fixture(autouse=True)
def _known_keys() -> None:
    know_keys(REMOTE, KEY)
    know_keys(HELPER, HELPER_KEY)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the server logs, which does not reach the root logger where a function has set it up."""
    before, level = log.propagate, log.level
    log.propagate = True
    log.setLevel(logging.INFO)
    with caplog.at_level(logging.INFO, logger=log.name):
        yield caplog
    log.propagate = before
    log.setLevel(level)


def checked(pdu: Any, rules: Any, room_id: str | None = None) -> CheckedPdu:
    (one,) = check_pdus([pdu], rules, room_id)
    return one


def passed(pdu: Any, rules: Any) -> Event:
    one = checked(pdu, rules)
    assert (one.rule, one.reason, one.retry) == ("", "", False)
    assert one.event is not None
    assert one.event.event_id == one.event_id
    return one.event


def refused(pdu: Any, rules: Any) -> tuple[str, str]:
    """The check that drops it for good, and why."""
    one = checked(pdu, rules)
    assert one.event is None
    assert not one.retry
    return one.rule, one.reason


# ── What passes ─────────────────────────────────────────────────────────────────────────────────────


@every_version
def test_an_event_that_its_sender_s_server_signed_passes_as_it_is_without_unsigned(rules: Any) -> None:
    pdu = signed_pdu(rules)
    event = passed({**pdu, "unsigned": {"age": 5, "nonsense": [1.5]}}, rules)
    assert event.pdu == pdu
    assert event.event_id == event_id_of(pdu, rules)
    assert event.room_id == (HASH_ROOM if rules.room_id_is_create_hash else ROOM)


def test_keys_that_nobody_knows_are_kept() -> None:
    pdu = signed_pdu(V11, **{"org.example.extra": {"a": [None]}, "content": {"body": "x", "more": {"y": 1}}})
    assert passed(pdu, V11).pdu == pdu


def test_the_create_event_of_version_12_makes_its_own_room() -> None:
    change: dict[str, Any] = {
        "type": "m.room.create",
        "state_key": "",
        "room_id": None,
        "prev_events": [],
        "auth_events": [],
    }
    event = passed(signed_pdu(V12, **change, content={"room_version": "12"}), V12)
    assert event.room_id == "!" + event.event_id[1:]


# ── Check 1 ─────────────────────────────────────────────────────────────────────────────────────────


@every_version
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sender": "carol"}, "sender is not a user ID"),
        ({"sender": None}, "sender is missing"),
        ({"type": None}, "type is missing"),
        ({"content": []}, "content is missing"),
        ({"depth": -1}, "depth is not an integer"),
        ({"depth": "5"}, "depth is not an integer"),
        ({"depth": 2**63}, "depth is not an integer|not canonical JSON"),
        ({"origin_server_ts": True}, "origin_server_ts"),
        ({"prev_events": {}}, "prev_events is missing"),
        ({"prev_events": [7]}, "prev_events"),
        ({"auth_events": None}, "auth_events is missing"),
        ({"state_key": 7}, "state_key is not a string"),
        ({"state_key": "x" * 256}, "state_key has more than 255 bytes"),
        ({"type": "é" * 128}, "type has more than 255 bytes"),
        ({"content": {"body": "x" * 65_536}}, "65536 are allowed"),
        ({"room_id": "room"}, "room_id"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_event_of_its_room_version_is_dropped(rules: Any, change: Any, reason: str) -> None:
    pdu = {**signed_pdu(rules), **change}
    pdu = {key: value for key, value in pdu.items() if value is not None}
    rule, why = refused(pdu, rules)
    assert rule == "1"
    assert any(part in why for part in reason.split("|")), why


@every_version
@pytest.mark.parametrize("thing", [None, 7, "event", [], {}, {"type": "m.room.message"}])
def test_what_is_no_event_at_all_is_dropped(rules: Any, thing: Any) -> None:
    assert refused(thing, rules)[0] == "1"


@every_version
def test_ten_thousand_previous_events_are_dropped_before_any_key_is_asked_for(
    rules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdu_keys, "verify_keys", lambda *_, **__: pytest.fail("a key was asked for"))
    many = signed_pdu(rules, prev_events=[edge(rules, f"p{number}") for number in range(10_000)])
    assert refused(many, rules)[0] == "1"
    few = signed_pdu(rules, prev_events=[edge(rules, f"p{number}") for number in range(21)])
    assert refused(few, rules) == ("1", "prev_events has more than 20 entries")
    auth = signed_pdu(rules, auth_events=[edge(rules, f"p{number}") for number in range(11)])
    assert refused(auth, rules) == ("1", "auth_events has more than 10 entries")


@every_version
def test_twenty_previous_and_ten_authorising_events_are_taken(rules: Any) -> None:
    edges = [edge(rules, f"p{number}") for number in range(20)]
    passed(signed_pdu(rules, prev_events=edges, auth_events=edges[:10]), rules)


@every_version
def test_deep_json_is_dropped_and_costs_nobody_the_stack(rules: Any) -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    pdu = {**signed_pdu(rules), "content": {"body": deep}}
    assert refused(pdu, rules)[0] == "1"
    assert refused({**signed_pdu(rules), "extra": deep}, rules)[0] == "1"
    while isinstance(deep, list):
        deep = deep[0]  # taken apart by hand: Python's own way down is a deep one


@pytest.mark.parametrize("rules", [V6, V7, V12], ids=lambda rules: rules.version)
@pytest.mark.parametrize("value", [1.5, 2**53, -0.0], ids=str)
def test_numbers_that_have_no_canonical_json_are_dropped_from_version_6(rules: Any, value: Any) -> None:
    pdu = {**signed_pdu(rules), "content": {"value": value}}
    rule, reason = refused(pdu, rules)
    assert (rule, "not canonical JSON" in reason) == ("1", True)


@pytest.mark.parametrize("rules", [V1, V5], ids=lambda rules: rules.version)
def test_numbers_that_have_no_canonical_json_are_borne_up_to_version_5(rules: Any) -> None:
    event = passed(signed_pdu(rules, content={"value": 1.5, "large": 2**60}), rules)
    assert event.content == {"value": 1.5, "large": 2**60}


def test_a_create_event_of_version_12_with_a_room_id_is_dropped() -> None:
    change: dict[str, Any] = {"type": "m.room.create", "state_key": "", "prev_events": [], "auth_events": []}
    rule, reason = refused(signed_pdu(V12, **change, content={"room_version": "12"}), V12)
    assert (rule, reason) == ("1", "A create event of this room version has no room_id")


def test_events_in_the_format_of_another_room_version_are_dropped() -> None:
    assert refused(signed_pdu(V1), V3)[0] == "1"  # edges with hashes
    assert refused(signed_pdu(V3), V1)[0] == "1"  # no event_id, edges without hashes
    assert refused(signed_pdu(V11), V12)[0] == "1"  # a room ID with a domain
    standard = signed_pdu(V3, prev_events=["$" + "+/" + "x" * 41])
    assert refused(standard, V4)[0] == "1"  # standard base64
    passed(standard, V3)


def test_an_event_of_another_room_is_dropped() -> None:
    pdu = signed_pdu(V11)
    one = checked(pdu, V11, "!other:remote.test")
    assert (one.event, one.rule, one.reason) == (None, "1", "The event is of another room")
    assert one.event_id == event_id_of(pdu, V11)
    with pytest.raises(BadJson, match="another room"):
        check_pdu(pdu, V11, "!other:remote.test")
    assert check_pdu(pdu, V11, ROOM).event_id == one.event_id


def test_what_is_dropped_is_named_where_it_has_an_id() -> None:
    pdu = {**signed_pdu(V11), "depth": -1}
    assert checked(pdu, V11).event_id == event_id_of(pdu, V11)
    assert checked({**signed_pdu(V1), "depth": -1}, V1).event_id == f"$e1:{REMOTE}"
    assert checked({**signed_pdu(V1), "event_id": "x"}, V1).event_id == ""
    whole = signed_pdu(V11)
    assert checked({**whole, "content": {"value": 1.5}}, V11).event_id == event_id_of(whole, V11)


# ── Check 2 ─────────────────────────────────────────────────────────────────────────────────────────


@every_version
def test_unsigned_and_wrongly_signed_events_are_dropped(rules: Any) -> None:
    assert refused(unsigned_pdu(rules), rules) == ("2", f"There is no Ed25519 signature by {REMOTE}")
    wrong = signed_pdu(rules, by={REMOTE: OTHER_KEY})
    assert refused(wrong, rules) == ("2", f"The signature by {REMOTE} with ed25519:r1 is wrong")
    changed = {**signed_pdu(rules), "depth": 6}
    assert refused(changed, rules) == ("2", f"The signature by {REMOTE} with ed25519:r1 is wrong")
    garbage = {**signed_pdu(rules), "signatures": {REMOTE: {"ed25519:r1": "!"}}}
    assert refused(garbage, rules)[0] == "2"


@every_version
def test_a_server_cannot_speak_for_a_user_of_another_domain(rules: Any) -> None:
    pdu = signed_pdu(rules, by={HELPER: HELPER_KEY})
    assert refused(pdu, rules) == ("2", f"There is no Ed25519 signature by {REMOTE}")
    own = signed_pdu(
        rules, sender=f"@alice:{SERVER_NAME}", event_id=f"$e:{SERVER_NAME}" if rules.hashed_edges else None
    )
    assert refused(own, rules) == ("2", f"There is no Ed25519 signature by {SERVER_NAME}")


@every_version
def test_what_this_server_signed_itself_is_known_when_it_comes_back(rules: Any) -> None:
    event_id = f"$e:{SERVER_NAME}" if rules.hashed_edges else None
    pdu = signed_pdu(rules, by={SERVER_NAME: signing_key()}, sender=f"@alice:{SERVER_NAME}", event_id=event_id)
    passed(pdu, rules)
    forged = signed_pdu(
        rules,
        by={SERVER_NAME: SigningKey(signing_key().key_id, b"f" * 32)},
        sender=f"@alice:{SERVER_NAME}",
        event_id=event_id,
    )
    assert refused(forged, rules)[0] == "2"


@every_version
def test_one_right_signature_beside_a_wrong_one_is_not_enough(rules: Any) -> None:
    second = SigningKey.generate("r2", b"2" * 32)
    know_keys(REMOTE, KEY, second)
    pdu = sign_event(signed_pdu(rules), rules, REMOTE, second)
    passed(pdu, rules)
    pdu["signatures"] = {REMOTE: {**pdu["signatures"][REMOTE], second.key_id: "A" * 86}}
    assert refused(pdu, rules) == ("2", f"The signature by {REMOTE} with ed25519:r2 is wrong")


@every_version
def test_a_signature_with_a_key_that_is_not_known_is_passed_over_beside_a_right_one(rules: Any) -> None:
    stranger = SigningKey.generate("stranger", b"s" * 32)
    passed(sign_event(signed_pdu(rules), rules, REMOTE, stranger), rules)


@every_version
def test_the_server_in_the_event_id_signs_in_versions_1_and_2(rules: Any) -> None:
    pdu = signed_pdu(rules, event_id=f"$e:{HELPER}")
    if rules.event_id_server_signs:
        assert refused(pdu, rules) == ("2", f"There is no Ed25519 signature by {HELPER}")
        passed(sign_event(pdu, rules, HELPER, HELPER_KEY), rules)
    else:
        passed(pdu, rules)


def member(membership: str, **content: Any) -> dict[str, Any]:
    carol = f"@carol:{REMOTE}"
    return {"type": "m.room.member", "state_key": carol, "content": {"membership": membership, **content}}


@every_version
def test_the_server_of_who_authorised_a_restricted_join_signs_from_version_8(rules: Any) -> None:
    change = member("join", join_authorised_via_users_server=f"@mod:{HELPER}")
    pdu = signed_pdu(rules, **change)
    if rules.restricted_joins:
        assert refused(pdu, rules) == ("2", f"There is no Ed25519 signature by {HELPER}")
        passed(sign_event(pdu, rules, HELPER, HELPER_KEY), rules)
        forged = sign_event(pdu, rules, HELPER, SigningKey(HELPER_KEY.key_id, b"f" * 32))
        assert refused(forged, rules) == ("2", f"The signature by {HELPER} with ed25519:h1 is wrong")
    else:
        passed(pdu, rules)


@pytest.mark.parametrize("rules", [V8, V9, V10, V11, V12], ids=lambda rules: rules.version)
def test_a_restricted_join_authorised_by_no_user_is_dropped(rules: Any) -> None:
    for nobody in (7, "mod", None):
        content = {"membership": "join", "join_authorised_via_users_server": nobody}
        pdu = signed_pdu(rules, **{**member("join"), "content": content})
        assert refused(pdu, rules) == ("2", "join_authorised_via_users_server is not a user ID")


@every_version
def test_a_third_party_invite_needs_no_signature_of_its_sender_s_server(rules: Any) -> None:
    invite = {"signed": {"mxid": f"@carol:{REMOTE}", "token": "t", "signatures": {}}}
    change = {**member("invite", third_party_invite=invite), "sender": f"@alice:{SERVER_NAME}"}
    passed(signed_pdu(rules, **change, by={REMOTE: KEY}), rules)
    # No other membership is exempt, and neither is an invitation that only says that it is one.
    join = {**member("join", third_party_invite=invite), "sender": f"@alice:{SERVER_NAME}"}
    assert refused(signed_pdu(rules, **join), rules)[1] == f"There is no Ed25519 signature by {SERVER_NAME}"
    empty = {**member("invite", third_party_invite=None), "sender": f"@alice:{SERVER_NAME}"}
    assert refused(signed_pdu(rules, **empty), rules)[1] == f"There is no Ed25519 signature by {SERVER_NAME}"


@every_version
def test_the_validity_of_a_key_in_use_counts_from_version_5(rules: Any) -> None:
    ended = now_ms() - 60_000
    know_keys(REMOTE, KEY, valid_until=ended)
    passed(signed_pdu(rules, origin_server_ts=ended), rules)
    late = signed_pdu(rules, origin_server_ts=ended + 1)
    if rules.enforce_key_validity:
        assert checked(late, rules).rule == "2"
    else:
        passed(late, rules)


@every_version
def test_an_old_key_counts_for_what_is_from_before_it_expired(rules: Any) -> None:
    ended = now_ms() - 60_000
    know_keys(REMOTE, KEY, expired=ended)
    passed(signed_pdu(rules, origin_server_ts=ended - 1), rules)
    assert checked(signed_pdu(rules, origin_server_ts=ended), rules).rule == "2"


def test_each_event_is_judged_by_the_keys_of_its_own_time() -> None:
    ended = now_ms() - 60_000
    know_keys(REMOTE, KEY, expired=ended)
    times = [ended + offset for offset in (-(10**9), 5, -1, 0, -2, 10**15, -500)]
    found = check_pdus([signed_pdu(V11, origin_server_ts=at) for at in times], V11, ROOM)
    assert [one.event is not None for one in found] == [True, False, True, False, True, False, True]


def test_a_date_far_ahead_does_not_take_the_others_down() -> None:
    pdus = [signed_pdu(V11, origin_server_ts=2**53 - 1), signed_pdu(V11)]
    assert [one.event is not None for one in check_pdus(pdus, V11, ROOM)] == [False, True]


def test_an_event_with_more_signatures_than_a_server_has_keys_is_dropped() -> None:
    pdu = signed_pdu(V11)
    pdu["signatures"][REMOTE] |= {f"ed25519:k{number}": "A" * 86 for number in range(64)}
    assert refused(pdu, V11) == ("2", f"There are 65 signatures by {REMOTE}")


def test_a_server_is_asked_a_few_times_for_a_thousand_bad_events(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    verify_keys = server_keys.verify_keys

    def counted(server: str, *wanted: Any, **more: Any) -> dict[str, bytes]:
        asked.append(server)
        return verify_keys(server, *wanted, **more)

    monkeypatch.setattr(pdu_keys, "verify_keys", counted)
    pdus = []
    for number in range(300):
        pdu = signed_pdu(V11, content={"number": number}, origin_server_ts=1000 + number)
        pdus.append({**pdu, "signatures": {REMOTE: {f"ed25519:made{number}": "A" * 86}}})
    found = check_pdus([*pdus, signed_pdu(V11)], V11, ROOM)
    assert [one.event is not None for one in found] == [False] * 300 + [True]
    assert len(asked) <= 10


# ── Keys that cannot be had at the moment ───────────────────────────────────────────────────────────


def test_an_event_of_a_server_that_does_not_answer_is_to_be_looked_at_again() -> None:
    know_keys(REMOTE, failures=3)
    one = checked(signed_pdu(V11), V11)
    assert (one.event, one.rule, one.retry) == (None, "2", True)
    know_keys(REMOTE, KEY)
    passed(signed_pdu(V11), V11)


def test_a_wrong_signature_is_dropped_for_good_although_another_server_does_not_answer() -> None:
    know_keys(HELPER, failures=3)
    change = member("join", join_authorised_via_users_server=f"@mod:{HELPER}")
    down = signed_pdu(V11, **change, by={REMOTE: KEY, HELPER: HELPER_KEY})
    assert checked(down, V11).retry
    wrong = signed_pdu(V11, **change, by={REMOTE: OTHER_KEY, HELPER: HELPER_KEY})
    assert refused(wrong, V11) == ("2", f"The signature by {REMOTE} with ed25519:r1 is wrong")


def test_a_server_that_told_its_keys_a_moment_ago_may_have_another_since() -> None:
    # It is not asked again for half a minute, so nothing is known about the new key.
    new = SigningKey.generate("new", b"n" * 32)
    one = checked(signed_pdu(V11, by={REMOTE: new}), V11)
    assert (one.rule, one.retry) == ("2", True)


def test_dropped_redacted_and_parked_events_are_logged_with_the_number_of_the_check(
    logged: pytest.LogCaptureFixture,
) -> None:
    know_keys(HELPER, failures=1)
    wrong = signed_pdu(V11, by={REMOTE: OTHER_KEY})
    false_hash = {**signed_pdu(V11), "content": {"body": "another"}}
    parked = signed_pdu(V11, sender=f"@mod:{HELPER}", by={HELPER: HELPER_KEY})
    check_pdus([{"type": 7}, wrong, false_hash, parked], V11, ROOM)
    ids = [event_id_of(pdu, V11) for pdu in (wrong, false_hash, parked)]
    assert sorted(record.getMessage() for record in logged.records if "by check" in record.getMessage()) == sorted(
        [
            f"event {event_id_of({'type': 7}, V11)} is dropped by check 1: type is missing or is not a string",
            f"event {ids[0]} is dropped by check 2: The signature by {REMOTE} with ed25519:r1 is wrong",
            f"event {ids[1]} is redacted by check 3: The content hash is wrong",
            f"event {ids[2]} is parked by check 2: No key of {HELPER} that signed this is known and valid",
        ]
    )


def test_one_event_raises_what_its_request_is_answered_with() -> None:
    with pytest.raises(BadJson, match="sender"):
        check_pdu({**signed_pdu(V11), "sender": "x"}, V11, None)
    with pytest.raises(Forbidden, match="no Ed25519 signature"):
        check_pdu(unsigned_pdu(V11), V11, None)


# ── Check 3 ─────────────────────────────────────────────────────────────────────────────────────────


@every_version
def test_a_false_content_hash_redacts_the_event(rules: Any) -> None:
    honest = signed_pdu(rules)
    one = checked({**honest, "content": {"msgtype": "m.text", "body": "put into her mouth"}}, rules)
    assert (one.rule, one.retry) == ("3", False)
    assert one.event is not None
    assert one.event.content == {}
    assert one.event.event_id == event_id_of(honest, rules)
    assert one.event.prev_event_ids == passed(honest, rules).prev_event_ids
    extra = checked({**honest, "org.example.extra": 1}, rules)
    assert extra.event is not None
    assert "org.example.extra" not in extra.event.pdu
    redacted = checked({**one.event.pdu}, rules)
    assert (redacted.rule, redacted.event_id) == ("3", one.event_id)


@every_version
def test_what_redaction_leaves_is_signed_so_it_cannot_be_changed(rules: Any) -> None:
    pdu = signed_pdu(rules, **member("leave", reason="tea"))
    lie = {**pdu, "content": {"membership": "ban", "reason": "tea"}}
    assert refused(lie, rules)[0] == "2"
    lesser = checked({**pdu, "content": {"membership": "leave", "reason": "coffee"}}, rules)
    assert lesser.event is not None
    assert (lesser.rule, lesser.event.content) == ("3", {"membership": "leave"})


def test_many_events_keep_their_order() -> None:
    pdus = [signed_pdu(V11, content={"number": number}) for number in range(30)]
    pdus[7] = unsigned_pdu(V11)
    found = check_pdus(pdus, V11, ROOM)
    assert [one.event.content.get("number") if one.event else None for one in found] == [
        None if number == 7 else number for number in range(30)
    ]
    assert check_pdus([], V11, ROOM) == []
    forget_keys()
    assert load_keys(REMOTE).failures == 0
