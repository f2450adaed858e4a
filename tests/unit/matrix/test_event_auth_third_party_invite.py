"""Rule M4: redeeming an invitation to a third-party identifier, with real Ed25519 signatures."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fixtures.auth.room import ALICE, ALL_VERSIONS, BOB, CAROL, OK, Room
from homeserver.matrix import unpadded_base64
from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event_auth import check_event_auth
from homeserver.matrix.signing import SigningKey, sign_json

KEY = SigningKey.generate("0", bytes(range(32)))
# Of this seed the public key has + and / in the standard alphabet (asserted below).
AWKWARD_KEY = SigningKey.generate("1", bytes([79]) * 32)
OTHER_KEY = SigningKey.generate("0", bytes([7]) * 32)
TOKEN = "abc123"


def public(key: SigningKey) -> str:
    return unpadded_base64.encode(key.verify_key)


def signed_by(key: SigningKey, **changed: Any) -> dict[str, Any]:
    return sign_json({"mxid": BOB, "token": TOKEN, **changed}, "identity.example", key)


def room_with_pending(version: str = "12", **content: Any) -> Room:
    room = Room(version)
    room.set("m.room.third_party_invite", content or {"public_key": public(KEY)}, state_key=TOKEN, sender=ALICE)
    room.member(ALICE, "join")
    return room


def redeem(room: Room, signed: object, *, sender: str = ALICE, target: str = BOB) -> str:
    return room.membership(sender, target, "invite", third_party_invite={"display_name": "b", "signed": signed})


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_signed_token_redeems_the_invitation_for_its_user(version: str) -> None:
    room = room_with_pending(version)
    assert redeem(room, signed_by(KEY)) == OK
    assert redeem(room, signed_by(OTHER_KEY)) == "M4.7"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_each_fault_has_its_rule(version: str) -> None:
    room = room_with_pending(version)
    signed = signed_by(KEY)
    assert room.membership(ALICE, BOB, "invite", third_party_invite={"display_name": "b"}) == "M4.2"
    for invite in (None, "x", [], {"signed": None}, {"signed": "x"}, {"signed": []}):
        assert room.membership(ALICE, BOB, "invite", third_party_invite=invite) == "M4.2"
    assert redeem(room, {key: value for key, value in signed.items() if key != "mxid"}) == "M4.3"
    assert redeem(room, {key: value for key, value in signed.items() if key != "token"}) == "M4.3"
    assert redeem(room, {**signed, "token": 5}) == "M4.3"
    assert redeem(room, {**signed, "mxid": [BOB]}) == "M4.3"
    assert redeem(room, signed, target=CAROL) == "M4.4"
    assert redeem(room, signed_by(KEY, token="other")) == "M4.5"
    assert redeem(room, signed, sender=CAROL) == "M4.6"
    room.member(BOB, "ban", sender=ALICE)
    assert redeem(room, signed) == "M4.1"


def test_redeeming_takes_neither_membership_nor_power_of_the_sender() -> None:
    # The rules say so: the power was asked for when the invitation was made.
    room = room_with_pending()
    room.levels(invite=100)
    room.member(ALICE, "leave")
    assert redeem(room, signed_by(KEY)) == OK


@pytest.mark.parametrize(
    "change", [{"mxid": CAROL}, {"token": "abc124"}, {"more": 1}, {"signatures": {}}, {"signatures": None}]
)
def test_a_statement_that_was_changed_after_signing_is_refused(change: dict[str, Any]) -> None:
    room = room_with_pending()
    room.set("m.room.third_party_invite", {"public_key": public(KEY)}, state_key="abc124", sender=ALICE)
    signed = {**signed_by(KEY), **change}
    assert redeem(room, signed, target=signed["mxid"]) == "M4.7"


def test_any_key_of_the_invitation_will_do() -> None:
    both = {"public_key": public(OTHER_KEY), "public_keys": [{"public_key": public(AWKWARD_KEY)}]}
    assert redeem(room_with_pending(**both), signed_by(AWKWARD_KEY)) == OK
    assert redeem(room_with_pending(**both), signed_by(OTHER_KEY)) == OK
    assert redeem(room_with_pending(**both), signed_by(KEY)) == "M4.7"


def test_any_signature_of_the_statement_will_do() -> None:
    signed = sign_json(signed_by(OTHER_KEY), "second.example", AWKWARD_KEY)
    signed = sign_json(signed, "second.example", KEY)
    assert set(signed["signatures"]["second.example"]) == {"ed25519:0", "ed25519:1"}
    assert redeem(room_with_pending(), signed) == OK


def test_keys_are_read_in_both_alphabets_with_or_without_padding() -> None:
    standard = public(AWKWARD_KEY)
    urlsafe = unpadded_base64.encode_urlsafe(AWKWARD_KEY.verify_key)
    assert standard != urlsafe
    for spelling in (standard, urlsafe, standard + "=", urlsafe + "="):
        assert redeem(room_with_pending(public_key=spelling), signed_by(AWKWARD_KEY)) == OK


@pytest.mark.parametrize("junk", [None, 5, "", "!!!", "AAAA", ["x"], {"public_key": "x"}])
def test_what_is_no_key_is_passed_over(junk: object) -> None:
    keys = [{"public_key": junk}, junk, {}, {"public_key": public(KEY)}]
    assert redeem(room_with_pending(public_key=junk, public_keys=keys), signed_by(KEY)) == OK
    assert redeem(room_with_pending(public_key=junk, public_keys=junk), signed_by(KEY)) == "M4.7"


@pytest.mark.parametrize(
    "signatures",
    [
        {"identity.example": None},
        {"identity.example": []},
        {"identity.example": {"ed25519:0": None}},
        {"identity.example": {"ed25519:0": "AAAA"}},
        {"identity.example": {"ed25519:0": "!"}},
        "x",
        [],
    ],
)
def test_malformed_signatures_are_refused(signatures: object) -> None:
    assert redeem(room_with_pending(), {**signed_by(KEY), "signatures": signatures}) == "M4.7"


def test_only_ed25519_signatures_count() -> None:
    signed = signed_by(KEY)
    value = signed["signatures"]["identity.example"]["ed25519:0"]
    assert redeem(room_with_pending(), {**signed, "signatures": {"identity.example": {"other:0": value}}}) == "M4.7"


def test_only_256_pairs_of_a_signature_and_a_key_are_tried() -> None:
    right, wrong = {"public_key": public(KEY)}, {"public_key": public(OTHER_KEY)}
    assert redeem(room_with_pending(public_keys=[wrong] * 255 + [right]), signed_by(KEY)) == OK
    assert redeem(room_with_pending(public_keys=[wrong] * 256 + [right]), signed_by(KEY)) == "M4.7"
    flooded = signed_by(KEY)
    flooded["signatures"]["another.example"] = {f"ed25519:{number}": "AAAA" for number in range(1000)}
    flooded["signatures"]["identity.example"] = flooded["signatures"].pop("identity.example")
    assert redeem(room_with_pending(), flooded) == "M4.7"


def test_the_caller_may_bring_a_verifier_which_sees_the_statement_and_the_keys() -> None:
    room = room_with_pending(public_key=public(KEY), public_keys=[{"public_key": public(OTHER_KEY)}])
    signed = {"mxid": BOB, "token": TOKEN, "signatures": {}}
    content = {"membership": "invite", "third_party_invite": {"signed": signed}}
    event = room.event("m.room.member", content, state_key=BOB)
    seen: list[tuple[Mapping[str, Any], Sequence[bytes]]] = []

    def verifier(statement: Mapping[str, Any], keys: Sequence[bytes]) -> bool:
        seen.append((statement, keys))
        return len(seen) == 1

    check_event_auth(event, room.auth_state, verify_third_party=verifier)
    assert seen == [(signed, [KEY.verify_key, OTHER_KEY.verify_key])]
    with pytest.raises(AuthRuleViolation) as refusal:
        check_event_auth(event, room.auth_state, verify_third_party=verifier)
    assert refusal.value.rule == "M4.7"
