"""One local server: everything the template asks for, started in order and stopped in order."""

import asyncio
import importlib
import importlib.util
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from homeserver.adapters import aws
from local.certificate import CertificatePair, certificate_of
from local.custom_resources import CustomResources
from local.data_dir import DataDir
from local.emulator import Emulator
from local.examples import PATH as EXAMPLE_PATH
from local.examples import example_page
from local.faults import install_crash
from local.gateway import Answer, Gateway
from local.hooks import hook_session, hook_slim_client
from local.invoke import Functions
from local.mail import PATH as MAIL_PATH
from local.mail import CapturedMail
from local.permissions import Recorder
from local.queues import QueueMapping
from local.resources import Resources, environment_of, read_resources
from local.routes import Router
from local.schedules import OneShotSchedules, Schedules
from local.ses import Ses
from local.snapshot import Snapshots
from local.state_machines import StateMachines
from local.streams import StreamMapping
from local.template import ACCOUNT, REGION, Stack, TemplateError, parameters_of

log = logging.getLogger("local")
# A look into an inbox costs no money here, so a waiting /sync may look more often than on AWS.
# Mails are captured, so that there is no reason to have none.
DEFAULTS = {
    "ServerName": "localhost",
    "Registration": "open",
    "LogLevel": "WARNING",
    "SyncPollMs": "20",
    "MailFrom": "eigenserver@localhost",
}
SAVE_SECONDS = 15.0
_STOP_SECONDS = 5.0
_SLIM_CLIENT = "homeserver.adapters.slim_aws"
Say = Callable[[str], None]


class LocalRun:
    """The homeserver on this machine.

    `environ` holds the template's parameters in upper snake case and PORT, BIND_HOST, DATA_DIR, FEDERATION_PORT (with
    TLS_CERT and TLS_KEY, or a pair that is made); in tests also
    UNKIND_SEED, CRASH_AT, CRASH_SAVES, RECORD_PERMISSIONS, SAVE_SECONDS. Making one raises TemplateError, DataDirInUse,
    SnapshotError, CustomResourceError or OSError, each with a message for the operator.
    """

    def __init__(self, template: Path, environ: Mapping[str, str], say: Say) -> None:
        self._say = say
        self._started = time.perf_counter()
        self.data = DataDir(Path(environ.get("DATA_DIR") or ".data").resolve())
        try:
            address = environ.get("BIND_HOST") or "127.0.0.1"
            self._socket = _bound(address, _port("PORT", environ.get("PORT") or "8008"))
            self.host, self.port = self._socket.getsockname()[:2]
            self.url = f"http://{self.host}:{self.port}"
            self._tls = self._secured(address, environ)
            self.stack = Stack(template, parameters_of(template, environ, DEFAULTS), attributes=self._attributes())
            resources = read_resources(self.stack)
            self._build(resources, environ)
        except BaseException:
            # Nothing was served: what the folder says about the run before stays true.
            self.data.close(clean=not self.data.unclean)
            raise

    def _secured(self, address: str, environ: Mapping[str, str]) -> "_Tls | None":
        """The second door, for other servers: the same routes over TLS."""
        if not environ.get("FEDERATION_PORT"):
            return None
        given = environ.get("TLS_CERT"), environ.get("TLS_KEY")
        name = environ.get("SERVER_NAME") or DEFAULTS["ServerName"]
        pair = certificate_of(self.data.path, name, given)
        bound = _bound(address, _port("FEDERATION_PORT", environ["FEDERATION_PORT"]))
        return _Tls(bound, pair, bound.getsockname()[1])

    def _attributes(self) -> dict[tuple[str, str], str]:
        return {
            ("AWS::Serverless::HttpApi", "Ref"): "local",
            ("AWS::Serverless::HttpApi", "ApiEndpoint"): self.url,
        }

    def _build(self, resources: Resources, environ: Mapping[str, str]) -> None:
        os.environ.update(environment_of(resources.functions))
        os.environ.update(
            {
                "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": "local",
                "AWS_SECRET_ACCESS_KEY": "local",
                "AWS_EC2_METADATA_DISABLED": "true",
                "POWERTOOLS_TRACE_DISABLED": "1",
            }
        )
        os.environ.pop("AWS_ENDPOINT_URL", None)
        self.recorder = (
            Recorder(self.data.path / "permissions.json") if environ.get("RECORD_PERMISSIONS") == "1" else None
        )
        seed = environ.get("UNKIND_SEED")
        self.emulator = Emulator(self.data.path, unkind_seed=int(seed) if seed else None, recorder=self.recorder)
        self.functions = Functions(resources.functions)
        self.emulator.invoke = self.functions.answer
        hook_session(aws.session(), self.emulator)
        aws.calls_stay_in_process = True
        if importlib.util.find_spec(_SLIM_CLIENT) is not None:
            hook_slim_client(importlib.import_module(_SLIM_CLIENT), self.emulator)
        self.streams = [StreamMapping(source, self.emulator, self.functions) for source in resources.streams]
        self.queues = [QueueMapping(source, self.emulator, self.functions) for source in resources.queue_sources]
        self.schedules = Schedules(resources.schedules, self.functions)
        self.state_machines = StateMachines(resources.state_machines, self.emulator)
        self.one_shots = OneShotSchedules(resources.schedule_groups, self.emulator)
        self.custom = CustomResources(resources.custom, self.functions)
        self.snapshots = Snapshots(self.data.store, self.emulator, self._collected)
        self.mail = None if environ.get("SMTP_URL") else CapturedMail(self._say)
        if self.mail is not None:
            ses = Ses(self.emulator, self.mail.accept)
            self.emulator.ses = ses.answer
            if sender := str(self.stack.parameters.get("MailFrom", "")):
                ses.verify(sender)
        mail_page = self.mail.page if self.mail is not None else None

        def pages(path: str, client: str, headers: Mapping[str, str]) -> Answer | None:
            return example_page(path, client, headers) or (mail_page(path, client, headers) if mail_page else None)

        self.gateway = Gateway(Router(resources.routes), self.functions, resources.cors, pages=pages)
        self._save_seconds = float(environ.get("SAVE_SECONDS") or SAVE_SECONDS)
        install_crash(environ, self.snapshots.save)
        self._make_resources(resources)
        self._say("loading functions")
        self.functions.load(lambda name: self._say(f"  {name}"))
        if self.custom.apply(unclean_start=self.data.unclean, progress=self._say):
            # The new epoch must be on disk before anybody sees it.
            self.snapshots.save()

    def _make_resources(self, resources: Resources) -> None:
        for table in resources.tables:
            self.emulator.request("dynamodb", "CreateTable", **table)
        for name, attribute in resources.ttl.items():
            specification = {"AttributeName": attribute, "Enabled": True}
            self.emulator.request("dynamodb", "UpdateTimeToLive", TableName=name, TimeToLiveSpecification=specification)
        manifest = self.snapshots.load(lambda what: self._say(f"loaded {what} from {self.data.store}"))
        self._make_queues(resources)
        self.one_shots.make_groups()
        for parameter in resources.parameters:
            self.emulator.request("ssm", "PutParameter", Overwrite=True, **parameter)
        self.custom.known = manifest.get("custom", {})
        for mapping in self.streams:
            self.emulator.on_record.setdefault(mapping.source.table, []).append(mapping.accept)
            with self.emulator.lock:
                for record in manifest.get("streams", {}).get(mapping.key, ()):
                    mapping.accept(record)

    def _make_queues(self, resources: Resources) -> None:
        known = {url.rsplit("/", 1)[-1] for url in self.emulator.request("sqs", "ListQueues").get("QueueUrls", ())}
        for queue in resources.queues:
            if queue["QueueName"] in known:
                url = f"http://localhost:4566/{ACCOUNT}/{queue['QueueName']}"
                attributes = {key: value for key, value in queue["Attributes"].items() if key != "FifoQueue"}
                if attributes:
                    self.emulator.request("sqs", "SetQueueAttributes", QueueUrl=url, Attributes=attributes)
            else:
                self.emulator.request("sqs", "CreateQueue", **queue)

    def _collected(self) -> dict[str, Any]:
        return {
            "streams": {mapping.key: mapping.pending() for mapping in self.streams},
            "custom": self.custom.known,
        }

    # ── running ────────────────────────────────────────────────────────────────────────────────────

    def serve(self) -> None:
        """Serve until SIGINT or SIGTERM, then save and let the folder go."""
        try:
            for mapping in self.streams:
                mapping.start()
            for queue in self.queues:
                queue.start()
            # Heads ahead of their followers, as a crash may leave them, are brought along before anybody asks.
            self.schedules.run_all()
            self.schedules.start()
            self.one_shots.start()
            self.snapshots.start(self._save_seconds)
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve_http())
        finally:
            self.stop()

    async def _serve_http(self) -> None:
        loop = asyncio.get_running_loop()
        doors = [(self._uvicorn(), self._socket)]
        if self._tls is not None:
            doors.append((self._uvicorn(self._tls.pair), self._tls.socket))

        def leave(name: str) -> None:
            for server, _ in doors:
                server.should_exit = True
            self._say(f"{name}: stopping")

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, leave, signal.Signals(number).name)
        for _, bound in doors:
            bound.listen(1024)
        self._greet()
        await asyncio.gather(*(server.serve(sockets=[bound]) for server, bound in doors))

    def _uvicorn(self, pair: CertificatePair | None = None) -> uvicorn.Server:
        server = uvicorn.Server(
            uvicorn.Config(
                self.gateway,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=2,
                timeout_keep_alive=75,
                server_header=False,
                ssl_certfile=pair.certificate if pair else None,
                ssl_keyfile=pair.key if pair else None,
            )
        )
        # uvicorn's own handlers would raise the signal again after the end, before anything is saved.
        server.capture_signals = _no_signals  # type: ignore[method-assign]  # the documented way is to subclass for it
        return server

    def stop(self) -> None:
        """Stop everything, save, and say so."""
        self.gateway.stop()
        self.schedules.stop(_STOP_SECONDS)
        self.one_shots.stop(_STOP_SECONDS)
        for mapping in self.streams:
            mapping.stop(_STOP_SECONDS)
        for queue in self.queues:
            queue.stop(_STOP_SECONDS)
        self.functions.stop(_STOP_SECONDS)
        self.snapshots.stop()
        self.snapshots.save()
        if self.recorder is not None:
            self.recorder.write()
        self.data.close(clean=True)
        self._say(f"saved to {self.data.store}")

    def _greet(self) -> None:
        name = self.stack.parameters.get("ServerName", "")
        self._say(
            f"Eigenserver serves {name or 'its API'} on {self.url} "
            f"(ready after {time.perf_counter() - self._started:.1f} s)\n"
            f"  data in {self.data.path}; Ctrl-C saves and stops\n"
            f"  try: curl {self.url}/_matrix/client/versions\n"
            f"  a client of 2014, as an example: {self.url}{EXAMPLE_PATH}"
        )
        if self.mail is not None:
            self._say(f"  mails that it sends: here, and on {self.url}{MAIL_PATH}")
        if self._tls is not None:
            certificate = self._tls.pair.certificate
            self._say(f"  for other servers: https://{self.host}:{self._tls.port}, certificate {certificate}")
        self._say(f"listening on {self.url}")


@dataclass(frozen=True, slots=True)
class _Tls:
    socket: socket.socket
    pair: CertificatePair
    port: int


class _NoSignals:
    def __enter__(self) -> None:
        """Leave the signals to the local run."""

    def __exit__(self, *_: object) -> None:
        """Nothing to give back."""


def _no_signals() -> Any:
    return _NoSignals()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop where it is installed: it costs less per request."""
    try:
        import uvloop  # noqa: PLC0415 - it may be absent
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _port(variable: str, text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise TemplateError(f"{variable} is {text!r}; it must be a number from 0 (any free port) to 65535")
    return int(text)


def _bound(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: nobody connects before all is ready."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(f"{host}:{port} cannot be used: {error.strerror}") from error
    bound.setblocking(False)
    return bound
