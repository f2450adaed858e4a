"""SES, the second version of its API: the emulator decides what it takes, and what it took is captured."""

import asyncio
import base64
from collections.abc import Callable
from email.utils import parseaddr
from typing import Any

import orjson

from local.emulator import Emulator
from local.permissions import ses_resources
from local.unkind import Answer


class Ses:
    """`captured` gets each mail that was taken, as it is."""

    def __init__(self, emulator: Emulator, captured: Callable[[bytes], None]) -> None:
        self._emulator = emulator
        self._captured = captured

    def verify(self, sender: str) -> None:
        """Let it know whom mails come from, as the operator does on AWS: an address, with or without a name."""
        content = orjson.dumps({"EmailIdentity": parseaddr(sender)[1]})
        status, _, answer = self._call("POST", "/v2/email/identities", {}, content)
        if status != 200:
            raise RuntimeError(f"CreateEmailIdentity: {answer.decode()}")

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """A request of a function."""
        request = orjson.loads(body or b"{}")
        recorder = self._emulator.recorder
        if recorder is not None:
            for resource in ses_resources(request):
                for action in ("ses:SendEmail", "ses:SendRawEmail"):
                    recorder.add(action, resource)
        answer = self._call(method, path, headers, body)
        self._module._sent_emails_list().clear()  # nobody else reads them, and they hold what is secret
        if answer[0] == 200 and "Raw" in request.get("Content", {}):
            self._captured(base64.b64decode(request["Content"]["Raw"]["Data"]))
        return answer

    @property
    def _module(self) -> Any:
        return self._emulator._app._get_module("ses_v2")

    def _call(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        call = self._module.handle_request(method, path, headers, body, {})
        answer: Answer = asyncio.run_coroutine_threadsafe(call, self._emulator.loop).result()
        return answer
