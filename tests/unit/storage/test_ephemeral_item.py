"""The item of a room's latest receipts: small whatever comes, and nothing is lost that leaves it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.storage.ephemeral import Receipt, RoomEphemeral, _pack, _size

receipts = st.builds(
    Receipt,
    user_id=st.integers(0, 12).map(lambda n: f"@user{n}:example.org"),
    kind=st.just("m.read"),
    thread=st.sampled_from(["", "main", "$" + "t" * 43]),
    event_id=st.sampled_from(["$" + "e" * 43, "$short"]),
    ts=st.just(1_800_000_000_000),
    position=st.integers(1, 100_000),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(receipts, max_size=60))
def test_one_receipt_leaves_at_most_for_each_that_comes_and_the_item_stays_one_write_unit(
    changes: list[Receipt],
) -> None:
    item, rows, latest = RoomEphemeral("!room"), {}, {}
    for change in changes:
        item = item.with_receipt(change)
        assert len(item.evicted) <= 1
        rows.update({receipt.key: receipt for receipt in item.evicted})
        latest[change.key] = item.number
        # Beside them stand at most 160 bytes of who is typing, and some hundred of names and numbers.
        assert len(_pack(item.receipts)) <= 750
        known = {**rows, **{receipt.key: receipt for receipt in item.receipts}}
        assert {key: receipt.number for key, receipt in known.items()} == latest
        # Whoever was told up to `low` finds everything later in the item.
        assert {key for key, number in latest.items() if number > item.low} <= {r.key for r in item.receipts}


def test_an_item_grows_only_with_a_receipt_larger_than_any_before() -> None:
    item = RoomEphemeral("!room")
    for number in range(40):
        item = item.with_receipt(Receipt(f"@{number}:example.org", "m.read", "", "$short", 1, number))
    before = len(_pack(item.receipts))
    large = Receipt("@" + "x" * 200, "m.read", "$" + "t" * 43, "$" + "e" * 43, 1, 99)
    item = item.with_receipt(large)
    assert len(item.evicted) == 1
    assert len(_pack(item.receipts)) <= before + _size(large)
    grown = len(_pack(item.receipts))
    for number in range(20):
        item = item.with_receipt(Receipt("@" + f"{number:02}" + "y" * 198, "m.read", "", "$" + "e" * 43, 1, number))
        assert len(item.evicted) == 1
        assert len(_pack(item.receipts)) <= grown + _size(large)
