"""`m.login.dummy`: a stage that always succeeds. Source: client-server API v1.19, "Dummy Auth"."""

from collections.abc import Mapping
from typing import Any, ClassVar

from homeserver.services.login_stages.stage import Attempt, Completed


class Dummy:
    """Nothing has to be shown."""

    stage_type: ClassVar[str] = "m.login.dummy"

    def describe(self) -> Mapping[str, Any]:
        return {}

    def start(self, attempt: Attempt) -> Completed:
        return Completed()

    submit = start


STAGE = Dummy()
