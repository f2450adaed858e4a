from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.sync_token import MAX_SLOT, RoomToken, SyncToken, decode_either, user_tag
from homeserver.matrix.varint import MAX_VARINT

ALICE = "@alice:example.org"
numbers = st.integers(1, MAX_VARINT)
vectors = st.dictionaries(st.integers(0, 40) | st.integers(0, MAX_SLOT), numbers, max_size=30)
streams = st.dictionaries(
    st.sampled_from(["account_data", "invites", "to_device", "device_lists", "presence"]), numbers
)
tokens = st.builds(
    SyncToken,
    epoch=st.integers(0, MAX_VARINT),
    user_tag=st.just(user_tag(ALICE)),
    positions=vectors,
    ephemeral=vectors,
    streams=streams,
    base=st.integers(0, MAX_VARINT),
    typing=st.just({}) | vectors,
)


def as_text(data: bytes) -> str:
    return "s" + urlsafe_b64encode(data).rstrip(b"=").decode()


def with_body(body: bytes) -> str:
    """A token whose version, epoch (1), user and base (0) are right, and whose rest is `body`."""
    return as_text(b"\x01\x01" + user_tag(ALICE) + b"\x00" + body)


@given(tokens)
def test_a_token_comes_back_as_it_was_written(token):
    assert SyncToken.decode(token.encode(), user_id=ALICE) == token


@given(st.text() | st.text("s-_ABab019", max_size=30).map("s".__add__))
def test_any_text_is_a_token_or_an_invalid_parameter(text):
    try:
        token = SyncToken.decode(text, user_id=ALICE)
    except InvalidParam:
        return
    assert token.encode() == text


@given(st.binary(max_size=40))
def test_any_bytes_are_the_one_encoding_of_a_token_or_refused(data):
    text = with_body(data)
    try:
        token = SyncToken.decode(text, user_id=ALICE)
    except InvalidParam:
        return
    assert token.encode() == text


@given(tokens, st.data())
def test_a_damaged_token_is_the_one_encoding_of_another_or_refused(token, data):
    raw = bytearray(urlsafe_b64decode(token.encode()[1:] + "=="))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = SyncToken.decode(as_text(raw), user_id=ALICE)
    except InvalidParam:
        return
    assert other != token
    assert other.encode() == as_text(raw)


@given(tokens, st.data())
def test_a_cut_off_token_is_refused(token, data):
    raw = urlsafe_b64decode(token.encode()[1:] + "==")
    with pytest.raises(InvalidParam, match="not a sync token"):
        SyncToken.decode(as_text(raw[: data.draw(st.integers(0, len(raw) - 1))]), user_id=ALICE)


@given(tokens, st.binary(min_size=1, max_size=5))
def test_a_token_with_something_behind_it_is_refused(token, rest):
    raw = urlsafe_b64decode(token.encode()[1:] + "==")
    with pytest.raises(InvalidParam, match="not a sync token"):
        SyncToken.decode(as_text(raw + rest), user_id=ALICE)


def test_the_bytes_of_a_known_token_never_change():
    token = SyncToken(3, user_tag(ALICE), {0: 7, 1: 300, 4: 1}, {1: 2}, {"to_device": 9, "account_data": 5}, base=6)
    assert (
        urlsafe_b64decode(token.encode()[1:] + "==")
        == (
            b"\x01\x03" + user_tag(ALICE) + b"\x06"
            b"\x02\x01\x05\x03\x09"  # two streams: account data 5, to-device 9
            b"\x02\x00\x01\x07\xac\x02\x02\x00\x01"  # two runs: slots 0 and 1, then two slots on slot 4
            b"\x01\x01\x00\x02"  # one run: slot 1
        )
    )


def test_a_token_that_knows_of_typing_users_is_of_the_second_version():
    token = SyncToken(3, user_tag(ALICE), {0: 7}, {0: 2}, typing={0: 1_000})
    raw = urlsafe_b64decode(token.encode()[1:] + "==")
    assert raw == b"\x02\x03" + user_tag(ALICE) + b"\0\0" + b"\x01\0\0\x07" + b"\x01\0\0\x02" + b"\x01\0\0\xe8\x07"
    assert SyncToken.decode(token.encode(), user_id=ALICE).typing == {0: 1_000}
    with pytest.raises(InvalidParam):
        SyncToken.decode(as_text(b"\x02" + raw[1:-5] + b"\0"), user_id=ALICE)


def test_zeros_say_the_same_as_nothing():
    token = SyncToken(1, user_tag(ALICE), {0: 0, 1: 5, 2: 0}, {3: 0}, {"invites": 0})
    plain = SyncToken(1, user_tag(ALICE), {1: 5})
    assert token.encode() == plain.encode()
    assert SyncToken.decode(token.encode(), user_id=ALICE) == plain


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "sA",
        "s!!!!",
        "sAAAA=",
        "sé",
        "t1_0",
        "s12_34_56",
        "s" + "A" * 65_536,
        with_body(b"\x00\x00\x00")[:-1] + "B",  # bits of the last character that mean nothing
        as_text(b"\x02\x01" + user_tag(ALICE) + b"\x00\x00\x00\x00"),  # a version of the future
        as_text(b"\x01\x81\x00" + user_tag(ALICE) + b"\x00\x00\x00\x00"),  # a number longer than needed
        with_body(b"\x01\x06\x05\x00\x00"),  # a stream that does not exist
        with_body(b"\x01\x01\x00\x00\x00"),  # a stream at 0
        with_body(b"\x02\x02\x01\x01\x01\x00\x00"),  # streams out of order
        with_body(b"\x02\x01\x01\x01\x01\x00\x00"),  # a stream twice
        with_body(b"\x00\x01\xa1\x8d\x06\x00\x01\x00"),  # slot 100,001
        with_body(b"\x00\x01\x00\xa1\x8d\x06\x01\x00"),  # a run up to slot 100,001
        with_body(b"\x00\x01\x00\x00\x00\x00"),  # a position of 0
        with_body(b"\x00\x02\x00\x00\x01\x00\x00\x01\x00"),  # runs that touch
        with_body(b"\x00\xff\xff\xff\xff\x0f\x00"),  # more runs than there are bytes
    ],
)
def test_what_encode_does_not_write_is_refused(text):
    with pytest.raises(InvalidParam, match="not a sync token") as raised:
        SyncToken.decode(text, user_id=ALICE)
    assert (raised.value.status, raised.value.errcode) == (400, "M_INVALID_PARAM")


def test_the_last_slot_there_can_be_is_accepted():
    text = with_body(b"\x00\x01\xa0\x8d\x06\x00\x01\x00")
    assert SyncToken.decode(text, user_id=ALICE).positions == {100_000: 1}


def test_the_token_of_another_user_is_refused():
    text = SyncToken(1, user_tag("@bob:example.org"), {0: 5}).encode()
    assert SyncToken.decode(text, user_id="@bob:example.org").positions == {0: 5}
    with pytest.raises(InvalidParam, match="of this user"):
        SyncToken.decode(text, user_id=ALICE)


@pytest.mark.parametrize(
    "token",
    [
        SyncToken(-1, user_tag(ALICE)),
        SyncToken(1, b"abc"),
        SyncToken(1, user_tag(ALICE), {0: -1}),
        SyncToken(1, user_tag(ALICE), {MAX_SLOT + 1: 1}),
        SyncToken(1, user_tag(ALICE), {-1: 1}),
        SyncToken(1, user_tag(ALICE), base=-1),
    ],
)
def test_a_token_that_could_not_be_read_is_not_written(token):
    with pytest.raises(ValueError, match=r"varint|slot|four bytes"):
        token.encode()


def test_a_stream_that_does_not_exist_is_not_written():
    with pytest.raises(KeyError):
        SyncToken(1, user_tag(ALICE), streams={"weather": 1}).encode()


def test_thirty_rooms_fit_into_a_hundred_characters_and_four_hundred_into_a_kilobyte():
    def length(rooms):
        positions = {slot: 100 + slot * 37 % 900 for slot in range(rooms)}
        return len(SyncToken(2, user_tag(ALICE), positions, {3: 12}, {"account_data": 40, "to_device": 900}).encode())

    assert length(30) < 110
    assert length(400) < 1150


def test_a_few_changes_on_a_base_stay_small_whatever_the_slots():
    changes = dict.fromkeys(range(0, 3000, 300), 5000)
    assert len(SyncToken(2, user_tag(ALICE), changes, base=17).encode()) < 100


def test_the_base_fills_in_what_the_token_does_not_say():
    token = SyncToken(2, user_tag(ALICE), {1: 50}, {1: 3}, {"invites": 4}, base=9)
    assert token.room_token(1) == RoomToken(50)
    with pytest.raises(ValueError, match="base"):
        token.room_token(0)
    complete = token.with_base({0: 7, 1: 20})
    assert complete == SyncToken(2, user_tag(ALICE), {0: 7, 1: 50}, {1: 3}, {"invites": 4}, base=0)
    assert complete.room_token(0) == RoomToken(7)
    assert complete.room_token(2) == RoomToken(0, 0)


@given(st.integers(0, 10**17), st.integers(-(10**17), 0))
def test_a_room_token_comes_back_as_it_was_written(live, offset):
    token = RoomToken(live, offset)
    assert RoomToken.decode(token.encode()) == token
    assert decode_either(token.encode(), user_id=ALICE) == token


def test_room_tokens_are_written_as_live_number_and_offset():
    assert RoomToken(12).encode() == "t12_0"
    assert RoomToken(12, -3).encode() == "t12_-3"


@pytest.mark.parametrize(
    "text",
    ["", "t", "t1", "t1_", "t_0", "t1_1", "t01_0", "t1_-0", "t-1_0", "t1_0 ", "t1_0\n", "t٣_0", "t" + "9" * 19 + "_0"],
)
def test_other_text_is_no_room_token(text):
    with pytest.raises(InvalidParam, match="not a token of a room"):
        RoomToken.decode(text)
    with pytest.raises(InvalidParam):
        decode_either(text, user_id=ALICE)


@given(st.text())
def test_any_text_is_a_room_token_or_an_invalid_parameter(text):
    try:
        token = RoomToken.decode(text)
    except InvalidParam:
        return
    assert token.encode() == text


@pytest.mark.parametrize("position", [(-1, 0), (1, 1)])
def test_a_position_that_cannot_be_has_no_token(position):
    with pytest.raises(ValueError, match="not a position"):
        RoomToken(*position).encode()


def test_the_gap_before_an_event_lies_after_the_history_fetched_for_it():
    gap = RoomToken.before(12)
    fetched_later = [RoomToken(12, -2), RoomToken(12, -1)]
    assert all(position <= gap for position in [RoomToken(11), *fetched_later])
    assert gap < RoomToken(12)
    assert RoomToken.before(12, -1) == RoomToken(12, -2)


def test_positions_are_ordered_history_before_its_anchor():
    ordered = [RoomToken(0), RoomToken(11), RoomToken(12, -2), RoomToken(12, -1), RoomToken(12), RoomToken(13, -1)]
    assert sorted(set(ordered)) == ordered


def test_messages_takes_sync_tokens_too():
    token = SyncToken(1, user_tag(ALICE), {4: 9})
    either = decode_either(token.encode(), user_id=ALICE)
    assert either == token
    assert either.room_token(4) == RoomToken(9)
    with pytest.raises(InvalidParam, match="of this user"):
        decode_either(token.encode(), user_id="@bob:example.org")
