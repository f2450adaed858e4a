"""Parts that wait together: nobody stays behind, and what another part of the batch writes better is not written."""

from hypothesis import given
from hypothesis import strategies as st

from homeserver.services.fanout_batch import without_superseded

moves = st.tuples(
    st.sampled_from("ab"), st.integers(0, 2), st.integers(1, 5), st.sampled_from([None, None, True, False])
).map(list)
batches = st.lists(st.lists(moves, max_size=6).map(lambda listed: {"room": "!r", "moves": listed}), max_size=5)


@given(batches)
def test_every_slot_gets_as_far_as_before_and_every_mark_is_kept(parts):
    def furthest(batch):
        found: dict[tuple[str, int], int] = {}
        for part in batch:
            for user, slot, position, _ in part["moves"]:
                found[user, slot] = max(position, found.get((user, slot), 0))
        return found

    def marks(batch):
        return [move for part in batch for move in part["moves"] if move[3] is not None]

    kept = without_superseded(parts)
    assert len(kept) == len(parts)
    assert furthest(kept) == furthest(parts)
    assert marks(kept) == marks(parts)
    for part in kept:
        assert all(move[3] is not None or move[2] == furthest(parts)[move[0], move[1]] for move in part["moves"])


def test_five_events_of_one_room_are_one_write_a_member() -> None:
    parts = [{"room": "!r", "arrived": n, "moves": [["@a:x", 1, n, None], ["@b:x", 7, n, None]]} for n in range(1, 6)]
    kept = without_superseded(parts)
    assert [part["moves"] for part in kept] == [[], [], [], [], [["@a:x", 1, 5, None], ["@b:x", 7, 5, None]]]
    assert [part["arrived"] for part in kept] == [1, 2, 3, 4, 5]


def test_what_is_malformed_is_left_as_it_is() -> None:
    parts = [{}, {"moves": [["@a:x"]]}, {"moves": "x"}, {"slots": [], "ephemeral": 3}]
    assert without_superseded(parts) == parts
