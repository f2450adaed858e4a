"""Writing and sending a mail that was asked for: what the function `mail_worker` does."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from homeserver.adapters import mail
from homeserver.observability import fault_point, log
from homeserver.services import login_mails, mail_templates
from homeserver.services.login_stages.stage import Origin
from homeserver.services.mails import Mail, device_name
from homeserver.settings import settings


def deliver(event: Mapping[str, Any]) -> bool:
    """Send what `mails.request_mail` asked for; whether a mail went out.

    Somebody may not be meant to get one; or it went out already: an event can come more than once. Raises what the
    sending raises if it is worth another try, which Lambda makes.
    """
    kind, key = str(event["mail"]), str(event["key"])
    origin = Origin(str(event["address"]), str(event["user_agent"]), str(event["base_url"]))
    prepare = _PREPARE.get(kind)
    if prepare is None or not settings().mail_from:
        log.error("a mail of the kind %s cannot be sent here", kind)
        return False
    prepared = prepare(key, origin)
    if prepared is None:
        return False
    fault_point("mail.before_sending")
    try:
        _send(prepared, origin)
    except mail.MailRefused as refused:
        # It will be refused the next time too: whoever waits for it asks again, or finds the mistake in the address.
        log.error("a mail of the kind %s was refused: %s", kind, refused)
        if prepared.sent is not None:
            prepared.sent()
        return False
    except Exception:
        if prepared.not_sent is not None:
            prepared.not_sent()
        raise
    fault_point("mail.sent")
    if prepared.sent is not None:
        prepared.sent()
    return True


def _send(prepared: Mail, origin: Origin) -> None:
    values = {
        "server_name": settings().server_name,
        "requester": f"{device_name(origin.user_agent)} at the address {origin.address or 'unknown'}",
        "requested": time.strftime("%d %B %Y at %H:%M UTC", time.gmtime()).lstrip("0"),
        **prepared.values,
    }
    written = mail_templates.written(prepared.template, values)
    mail.send(settings().mail_from, prepared.to, written.subject, written.text, written.html)


def _validation(key: str, origin: Origin) -> Mail | None:
    from homeserver.services import validation_mails  # noqa: PLC0415 - needed by few mails, and it loads a lot

    return validation_mails.prepare(key)


_PREPARE: dict[str, Callable[[str, Origin], Mail | None]] = {
    "login_code": login_mails.prepare_code,
    "login_link": login_mails.prepare_link,
    "validation": _validation,
}
