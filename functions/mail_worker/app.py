"""Sends the mails that requests ask for; invoked by them without waiting (services/mails.py).

Lambda tries an invocation again that failed, twice within some minutes; then nobody waits for the mail any more.
"""

from typing import Any

from homeserver.observability import cost_metered
from homeserver.services.mail_delivery import deliver
from homeserver.settings import settings


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, bool]:
    """`{"mail", "key", "address", "user_agent", "base_url"}` -> whether a mail went out."""
    with cost_metered("mail_worker", enabled=settings().cost_meter):
        return {"sent": deliver(event)}
