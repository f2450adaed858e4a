"""A real Synapse on loopback, with a folder of its own: configured, started and stopped by its process ID.

It comes from `make synapse`; `SYNAPSE_PYTHON` may name another Python that has it.
"""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import orjson

from e2e.client import Answer, Client
from e2e.gate import Gate
from federation_peer import free_port
from local.certificate import CERTIFICATE, KEY, certificate_of

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("SYNAPSE_PYTHON") or ROOT / ".tools" / "synapse" / "bin" / "python")
IS_ABSENT = not PYTHON.is_file()
WHY_ABSENT = "Synapse is not installed (`make synapse`, or SYNAPSE_PYTHON): federation with it is not tried"
_READY_SECONDS = 60
_NO_LIMIT = {"per_second": 100_000, "burst_count": 100_000}
# What Synapse would slow down, by the names of its settings.
_LIMITS = {
    "rc_message": _NO_LIMIT,
    "rc_registration": _NO_LIMIT,
    "rc_login": {"address": _NO_LIMIT, "account": _NO_LIMIT, "failed_attempts": _NO_LIMIT},
    "rc_joins": {"local": _NO_LIMIT, "remote": _NO_LIMIT},
    "rc_joins_per_room": _NO_LIMIT,
    "rc_invites": {"per_room": _NO_LIMIT, "per_user": _NO_LIMIT, "per_issuer": _NO_LIMIT},
    "rc_room_creation": _NO_LIMIT,
    "rc_presence": {"per_user": _NO_LIMIT},
    "rc_user_directory": _NO_LIMIT,
    "rc_profile": _NO_LIMIT,
    "rc_federation": {
        "window_size": 1000,
        "sleep_limit": 100_000,
        "sleep_delay": 1,
        "reject_limit": 100_000,
        "concurrent": 100,
    },
}


class UserOfSynapse(Client):
    """A user of it: the specification is what our answers are compared with, not Synapse's."""

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return self.ask_anything(method, path, body, **more)

    def _take(self, room_id: str, timeline: Mapping[str, Any], before: str | None) -> None:
        """It tells a part of a room again to who comes back."""
        seen = self.seen.setdefault(room_id, [])
        known = {event["event_id"] for event in seen}
        seen += [event for event in timeline.get("events", ()) if event["event_id"] not in known]


class Synapse:
    """One Synapse; it listens for servers at its name, `localhost:<port>`, and for clients without TLS.

    Behind a gate its name is the gate's address, and it listens where the gate leads.
    """

    def __init__(self, folder: Path, gate: Gate | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._federation_port = gate.target if gate else free_port()
        self.name = f"localhost:{gate.port if gate else self._federation_port}"
        self._client_port = free_port()
        self._clients: list[Client] = []
        self._process: subprocess.Popen[bytes] | None = None
        certificate_of(folder, self.name, (None, None))
        self._config = folder / "homeserver.yaml"
        # JSON is YAML.
        self._config.write_bytes(orjson.dumps(self._settings(), option=orjson.OPT_INDENT_2))
        (folder / "log.yaml").write_bytes(orjson.dumps(_log_settings(folder / "homeserver.log")))
        self._call("--generate-keys")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self.stop()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self._client_port}"

    @property
    def federation(self) -> str:
        """Where servers connect to."""
        return f"https://{self.name}"

    @property
    def certificate(self) -> Path:
        return self.folder / CERTIFICATE

    @property
    def log(self) -> str:
        file = self.folder / "homeserver.log"
        return file.read_text(errors="replace") if file.is_file() else ""

    def start(self) -> None:
        """Start it, again with what it stored; returns when it answers."""
        assert self._process is None
        with (self.folder / "stdout.log").open("ab") as out:
            self._process = subprocess.Popen(self._command(), cwd=self.folder, stdout=out, stderr=out)
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end:
            assert self._process.poll() is None, (self.folder / "stdout.log").read_text()
            try:
                httpx.get(f"{self.url}/_matrix/client/versions", trust_env=False, timeout=2)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise AssertionError("Synapse did not start:\n" + self.log[-4000:])

    def stop(self) -> None:
        """Stop it as an operator does; what is stored stays."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def register(self, name: str) -> Client:
        """A new user."""
        client = UserOfSynapse(self.url).register(name)
        self._clients.append(client)
        return client

    def _command(self) -> list[str]:
        return [str(PYTHON), "-m", "synapse.app.homeserver", "-c", str(self._config)]

    def _call(self, *more: str) -> None:
        done = subprocess.run(
            [*self._command(), *more], cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _settings(self) -> dict[str, object]:
        """Federation over loopback with certificates that nobody vouches for, quick to try again; no limits."""
        listener = {"bind_addresses": ["127.0.0.1"], "type": "http", "x_forwarded": False}
        return {
            "server_name": self.name,
            "public_baseurl": f"{self.url}/",
            "pid_file": str(self.folder / "homeserver.pid"),
            "signing_key_path": str(self.folder / "signing.key"),
            "log_config": str(self.folder / "log.yaml"),
            "media_store_path": str(self.folder / "media"),
            "database": {"name": "sqlite3", "args": {"database": str(self.folder / "homeserver.db")}},
            "report_stats": False,
            "macaroon_secret_key": secrets.token_hex(16),
            "form_secret": secrets.token_hex(16),
            "listeners": [
                listener | {"port": self._client_port, "tls": False, "resources": [{"names": ["client"]}]},
                listener
                | {"port": self._federation_port, "tls": True, "resources": [{"names": ["federation", "keys"]}]},
            ],
            "tls_certificate_path": str(self.folder / CERTIFICATE),
            "tls_private_key_path": str(self.folder / KEY),
            "federation_verify_certificates": False,
            "ip_range_blacklist": [],
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "allow_public_rooms_over_federation": True,
            "allow_public_rooms_without_auth": True,
            "federation": {
                "client_timeout": "20s",
                "max_short_retries": 3,
                "max_short_retry_delay": "1s",
                "destination_min_retry_interval": "1s",
                "destination_retry_multiplier": 2,
                "destination_max_retry_interval": "5s",
            },
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "bcrypt_rounds": 4,
            "presence": {"enabled": True},
            "room_list_publication_rules": [{"action": "allow"}],
            "user_directory": {"enabled": True, "search_all_users": True},
            "experimental_features": {"msc3266_enabled": True},
            **_LIMITS,
        }


def _log_settings(file: Path) -> dict[str, object]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(name)s %(levelname)s %(request)s %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "formatter": "line", "filename": str(file)}},
        "root": {"level": "INFO", "handlers": ["file"]},
    }
