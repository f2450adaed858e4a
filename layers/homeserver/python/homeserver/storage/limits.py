"""Rate limit buckets: one item each, which holds the time up to which the bucket is spent.

The algorithm is GCRA (ITU-T I.371): a bucket's *theoretical arrival time* moves on by one interval with each
request; a request that would leave it further ahead of the clock than the tolerance is refused.
"""

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.condition import Condition

from homeserver.settings import table_name
from homeserver.storage.connection import Item

_TTL_SLACK_S = 60
_TRIES = 4
_HINTS = 4096


class Bucket(Item):
    """A bucket. `arrival` is in milliseconds; `expires`, in seconds, is when DynamoDB may remove the item."""

    class Meta:
        table_name = table_name("LIMITS")

    bucket = UnicodeAttribute(hash_key=True)
    arrival = NumberAttribute(attr_name="tat")
    expires = NumberAttribute()


# How far each bucket was known to be spent: says which of the two writes is likely to succeed (the conditions
# decide), and refuses a flood without asking the table.
_hints: dict[str, int] = {}


def spend(bucket: str, *, now: int, interval: int, tolerance: int) -> int:
    """Take one request from a bucket: 0 if it was taken, else the milliseconds to wait before the next try.

    All times are in milliseconds. One UpdateItem in the common case; exact whatever happens at the same time,
    because an idle bucket is set and a busy one is added to, each only as long as it is that.
    """
    item = Bucket(bucket)
    expires = (now + tolerance + interval) // 1000 + _TTL_SLACK_S
    known = _hints.get(bucket, 0)
    if known > now + tolerance:  # the time only ever moves on: no need to ask
        return known - tolerance - now
    busy = known > now
    for _ in range(_TRIES):
        try:
            if busy:
                item.update(
                    [Bucket.arrival.add(interval), Bucket.expires.set(expires)],
                    Bucket.arrival.between(now + 1, now + tolerance),
                )
            else:
                idle: Condition = Bucket.arrival.does_not_exist() | (Bucket.arrival <= now)
                item.update([Bucket.arrival.set(now + interval), Bucket.expires.set(expires)], idle)
        except UpdateError as error:
            if error.cause_response_code != "ConditionalCheckFailedException":
                raise
            stored = Bucket.fetch(bucket)
            spent_until = int(stored.arrival) if stored else 0
            if spent_until > now + tolerance:
                _remember(bucket, spent_until)
                return spent_until - tolerance - now
            busy = spent_until > now
        else:
            _remember(bucket, int(item.arrival))
            return 0
    return interval


def _remember(bucket: str, spent_until: int) -> None:
    if len(_hints) >= _HINTS:
        _hints.clear()
    _hints[bucket] = spent_until
