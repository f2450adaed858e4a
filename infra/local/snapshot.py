"""The store on disk: a snapshot that is whole or not there.

A table is written again only if it changed; each file has a new name, and one small manifest, replaced in one step,
says which files belong together. The store lock is held while references are collected, not while they are encoded.

    manifest.json                   {"format": 1, "tables": {name: file}, "services": file, "sequence": n,
                                     "streams": {mapping: [record]}, "custom": {logical ID: {...}}}
    <table>.<generation>.jsonl      lists of items, one list a line
    services.<generation>.json      what the emulator's other services hold
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from local.emulator import Emulator

log = logging.getLogger("local")
FORMAT = 1
_CHUNK = 1000  # items encoded in one step, so that other threads get their turn
# Tables have files of their own; executions are threads, which end with the process (local/state_machines.py); mails
# are shown and not kept.
_NOT_HERE = {"dynamodb", "stepfunctions", "ses", "ses_v2"}
_SHARE = 50  # at most one part in so many of the time goes into saving


class SnapshotError(Exception):
    """The folder holds a snapshot that this version cannot read."""


class Snapshots:
    """Saves and loads the emulator's state in one folder.

    `collect` gives what else belongs into the manifest; it is called under the store lock.
    """

    def __init__(self, folder: Path, emulator: Emulator, collect: Callable[[], dict[str, Any]]) -> None:
        self._folder = folder
        self._emulator = emulator
        self._collect = collect
        self._saving = threading.Lock()
        self._manifest: dict[str, Any] = {}
        self._generation = 0
        self._saved: dict[str, int] = {}
        self._saved_others = -1
        self.last_cost = 0.0  # CPU seconds of the last save
        self.last_lock = 0.0  # seconds for which it held the store lock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # ── loading ────────────────────────────────────────────────────────────────────────────────────

    def load(self, progress: Callable[[str], None]) -> dict[str, Any]:
        """Fill the emulator's tables, which exist already, and its services; returns the manifest ({} if none).

        Raises SnapshotError for a manifest of another format.
        """
        path = self._folder / "manifest.json"
        if not path.exists():
            return {}
        manifest: dict[str, Any] = orjson.loads(path.read_bytes())
        if manifest.get("format") != FORMAT:
            raise SnapshotError(f"{path} has format {manifest.get('format')}, not {FORMAT}")
        self._manifest = manifest
        self._generation = manifest["generation"]
        dynamodb = self._emulator.dynamodb
        count = 0
        for name, file in manifest["tables"].items():
            table = dynamodb._tables.get(name)
            if table is None:
                continue  # the template lost this table; its file stays in the manifest
            count += self._fill(table, self._folder / file)
            dynamodb._items_replaced(table)
            self._saved[name] = self._emulator.changes.get(name, 0)
        dynamodb._stream_seq_counter = manifest["sequence"]
        progress(f"{count} items")
        self._load_services(self._folder / manifest["services"])
        return manifest

    def _fill(self, table: dict[str, Any], path: Path) -> int:
        key = self._emulator.dynamodb._extract_key_val
        hash_name, range_name = table["pk_name"], table["sk_name"]
        items = table["items"]
        count = 0
        with path.open("rb") as lines:
            for line in lines:
                for item in orjson.loads(line):
                    sort = key(item[range_name]) if range_name else "__no_sort__"
                    items[key(item[hash_name])][sort] = item
                    count += 1
        return count

    def _load_services(self, path: Path) -> None:
        from ministack.core.persistence import _json_object_hook  # noqa: PLC0415 - after the emulator's settings

        with path.open(encoding="utf-8") as file:
            states = json.load(file, object_hook=_json_object_hook)
        for module, state in states.items():
            self._emulator._app._get_module(module).load_persisted_state(state)

    # ── saving ─────────────────────────────────────────────────────────────────────────────────────

    def start(self, seconds: float) -> None:
        """Save every so often when something changed, more rarely when saving is expensive."""

        def run() -> None:
            pause = seconds
            while not self._stop.wait(pause):
                try:
                    self.save()
                except OSError:
                    log.exception("the store could not be saved; it will be tried again")
                pause = max(seconds, self.last_cost * _SHARE)

        self._thread = threading.Thread(target=run, name="snapshots", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop saving by the clock, after a save that runs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def save(self) -> bool:
        """Write what changed since the last save; False when nothing did. Raises OSError when it cannot."""
        with self._saving:
            started = time.thread_time()
            with self._emulator.lock:
                held = time.perf_counter()
                changes = dict(self._emulator.changes)
                others = self._emulator.other_changes
                if changes == self._saved and others == self._saved_others and self._manifest:
                    return False
                tables = {
                    name: [item for sorted_items in table["items"].values() for item in sorted_items.values()]
                    for name, table in self._emulator.dynamodb._tables.items()
                    if changes.get(name, 0) != self._saved.get(name, 0) or name not in self._manifest.get("tables", {})
                }
                services = None
                if others != self._saved_others or "services" not in self._manifest:
                    services = self._service_states()
                manifest = {"format": FORMAT, "sequence": self._emulator.dynamodb._stream_seq_counter}
                manifest |= orjson.loads(orjson.dumps(self._collect()))
                self.last_lock = time.perf_counter() - held
            self._write(manifest, tables, services)
            self._saved, self._saved_others = changes, others
            self.last_cost = time.thread_time() - started
            return True

    def _service_states(self) -> str:
        from ministack.core.persistence import _json_default  # noqa: PLC0415 - after the emulator's settings

        modules = dict(self._emulator._app._loaded_modules)
        states = {
            name: module.get_state()
            for name, module in modules.items()
            if name not in _NOT_HERE and hasattr(module, "get_state")
        }
        return json.dumps(states, default=_json_default)

    def _write(self, manifest: dict[str, Any], tables: dict[str, list[Any]], services: str | None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._generation += 1
        files = dict(self._manifest.get("tables", {}))
        for name, items in tables.items():
            files[name] = f"{name}.{self._generation}.jsonl"
            with (self._folder / files[name]).open("wb") as file:
                for at in range(0, len(items), _CHUNK):
                    file.write(orjson.dumps(items[at : at + _CHUNK], option=orjson.OPT_APPEND_NEWLINE))
                _settle(file)
        service_file = self._manifest.get("services", "")
        if services is not None:
            service_file = f"services.{self._generation}.json"
            with (self._folder / service_file).open("wb") as file:
                file.write(services.encode())
                _settle(file)
        manifest |= {"generation": self._generation, "tables": files, "services": service_file}
        temporary = self._folder / "manifest.tmp"
        with temporary.open("wb") as file:
            file.write(orjson.dumps(manifest))
            _settle(file)
        temporary.replace(self._folder / "manifest.json")
        self._manifest = manifest
        keep = {*files.values(), service_file, "manifest.json"}
        for path in self._folder.iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)


def _settle(file: Any) -> None:
    """Make sure that the bytes are on the disk before a name points at them."""
    file.flush()
    os.fsync(file.fileno())
