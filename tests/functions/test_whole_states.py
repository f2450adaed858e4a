"""States that fill more than one page of a Query."""

import math
from typing import Any

import pytest

from functions.harness import User
from functions.rooms import create_room, set_state
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.observability import metered
from homeserver.storage.connection import connection, query_whole
from homeserver.storage.room_items import HEAD, Head, StateRow
from homeserver.storage.rooms import current_state


@pytest.mark.parametrize("items_a_page", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize("more", [0, 1, 9])
def test_pages_are_read_from_both_ends_and_nothing_is_missing(
    alice: User, monkeypatch: pytest.MonkeyPatch, items_a_page: int, more: int
) -> None:
    room_id = create_room(alice)
    for number in range(more):
        assert (
            set_state(alice, room_id, f"org.example.{'äz'[number % 2]}", {"n": number}, key=f"k{number}").status == 200
        )
    whole = [row.k for row in query_whole(StateRow, room_id, "state/")]
    head = Head.fetch(room_id, HEAD)
    state = current_state(head, ROOM_VERSIONS[head.room_version])
    assert len(whole) == len(state) == len(set(whole)) >= 6 + more
    assert whole == sorted(whole, key=str.encode)
    dispatch = connection().dispatch

    read = 0

    def in_small_pages(operation: str, request: dict[str, Any]) -> Any:
        nonlocal read
        answer = dispatch(operation, {**request, "Limit": items_a_page} if operation == "Query" else request)
        read += len(answer["Items"])
        return answer

    monkeypatch.setattr(connection(), "dispatch", in_small_pages)
    with metered() as meter:
        assert [row.k for row in query_whole(StateRow, room_id, "state/")] == whole
    # The first page alone, then two at a time; a page that is full to the end needs another look.
    pages = math.ceil((len(whole) + 1) / items_a_page)
    assert meter.rounds <= 1 + math.ceil(pages / 2)
    # Where the two ends meet one page may come from both, and the item that either has come to.
    assert read <= len(whole) + items_a_page + 2
