"""The waiting loop and large rooms: what an inbox does not follow, the heads tell."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from homeserver.adapters import slim_aws
from homeserver.storage import large_rooms
from homeserver.storage.inbox_shards import slot_item_key
from unit.services.sync_wait_fakes import ALICE, FakeStore, FakeTime, ask, fake_store, next_batch

ROOM = "!large:example.org"


@dataclass(slots=True)
class StoreWithHeads:
    """A store that also answers BatchGetItem: of slots, and of the one head."""

    store: FakeStore
    head: int = 5
    read: list[str] = field(default_factory=list)

    def __call__(self, service: str, target: str, body: bytes) -> tuple[int, bytes]:
        if target != "BatchGetItem":
            return self.store(service, target, body)
        ((table, wanted),) = json.loads(body)["RequestItems"].items()
        self.read.append(table)
        if table == "inbox":
            assert wanted["Keys"] == [{"user": {"S": f"{ALICE}#slots"}, "k": {"S": slot_item_key(0)}}]
            rows = [{**wanted["Keys"][0], "r": {"S": ROOM}}]
        else:
            assert wanted == {"Keys": [{"room": {"S": ROOM}, "k": {"S": "head"}}], "ConsistentRead": False}
            head = {"p": {"N": str(self.head)}, "r": {"B": b64encode(b"root").decode()}, "ta": {"N": "1768472430123"}}
            rows = [{**wanted["Keys"][0], **head}]
        return 200, json.dumps({"Responses": {table: rows}}).encode()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreWithHeads]:
    monkeypatch.setenv("ROOMS_TABLE", "rooms")
    large_rooms._rooms.clear()
    for fake in fake_store(monkeypatch):
        with_heads = StoreWithHeads(fake)
        monkeypatch.setattr(slim_aws, "transport", with_heads)
        yield with_heads
    large_rooms._rooms.clear()


def test_a_head_that_is_ahead_is_news_at_once(store: StoreWithHeads) -> None:
    store.store.advance(0, 3, kind="h")
    store.head = 6
    time = FakeTime()
    assert next_batch(ask(time)) == "s1"
    assert (time.elapsed, store.read) == (0, ["inbox", "rooms"])


def test_a_head_that_moves_while_the_inbox_does_not_ends_the_wait(store: StoreWithHeads) -> None:
    store.store.advance(0, 3, kind="h")
    time = FakeTime()
    time.at(4.0, lambda: setattr(store, "head", 6))
    assert next_batch(ask(time)) == "s1"
    assert 4.0 <= time.elapsed < 5.0
    assert store.read.count("inbox") == 1  # which room a slot is never changes
    assert store.read.count("rooms") == store.store.calls.count("Query inbox")


@pytest.mark.parametrize("mark", [None, -3])
def test_without_a_mark_no_head_is_looked_at(store: StoreWithHeads, mark: int | None) -> None:
    if mark is not None:
        store.store.advance(0, mark, kind="h")
    store.head = 6
    answer = ask(FakeTime())
    assert (answer.empty, store.read) == (True, [])
