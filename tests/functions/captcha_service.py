"""The service that checks captchas, on loopback: it says what a test wants, and remembers what it was asked."""

import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl

from functions.loopback_service import LoopbackService

# What the widget of a captcha is to a page: a button that gives the answer "solved".
SCRIPT = """
const name = new URL(document.currentScript.src).searchParams.get("onload");
const buttons = [];
window.grecaptcha = {
  render(box, options) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `I am no robot (${options.sitekey})`;
    button.onclick = () => {
      button.disabled = true;
      options.callback("solved");
    };
    box.append(button);
    return buttons.push(button) - 1;
  },
  reset(id) {
    buttons[id].textContent = "Another try";
    buttons[id].disabled = false;
  },
};
window[name]();
"""


class CaptchaService(LoopbackService):
    """`answers`: response -> (status, body) of the check; `asked`: the forms that came, with their content type."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {"solved": (200, {"success": True})}
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__(self._handler())

    @property
    def settings(self) -> dict[str, str]:
        """A server that has its captchas here."""
        return {
            "RECAPTCHA_PUBLIC_KEY": "site-key",
            "RECAPTCHA_PRIVATE_KEY": "a-secret-key-of-captchas",
            "RECAPTCHA_VERIFY_URL": f"{self.url}/verify",
            "RECAPTCHA_SCRIPT_URL": f"{self.url}/api.js",
            "PLAIN_HTTP": "loopback",
            "FEDERATION_ALLOW_RANGES": "127.0.0.0/8",
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, "text/javascript", SCRIPT.encode())

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = dict(parse_qsl(data))
                owner.asked.append((self.headers["Content-Type"], form))
                wrong = (200, {"success": False, "error-codes": ["invalid-input-response"]})
                status, body = owner.answers.get(form.get("response", ""), wrong)
                self._answer(status, "application/json", json.dumps(body).encode())

            def _answer(self, status: int, kind: str, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        return Handler
