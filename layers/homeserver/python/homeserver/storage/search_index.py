"""The search index of rooms: one immutable item for each complete bucket of a timeline, made when a search needs it.

An item is only a filter: whoever finds a candidate in it reads the entry and looks again. A redaction takes the item's
postings away in its own commit and counts `changes`, on which every write of an item is conditional: what was read
before the redaction is never stored after it. Items of another epoch (after a restore positions mean other events) or
another format count as absent. Dropping the whole table costs nothing but time.
"""

from dataclasses import dataclass

from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import PutError
from pynamodb.expressions.condition import Condition

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction, query_range
from homeserver.storage.room_items import BUCKET_POSITIONS

FORMAT = 1


class SearchBucket(Item):
    """The index of the positions of one timeline bucket."""

    class Meta:
        table_name = table_name("SEARCH")

    room = UnicodeAttribute(hash_key=True)
    bucket = NumberAttribute(range_key=True)
    f = NumberAttribute(null=True)
    epoch = NumberAttribute(attr_name="ep", null=True)
    started = NumberAttribute(attr_name="t", null=True)  # milliseconds: when the first of its entries arrived
    changes = NumberAttribute(attr_name="c", null=True)
    postings = BinaryAttribute(attr_name="p", legacy_encoding=False, null=True)


@dataclass(frozen=True, slots=True)
class StoredBucket:
    """What is stored of a bucket: `postings` None where it has to be made; `changes` is what a write is based on."""

    postings: bytes | None
    started: int
    changes: int | None


NOTHING_STORED = StoredBucket(None, 0, None)


def bucket_number(position: int) -> int:
    """The number of the bucket that holds a position."""
    return (position - 1) // BUCKET_POSITIONS


def read_buckets(room_id: str, low: int, high: int, epoch: int) -> dict[int, StoredBucket]:
    """What is stored of the buckets from low to high, in one Query, read eventually."""
    found = {}
    for item in query_range(SearchBucket, room_id, low=low, high=high, consistent=False):
        usable = item.postings is not None and (item.f, item.epoch) == (FORMAT, epoch)
        changes = int(item.changes) if item.changes is not None else None
        found[int(item.bucket)] = StoredBucket(item.postings if usable else None, int(item.started or 0), changes)
    return found


def store_bucket(room_id: str, bucket: int, *, postings: bytes, started: int, epoch: int, changes: int | None) -> bool:
    """Write the index of a complete bucket; False, and nothing written, if one of its events was redacted meanwhile."""
    unchanged: Condition = SearchBucket.changes.does_not_exist() if changes is None else SearchBucket.changes == changes
    item = SearchBucket(room_id, bucket, f=FORMAT, epoch=epoch, started=started, changes=changes, postings=postings)
    try:
        item.save(unchanged)
    except PutError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True


def forget_bucket(transaction: Transaction, room_id: str, position: int) -> None:
    """Add to a redaction: the index of the bucket that holds the position knows nothing any more."""
    item = SearchBucket(room_id, bucket_number(position))
    transaction.update("search", item, [SearchBucket.changes.add(1), SearchBucket.postings.remove()])
