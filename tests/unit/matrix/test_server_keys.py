"""What servers publish of their keys, and for which signatures a key counts."""

import copy
from typing import Any

import pytest

from homeserver.matrix import unpadded_base64
from homeserver.matrix.errors import BadJson, MatrixError
from homeserver.matrix.server_keys import (
    MOST_KEYS,
    WEEK_MS,
    OldVerifyKey,
    VerifyKey,
    published_keys,
    read_published_keys,
    with_hearsay,
    with_news,
)
from homeserver.matrix.signing import SignatureError, SigningKey, sign_json

KEY = SigningKey.generate("new", bytes(range(32)))
OLD = SigningKey.generate("old", bytes(range(1, 33)))
HOUR = 3600 * 1000
NOW = 500_000 * HOUR + 1234


def answer(**change: Any) -> dict[str, Any]:
    keys = published_keys("a.org", KEY, [OldVerifyKey(OLD.key_id, OLD.verify_key, 1000)], now_ms=NOW)
    return sign_json({**keys, "signatures": {}, **change}, "a.org", KEY)


def test_what_is_published_is_read_back() -> None:
    assert read_published_keys(answer(), "a.org", now_ms=NOW) == {
        KEY.key_id: VerifyKey(KEY.verify_key, 500_024 * HOUR),
        OLD.key_id: VerifyKey(OLD.verify_key, 1000, 1000),
    }


def test_the_answer_is_the_same_for_an_hour_and_never_close_to_its_end() -> None:
    start, end = 500_000 * HOUR, 500_001 * HOUR - 1
    first, last = (published_keys("a.org", KEY, [], now_ms=now) for now in (start, end))
    assert first == last
    assert last["valid_until_ts"] - end > 22 * HOUR
    assert published_keys("a.org", KEY, [], now_ms=end + 1) != last


def test_a_key_is_believed_for_a_week_at_the_most() -> None:
    keys = read_published_keys(answer(valid_until_ts=NOW + 100 * WEEK_MS), "a.org", now_ms=NOW)
    assert keys[KEY.key_id].valid_until_ts == NOW + WEEK_MS


def test_the_keys_of_another_server_are_refused() -> None:
    with pytest.raises(SignatureError):
        read_published_keys(answer(), "b.org", now_ms=NOW)
    with pytest.raises(SignatureError):
        read_published_keys(answer(server_name="b.org"), "a.org", now_ms=NOW)


def test_an_answer_that_is_not_signed_by_a_key_in_use_is_refused() -> None:
    unsigned = {**answer(), "signatures": {}}
    by_old_key = sign_json(unsigned, "a.org", OLD)
    by_other_name = sign_json(unsigned, "b.org", KEY)
    changed = {**answer(), "valid_until_ts": NOW}
    for wrong in (unsigned, by_old_key, by_other_name, changed):
        with pytest.raises(SignatureError):
            read_published_keys(wrong, "a.org", now_ms=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"valid_until_ts": "soon"},
        {"valid_until_ts": True},
        {"valid_until_ts": -1},
        {"valid_until_ts": None},
        {"verify_keys": []},
        {"verify_keys": {"ed25519:new": "key"}},
        {"verify_keys": {"ed25519:new": {"key": "c2hvcnQ"}}},
        {"verify_keys": {"ed25519:new": {"key": 5}}},
        {"old_verify_keys": {"ed25519:old": {"key": unpadded_base64.encode(OLD.verify_key)}}},
        {"old_verify_keys": "none"},
        {
            "old_verify_keys": {
                f"ed25519:{n}": {"key": unpadded_base64.encode(OLD.verify_key), "expired_ts": n}
                for n in range(MOST_KEYS)
            }
        },
        {"verify_keys": {}},
    ],
)
def test_other_shapes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MatrixError):
        read_published_keys(answer(**change), "a.org", now_ms=NOW)


@pytest.mark.parametrize("wrong", [None, [], "x", 5, {}])
def test_what_is_no_object_is_refused(wrong: Any) -> None:
    with pytest.raises(SignatureError):
        read_published_keys(wrong, "a.org", now_ms=NOW)


def test_keys_of_other_algorithms_and_unknown_fields_are_passed_over() -> None:
    plain = answer()
    keys = copy.deepcopy(plain["verify_keys"]) | {"rsa:1": {"key": "x"}, "ed25519:": {"key": "x"}}
    assert read_published_keys(answer(verify_keys=keys, more=1), "a.org", now_ms=NOW).keys() == {
        KEY.key_id,
        OLD.key_id,
    }


@pytest.mark.parametrize(
    ("key", "at", "enforced", "not_enforced"),
    [
        (VerifyKey(b"", 1000), 999, True, True),
        (VerifyKey(b"", 1000), 1000, True, True),
        (VerifyKey(b"", 1000), 1001, False, True),
        (VerifyKey(b"", 1000, 1000), 999, True, True),
        (VerifyKey(b"", 1000, 1000), 1000, False, False),
    ],
)
def test_a_key_counts_until_its_time_is_over(key: VerifyKey, at: int, enforced: bool, not_enforced: bool) -> None:
    """Room versions 1 to 4 do not enforce the validity of a key in use."""
    assert key.counts_at(at, enforce_validity=True) is enforced
    assert key.counts_at(at, enforce_validity=False) is not_enforced


def test_a_key_that_is_not_listed_any_more_is_kept_and_a_listed_one_is_replaced() -> None:
    known = {"ed25519:1": VerifyKey(b"1", 10), "ed25519:2": VerifyKey(b"2", 10)}
    news = {"ed25519:2": VerifyKey(b"2", 5, 5), "ed25519:3": VerifyKey(b"3", 20)}
    assert with_news(known, news) == {"ed25519:1": VerifyKey(b"1", 10), **news}


def test_not_more_keys_are_remembered_than_a_server_may_have() -> None:
    known = {f"ed25519:{n}": VerifyKey(b"", n) for n in range(MOST_KEYS)}
    merged = with_news(known, {"ed25519:new": VerifyKey(b"", 0)})
    assert len(merged) == MOST_KEYS
    assert "ed25519:new" in merged
    assert "ed25519:0" not in merged


def test_hearsay_adds_keys_and_time_and_never_makes_an_expired_key_count_again() -> None:
    known = {"ed25519:gone": VerifyKey(b"g", 5, 5), "ed25519:here": VerifyKey(b"h", 10)}
    told = {
        "ed25519:gone": VerifyKey(b"g", 99),
        "ed25519:here": VerifyKey(b"h", 20),
        "ed25519:other": VerifyKey(b"o", 1),
    }
    assert with_hearsay(known, told) == {
        "ed25519:gone": VerifyKey(b"g", 5, 5),
        "ed25519:here": VerifyKey(b"h", 20),
        "ed25519:other": VerifyKey(b"o", 1),
    }
    assert with_hearsay(known, {"ed25519:here": VerifyKey(b"x", 20)})["ed25519:here"] == VerifyKey(b"h", 10)


def test_a_shape_error_says_what_is_wrong() -> None:
    with pytest.raises(BadJson, match="valid_until_ts"):
        read_published_keys(answer(valid_until_ts="soon"), "a.org", now_ms=NOW)
