"""The first invitations of a new room that go to users of other servers.

Each server has to sign its users' invitations, and may take its time: so the servers are asked at the same time, the
users of one server one after the other. What fails is logged: the room is there, and who made it can invite again.

Source: client-server API v1.19, "Creation", `invite`; server-server API, "Inviting to a room".
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.identifiers import domain_of
from homeserver.observability import log
from homeserver.services.access_tokens import Requester
from homeserver.services.membership import invite

_AT_ONCE = 8
_BEGIN_S = 8.0  # with what an invitation takes at most, the request is answered in time
_MOST_FAILURES = 2  # of one server, which is then left alone


def invite_all(requester: Requester, room_id: str, user_ids: Sequence[str], *, is_direct: bool) -> None:
    """Invite users of other servers to a room that was just made; returns when all were asked, or time is up."""
    by_server: dict[str, list[str]] = {}
    for user_id in user_ids:
        by_server.setdefault(domain_of(user_id), []).append(user_id)
    if not by_server:
        return
    end = time.monotonic() + _BEGIN_S

    def ask(users: Sequence[str]) -> None:
        failures = 0
        for user_id in users:
            if time.monotonic() > end or failures >= _MOST_FAILURES:
                log.warning("%s made %s without inviting %s: no time", requester.user_id, room_id, user_id)
                continue
            try:
                invite(requester, room_id, user_id, reason=None, is_direct=is_direct)
            except MatrixError as error:
                failures += 1
                log.warning("%s made %s without inviting %s: %s", requester.user_id, room_id, user_id, error)

    with ThreadPoolExecutor(min(_AT_ONCE, len(by_server)), thread_name_prefix="invite") as threads:
        # The meter of this request counts on in the threads.
        for future in [threads.submit(copy_context().run, ask, users) for users in by_server.values()]:
            future.result()
