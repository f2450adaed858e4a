"""A local run as a subprocess, for tests: starts, talks, stops, crashes, starts again on the same folder."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests/fixtures/local/template.yaml"
_READY_SECONDS = 30


class LocalProcess:
    """`python -m local` on a free port with one data folder."""

    module = "local"  # what is started, with `python -m`

    def __init__(self, data_dir: Path, *, template: Path = FIXTURE, **environment: str) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        self.data_dir = data_dir
        self.lines: list[str] = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            cwd=template.parent,
            env=inherited
            | {
                "PYTHONPATH": f"{ROOT / 'infra'}:{ROOT / 'layers/homeserver/python'}:{ROOT / 'tests'}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "DATA_DIR": str(data_dir),
                "PORT": "0",
            }
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("listening on "):
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> Self:
        if not self._ready.wait(_READY_SECONDS) or not self.port:
            self.kill()
            raise AssertionError("the local run did not start:\n" + "\n".join(self.lines))
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        assert self.process.stdout is not None
        self._reader.join(5)
        self.process.stdout.close()

    @property
    def port(self) -> int:
        return next((int(line.rsplit(":", 1)[1]) for line in self.lines if line.startswith("listening on ")), 0)

    def stop(self) -> int:
        """Stop it as Ctrl-C does; its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self) -> int:
        """End it as kill -9 does."""
        self.process.kill()
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(20)
        self._reader.join(5)
        return status

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a new connection: (status, headers by lower-case name, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            content = body.encode() if isinstance(body, str) else body
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if content is not None:
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: str | None = None, **headers: str) -> Any:
        """The JSON body of an answer that must be 2xx."""
        status, _, content = self.ask(method, path, body, {"Content-Type": "application/json"} | headers)
        assert 200 <= status < 300, (status, content)
        return json.loads(content)

    def note(self, name: str, number: str) -> None:
        """Write a note through the fixture's API."""
        status, _, body = self.ask("PUT", f"/notes/{name}", number, {"Content-Type": "text/plain"})
        assert (status, body) == (200, b"{}")

    def until(self, path: str, wanted: Any, seconds: float = 8.0) -> Any:
        """Ask until the answer contains `wanted` (a part of a JSON object); the last answer."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.json("GET", path)
            if wanted.items() <= found.items():
                return found
            assert time.monotonic() < deadline, f"{path} is {found}, not {wanted}"
            time.sleep(0.01)
