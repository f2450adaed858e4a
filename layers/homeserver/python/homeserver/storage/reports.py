"""What users reported to the operator: partition = month (`2026-11`), sort key = `<milliseconds>/<random>`.

A month is one Query, oldest first (docs/operations.md, "Reports"). Nothing here is read by the server itself.
"""

import secrets
from datetime import UTC, datetime

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item

FORMAT = 1


class Report(Item):
    """One report. Exactly one of room, event (with its room) and user is what it is about."""

    class Meta:
        table_name = table_name("REPORTS")

    month = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    f = NumberAttribute(default=FORMAT)
    reporter = UnicodeAttribute()
    kind = UnicodeAttribute()  # room | event | user
    room = UnicodeAttribute(null=True)
    event = UnicodeAttribute(null=True)
    sender = UnicodeAttribute(null=True)  # who sent the event
    user = UnicodeAttribute(null=True)
    reason = UnicodeAttribute(null=True)
    score = NumberAttribute(null=True)  # -100 (worst) to 0, from clients older than v1.18
    known = BooleanAttribute(null=True)  # of a reported room: whether this server knows it


def store_report(report: Report, now: int) -> str:
    """Write a report under the time `now` (milliseconds); returns its key as `<month>/<milliseconds>/<random>`."""
    report.month = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m")
    report.k = f"{now:013d}/{secrets.token_hex(4)}"
    report.save()
    return f"{report.month}/{report.k}"
